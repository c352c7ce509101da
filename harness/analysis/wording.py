"""Numbers and verdicts as words, the same in verdicts.json, the report and at the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def decimals(value: float) -> int:
    """Decimals that suit a metric of this size: 0.953, 12.34, 1234.5."""
    size = abs(value)
    return 3 if size < 10 else 2 if size < 1000 else 1


def fixed(value: float | None, like: float | None = None, signed: bool = False) -> str:
    """A score; with as many decimals as suit `like` (default: itself)."""
    if value is None:
        return "—"
    if value != 0 and abs(value) < 0.0005 and (like is None or abs(like) < 0.0005):
        return f"{value:+.1e}" if signed else f"{value:.1e}"
    places = decimals(value if like is None else like)
    text = f"{value:+.{places}f}" if signed and value else f"{value:.{places}f}"
    return text.replace("-", "−")


def score(entry: Mapping[str, Any]) -> str:
    """`0.953 ± 0.012 (n=5)`: mean, half of its 95 % interval where there is one, finished seeds."""
    if entry["mean"] is None:
        return f"— (n={entry['n']})"
    text = fixed(entry["mean"])
    if entry["ci"] is not None:
        text += f" ± {fixed((entry['ci'][1] - entry['ci'][0]) / 2, like=entry['mean'])}"
    return f"{text} (n={entry['n']})"


def missed_margins(verdicts: Mapping[str, Any]) -> list[str]:
    """A sentence for each task whose leader does not beat the constant predictor by the task's margin."""
    return [
        f"{key}: {task['leader'] or 'no strategy'} does not beat the constant predictor ({task['primary']} "
        f"{fixed(task['constant'])}) by the margin of {task['margin']:g} that the sweep asks for."
        for key, task in verdicts["tasks"].items()
        if task["margin_met"] is False
    ]


def names(values: Sequence[str], most: int = 3) -> str:
    """`a`, `a and b`, `a, b and 4 others`."""
    shown = list(values[:most])
    rest = len(values) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} other{'s' if rest > 1 else ''}"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def counts(values: Mapping[str, int]) -> str:
    """`2 diverged, 1 failed`, without what did not occur."""
    return ", ".join(f"{count} {name}" for name, count in values.items() if count)


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return "—"
    if value < 120:
        return f"{value:.3g} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def quantity(value: float | None, unit: str = "") -> str:
    """A count with an SI prefix: 22.7 M."""
    if value is None:
        return "—"
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def settings(hyperparameters: Mapping[str, Any] | None) -> str:
    """`learning_rate=0.0001, freeze=all`."""
    if hyperparameters is None:
        return "—"
    if not hyperparameters:
        return "nothing to tune"
    return ", ".join(
        f"{axis}={value:g}" if isinstance(value, float) else f"{axis}={value}"
        for axis, value in sorted(hyperparameters.items())
    )


def pair(verdict: Mapping[str, Any], a: str, b: str) -> dict[str, Any] | None:
    """The comparison of `a` with `b` from a's side, or None if they were not compared."""
    for comparison in verdict["comparisons"]:
        if (comparison["a"], comparison["b"]) == (a, b):
            return dict(comparison)
        if (comparison["a"], comparison["b"]) == (b, a):
            return flipped(comparison)
    return None


def flipped(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The same comparison seen from the other side."""
    mirror = {"better": "worse", "worse": "better"}
    difference, ci, p = comparison["difference"], comparison["ci"], comparison["p_better"]
    return {
        **comparison,
        "a": comparison["b"],
        "b": comparison["a"],
        "difference": None if difference is None else 0.0 - difference,
        "ci": None if ci is None else [0.0 - ci[1], 0.0 - ci[0]],
        "p_better": None if p is None else 1.0 - p,
        "verdict": mirror.get(comparison["verdict"], comparison["verdict"]),
    }


def verdict_word(comparison: Mapping[str, Any] | None) -> str:
    """`better (negligible, exploratory)`."""
    if comparison is None:
        return "not compared"
    extra = [label for label in ("negligible", "exploratory") if comparison[label]]
    if comparison["n"] == 0:
        extra.append("no seeds shared")
    return str(comparison["verdict"]) + (f" ({', '.join(extra)})" if extra else "")


def sentence(key: str, verdict: Mapping[str, Any]) -> str:
    """The one plain sentence for a task: who leads, how surely, and what to take."""
    scores, leader, split = verdict["scores"], verdict["leader"], verdict["split"]
    missing = verdict["coverage"]["missing"]
    partial = f" So far: {missing} of {verdict['coverage']['planned']} runs are missing." if missing else ""
    if leader is None:
        return f"{key}: undetermined, no strategy has a {split} score{' yet' if missing else ''}.{partial}"
    metric = verdict["primary"] if split == "test" else f"validation {verdict['primary']} (no confirm phase)"
    others = [name for name in scores if name != leader]
    if not others:
        return f"{key}: {leader}, the only strategy, has {metric} {score(scores[leader])}.{partial}"
    doubts = _doubts(verdict, others)
    verb = "leads" if doubts else "wins"
    text = f"{key}: {leader} {verb} with {metric} {score(scores[leader])}"
    if doubts:
        text += f", but {'; '.join(doubts)}"
    text += "; " + _recommendation(verdict)
    if verdict["raced_out"]:
        text += f"; {raced_out(verdict)}"
    compared = [pair(verdict, leader, name) for name in others]
    if any(c is not None and c["exploratory"] for c in compared):
        text += f" (exploratory: {min(c['n'] for c in compared if c and c['exploratory'])} paired seeds)"
    return f"{text}.{_unlearned(verdict)}{_imputation(verdict)}{partial}"


def _unlearned(verdict: Mapping[str, Any]) -> str:
    """Whether even the leader may be no better than an answer that looks at no input."""
    constant, ci = verdict["constant"], verdict["scores"][verdict["leader"]]["ci"]
    if constant is None or ci is None:
        return ""
    beyond = constant < ci[0] if verdict["direction"] == "max" else constant > ci[1]
    if beyond:
        return ""
    said = f"The constant predictor has {fixed(constant)}, which the leader is not known to beat"
    return f" {said}: nothing may have been learned."


def _imputation(verdict: Mapping[str, Any]) -> str:
    """What the runs that diverged mean for the verdict."""
    sensitivity = verdict["sensitivity"]
    imputed = {name: len(entry["imputed"]) for name, entry in verdict["scores"].items() if entry["imputed"]}
    if not imputed or sensitivity is None:
        lost = {name: entry["failures"].get("diverged", 0) for name, entry in verdict["scores"].items()}
        if not any(lost.values()):
            return ""
        listed = names([f"{name} ({count})" for name, count in lost.items() if count])
        return f" Diverged runs are left out, since no constant predictor is known: {listed}."
    listed = names([f"{name} ({count})" for name, count in imputed.items()])
    text = f" Diverged runs count as the constant predictor: {listed}"
    if "leader" in sensitivity["changed"]:
        return f"{text}; left out, {sensitivity['leader'] or 'nobody'} would lead."
    if "recommended" in sensitivity["changed"]:
        return f"{text}; left out, {sensitivity['recommended']} would be recommended."
    if sensitivity["changed"]:
        return f"{text}; left out, the tie set would be {names(sensitivity['tie_set'], 9)}."
    return f"{text}; left out, nothing changes."


def span(counts: Sequence[int]) -> str:
    """`5`, or `3 to 5`, of sorted numbers."""
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def examples(task: Mapping[str, Any], split: str) -> str:
    """`n test = 500 examples`, of a task in a plan."""
    size = task["splits"].get(split)
    return f"n {split} is not known" if size is None else f"n {split} = {size} examples"


def intervals(entries: Iterable[Mapping[str, Any]]) -> str:
    """What the 95 % intervals of these scores or comparisons are, and what they generalise over."""
    known = {bool(entry["examples"]) for entry in entries if entry["ci"] is not None}
    both = "95 % interval, seeds and examples crossed"
    seeds = "95 % Student-t interval over seeds"
    if known == {True}:
        return f"{both} (generalises over seeds and over examples like these)"
    if known == {True, False}:
        return f"{both}, or {seeds} alone where examples are not recorded"
    return f"{seeds} (generalises over seeds only, not over other examples)"


def out_of_the_race(why: Mapping[str, Any]) -> str:
    """`0.213 behind full on validation over 5 seeds; its chance of a place in the tie set is 0.0012`."""
    return (
        f"{fixed(why['difference'])} behind {why['leader']} on validation over {why['n']} seeds; its chance "
        f"of a place in the tie set is {_chance(why['chance'])}"
    )


def _chance(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def raced_out(verdict: Mapping[str, Any]) -> str:
    """`a and b were raced out after 21 and 22 trials`."""
    listed = list(verdict["raced_out"])
    counts_ = [str(verdict["raced_out"][name]["trials"]) for name in listed]
    verb = "was" if len(listed) == 1 else "were"
    return f"{names(listed, 99)} {verb} raced out after {names(counts_, 99)} trials"


def _doubts(verdict: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    """What keeps the leader from being the plain winner, grouped by reason."""
    groups: dict[str, list[str]] = {}
    for name in others:
        comparison = pair(verdict, verdict["leader"], name)
        if name in verdict["raced_out"]:
            reason = "beaten"
        elif comparison is None or verdict["scores"][name]["n"] == 0:
            reason = "unscored"
        elif comparison["n"] < 3:
            reason = "few"
        elif comparison["verdict"] == "better":
            reason = "negligible" if comparison["negligible"] else "beaten"
        else:
            reason = str(comparison["verdict"])
        groups.setdefault(reason, []).append(name)
    delta = f"±{verdict['delta']:g}"
    phrases = {
        "few": "with fewer than 3 paired seeds it is undetermined whether it beats {}",
        "undetermined": "{} {is} not worse beyond doubt (undetermined)",
        "equivalent": "{} {is} equivalent within " + delta,
        "negligible": "its lead over {} is negligible (within " + delta + ")",
        "worse": "{} {is} better on the seeds they share",
        "unscored": "{} {has} no score",
    }
    found = []
    for reason, phrase in phrases.items():
        if listed := groups.get(reason):
            one = len(listed) == 1
            text = phrase.replace("{is}", "is" if one else "are").replace("{has}", "has" if one else "have")
            found.append(text.replace("{}", names(listed), 1))
    return found


def _recommendation(verdict: Mapping[str, Any]) -> str:
    scores, leader, recommended = verdict["scores"], verdict["leader"], verdict["recommended"]
    others = [pair(verdict, leader, name) for name in verdict["tie_set"] if name != leader]
    few = recommended == leader and any(other is None or other["n"] < 3 for other in others)
    text = f"{'recommended for its mean alone' if few else 'recommended'}: {recommended}"
    failures = scores[recommended]["failures"]
    if recommended != leader:
        ours, theirs = (scores[name][f"cost_{verdict['priced']}"] for name in (recommended, leader))
        unit = {"flops": "FLOPs", "device_s": "device time"}[verdict["priced"]]
        if theirs:
            text += f", which costs {100 * ours / theirs:.0f} % of {leader} in {unit}"
    elif others and not few:
        text += ", also the cheapest" if verdict["priced"] else ", as costs are not known"
    if failures:
        text += f", though of its runs {counts(failures)}"
    return text
