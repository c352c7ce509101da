"""What to do next, in words and as a command that does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.analysis import stats, wording
from harness.analysis.study import Study

_MANY = 30
"""More seeds than anybody runs: no command is given."""

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
    pairs = [wording.pair(verdict, verdict["leader"], name) for name in verdict["scores"]]
    shared = [pair["n"] for pair in pairs if pair is not None]
    if shared and max(shared) < stats.MIN_SEEDS:
        seeds = max(_SEEDS, study.confirm_seeds + 1)
        text = f"Fewer than {stats.MIN_SEEDS} shared seeds allow no claim: confirm on {seeds}."
        return [_step(text, study, f"seeds.confirm={seeds}")]
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
            f"{seeds} seeds would be needed to separate {leader} and {name} in four of five cases, if the "
            "difference is what it seems to be"
        )
        more = [f"{other} ({count})" for count, other in needed[1:]]
        text += f"; for {wording.names(more)} more." if more else "."
        step = _step(text, study, f"seeds.confirm={seeds}")
        found.append(step if seeds <= _MANY else {**step, "command": None})
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
