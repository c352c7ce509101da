"""What to do next, in words and as a command that does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.analysis import stats, wording
from harness.analysis.study import Study

_SEEDS = 5
"""To confirm with where there are too few for any interval."""


def advise(verdict: Mapping[str, Any], study: Study) -> list[dict[str, Any]]:
    """Steps that would make a task's verdict firmer, each a `text` and a `command` (None where there is
    none), most telling first."""
    if verdict["coverage"]["missing"]:
        return [_step("Run what is missing.", study)]
    if verdict["leader"] is None:
        return []
    if not study.confirm_seeds:
        text = f"There is no confirm phase: confirm the winners on {_SEEDS} fresh seeds and on test."
        return [_step(text, study, f"seeds.confirm={_SEEDS}")]
    if len(verdict["scores"]) > 1 and verdict["seeds"] < stats.MIN_SEEDS:
        text = f"Fewer than {stats.MIN_SEEDS} shared seeds allow no claim: confirm on {_SEEDS}."
        return [_step(text, study, f"seeds.confirm={max(_SEEDS, study.confirm_seeds + 1)}")]
    return _separation(verdict, study)


def _separation(verdict: Mapping[str, Any], study: Study) -> list[dict[str, Any]]:
    """What would tell the leader from those that it does not beat."""
    leader = verdict["leader"]
    rivals = [wording.pair(verdict, leader, name) for name in verdict["tie_set"] if name != leader]
    open_ = [rival for rival in rivals if rival is not None and rival["verdict"] == "undetermined"]
    needed = sorted(
        (rival["seeds_needed"], rival["b"]) for rival in open_ if rival["seeds_needed"] is not None
    )
    found = []
    if needed:
        seeds, name = needed[0]
        text = (
            f"{seeds} seeds would be needed to separate {leader} and {name}, if their difference "
            "and its spread stay as they are"
        )
        more = [f"{other} ({count})" for count, other in needed[1:]]
        text += f"; for {wording.names(more)} more." if more else "."
        found.append(_step(text, study, f"seeds.confirm={seeds}"))
    beyond = [rival["b"] for rival in open_ if rival["seeds_needed"] is None]
    if beyond:
        examples = max(rival["examples"] for rival in open_)
        limit = f"the {examples} test examples are too few" if examples else "the difference is too small"
        text = f"More seeds will hardly separate {leader} and {wording.names(beyond)}: {limit}."
        found.append({"text": text, "command": None})
    return found


def _step(text: str, study: Study, change: str | None = None) -> dict[str, Any]:
    command = study.again
    if command is not None and change is not None:
        command += f" --set {change}"
    return {"text": text, "command": command}
