"""From files to verdicts."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_fixtures import Sweep, change, put, typical

from harness.analysis import cells, wording
from harness.analysis.study import load_study
from harness.analysis.verdicts import judge
from harness.errors import InputError

STRATEGIES = ["alpha", "beta", "gamma"]
# Multiples of 1/1024 stay exact under the sums below, so that only the statistics are tested.
SCORE = st.integers(256, 768).map(lambda n: n / 1024)
TASK = st.integers(1, 5).flatmap(
    lambda n: st.fixed_dictionaries({s: st.lists(SCORE, min_size=n, max_size=n) for s in STRATEGIES})
)
quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def _lighter_collections() -> Iterator[None]:
    """statsmodels collects garbage in every call, which takes long in a process full of imports."""
    gc.freeze()
    yield
    gc.unfreeze()


def judged(sweep: Sweep) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return judge(load_study(sweep.write(Path(folder))))


def words(task: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Every pair's verdict, from both sides."""
    return {
        (c["a"], c["b"]): (c["verdict"], c["negligible"])
        for pair in task["comparisons"]
        for c in (pair, wording.flipped(pair))
    }


def one(scores: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    task: dict[str, Any] = judged(Sweep({"t": scores}, **more))["tasks"]["t"]
    return task


@quick
@given(TASK, st.permutations(STRATEGIES))
def test_relabelling_strategies_relabels_verdicts(scores: dict[str, list[float]], names: list[str]) -> None:
    rename = dict(zip(STRATEGIES, names, strict=True))
    before, after = one(scores), one({rename[s]: values for s, values in scores.items()})
    assert {(rename[a], rename[b]): word for (a, b), word in words(before).items()} == words(after)
    means = [entry["mean"] for entry in before["scores"].values()]
    if len(set(means)) == len(means):  # equal means and costs are told apart by name alone
        assert rename[before["leader"]] == after["leader"]
        assert {rename[s] for s in before["tie_set"]} == set(after["tie_set"])


@quick
@given(TASK, st.integers(-256, 1024), st.booleans())
def test_adding_a_constant_changes_no_verdict(scores: dict[str, list[float]], shift: int, less: bool) -> None:
    more = {"directions": {"t": "min" if less else "max"}}
    before = one(scores, **more)
    after = one({s: [v + shift / 1024 for v in values] for s, values in scores.items()}, **more)
    for field in ("leader", "tie_set", "recommended", "comparisons", "seeds"):
        assert before[field] == after[field]


@quick
@given(TASK, st.permutations(STRATEGIES))
def test_a_dominated_strategy_never_leads(scores: dict[str, list[float]], order: list[str]) -> None:
    worst = [min(values) - 0.1 for values in zip(*scores.values(), strict=True)]
    assert one({**{s: scores[s] for s in order}, "worst": worst})["leader"] != "worst"
    best = [max(values) + 0.1 for values in zip(*scores.values(), strict=True)]
    assert one({**scores, "best": best}, directions={"t": "min"})["leader"] != "best"


@quick
@given(TASK, TASK, st.permutations(STRATEGIES), st.booleans())
def test_the_order_of_records_does_not_matter(
    first: dict[str, list[float]], second: dict[str, list[float]], order: list[str], swap: bool
) -> None:
    """Another order of tasks and strategies writes other files in another order."""
    tasks = [("t", first), ("u", second)]
    before = judged(Sweep(dict(tasks), confirm=5))
    after = judged(Sweep({k: {s: v[s] for s in order} for k, v in tasks[:: -1 if swap else 1]}, confirm=5))
    for key in ("t", "u"):
        a, b = before["tasks"][key], after["tasks"][key]
        assert words(a) == words(b)
        assert (a["leader"], sorted(a["tie_set"]), a["recommended"]) == (
            b["leader"],
            sorted(b["tie_set"]),
            b["recommended"],
        )


@quick
@given(TASK)
def test_leader_is_in_the_tie_set_and_every_pair_is_compared_once(scores: dict[str, list[float]]) -> None:
    task = one(scores)
    assert task["leader"] in task["tie_set"] and task["recommended"] in task["tie_set"]
    assert len({frozenset((c["a"], c["b"])) for c in task["comparisons"]}) == len(task["comparisons"]) == 3
    assert task["seeds"] == len(scores["alpha"])
    json.dumps(task, allow_nan=False)
    if task["seeds"] < 3:
        assert {c["verdict"] for c in task["comparisons"]} == {"undetermined"}
        assert all(c["ci"] is None and c["p_adjusted"] is None for c in task["comparisons"])
        assert "undetermined" in task["sentence"]


def test_typical_sweep(tmp_path: Path) -> None:
    verdicts = judge(load_study(typical().write(tmp_path)))
    assert verdicts["format"] == 1 and verdicts["complete"]
    bbc = verdicts["tasks"]["bbc-topics"]
    assert bbc["split"] == "test" and bbc["baseline"] == "full" and bbc["seeds"] == 5
    assert words(bbc)["head-only", "full"] == ("worse", False)
    assert words(bbc)["full-l2sp", "full"] == ("equivalent", False)  # the same scores under two names
    assert bbc["leader"] == "full"  # equal means: the cheaper
    assert "head-only" not in bbc["tie_set"]
    assert bbc["recommended"] == "top-2"
    assert bbc["sentence"] == (
        "bbc-topics: full leads with accuracy 0.951 ± 0.006 (n=5), but top-2 is not worse beyond doubt "
        "(undetermined); full-l2sp is equivalent within ±0.01; recommended: top-2, which costs 40 % of full "
        "in FLOPs (exploratory: 5 paired seeds)."
    )
    tweets = verdicts["tasks"]["tweet-sentiment"]
    assert tweets["failures"] == {"diverged": 1, "infeasible": 0, "failed": 0}
    assert tweets["seeds"] == 4
    full = tweets["scores"]["full"]
    assert full["n"] == 4 and list(full["per_seed"]) == ["100", "101", "103", "104"]
    assert full["failures"] == {"diverged": 1}
    assert {c["n"] for c in tweets["comparisons"] if "full" in (c["a"], c["b"])} == {4}
    assert tweets["coverage"] == {"planned": 32, "finished": 31, "missing": 0, "stopped": 0}


def test_better_but_negligible_stays_in_the_tie_set() -> None:
    base = [0.5, 0.6, 0.7, 0.55, 0.65, 0.61]
    task = one(
        {"a": base, "b": [v + 0.004 + d for v, d in zip(base, [0, 1e-4, -1e-4, 0, 1e-4, 0], strict=True)]}
    )
    assert words(task)["b", "a"] == ("better", True)
    assert task["leader"] == "b" and set(task["tie_set"]) == {"a", "b"}
    assert "negligible" in task["sentence"]


def test_holm_runs_over_all_tasks() -> None:
    pair = {"a": [0.5, 0.51, 0.52, 0.50], "b": [0.53, 0.56, 0.54, 0.53]}
    alone = judged(Sweep({"t": pair}))["tasks"]["t"]["comparisons"][0]
    same = {"a": [0.5] * 4, "b": [0.5] * 4}
    among = judged(Sweep({"t": pair, **{f"u{i}": same for i in range(3)}}))["tasks"]["t"]["comparisons"][0]
    assert alone["p"] == among["p"]
    assert among["p_adjusted"] == pytest.approx(4 * alone["p_adjusted"])


def test_a_constant_lead_is_no_proof_with_few_seeds() -> None:
    task = one({"a": [0.5, 0.6, 0.7], "b": [0.7, 0.8, 0.9]})
    assert task["comparisons"][0]["p"] == 0.25
    assert words(task)["b", "a"] == ("undetermined", False)


def test_less_is_better() -> None:
    task = one({"a": [0.5, 0.51, 0.49, 0.5], "b": [0.3, 0.31, 0.32, 0.29]}, directions={"t": "min"})
    assert task["leader"] == "b" == task["recommended"]
    assert words(task)["b", "a"] == ("better", False)
    comparison = task["comparisons"][0]
    assert comparison["difference"] > 0 and comparison["verdict"] == "worse" and comparison["p_better"] == 0.0
    assert task["sentence"].startswith("t: b wins with accuracy 0.305")


def test_without_confirm_phase_validation_is_shown_and_said() -> None:
    task = one({"a": [0.8, 0.81, 0.82], "b": [0.9, 0.92, 0.91]}, confirm=0)
    assert task["split"] == "validation" and task["seeds"] == 3
    assert task["scores"]["b"]["per_seed"] == {"0": 0.9, "1": 0.92, "2": 0.91}
    assert "validation accuracy (no confirm phase)" in task["sentence"]


def test_without_confirm_phase_an_open_cell_shows_its_best_so_far(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8]}}, confirm=0).write(tmp_path)
    change(paths.cell("c0000"), winner=None, state="tuning")
    verdicts = judge(load_study(paths))
    assert verdicts["tasks"]["t"]["scores"]["a"]["mean"] == 0.8
    assert not verdicts["complete"]


def test_nothing_has_a_score() -> None:
    task = one({"a": ["diverged"] * 3, "b": ["infeasible"] * 3})
    assert task["leader"] is None and task["recommended"] is None and task["tie_set"] == []
    assert task["failures"] == {"diverged": 3, "infeasible": 3, "failed": 0}
    assert task["sentence"] == "t: undetermined, no strategy has a test score."


def test_a_strategy_without_score_is_never_recommended() -> None:
    task = one({"head-only": ["diverged"] * 3, "full": [0.8, 0.82, 0.81]})
    assert task["tie_set"] == ["full"] and task["recommended"] == "full"
    assert "head-only has no score" in task["sentence"]


def test_cost_does_not_decide_where_nothing_could_be_compared() -> None:
    """The cheaper strategy may be at chance: with one seed each, the better mean is the better guess."""
    task = one({"head-only": [0.24], "full": [0.84]})
    assert task["tie_set"] == ["head-only", "full"] and task["leader"] == "full" == task["recommended"]
    assert task["sentence"].endswith("recommended for its mean alone: full.")


def test_a_failing_recommendation_says_so() -> None:
    task = one({"head-only": [0.8, 0.81, 0.82, "diverged"], "full": [0.8, 0.81, 0.83, 0.82]})
    assert task["recommended"] == "head-only" and "though of its runs 1 diverged" in task["sentence"]


def test_several_backbones_have_their_own_verdicts() -> None:
    verdicts = judged(Sweep({"t": {"a": [0.8, 0.9, 0.7]}}, backbones=("x", "y")))
    assert list(verdicts["tasks"]) == ["t @ x", "t @ y"]


def test_unfinished_sweep(tmp_path: Path) -> None:
    paths = typical().write(tmp_path)
    paths.cell("c0007").unlink()
    paths.trial("c0000-confirm-0001").unlink()
    paths.trial("c0000-confirm-0002").write_text('{"status": "finis')
    paths.trial("c0000-confirm-0003").write_text("[1]")
    change(paths.trial("c0000-confirm-0004"), status="exploded")
    put(paths.trials / "of-another-plan.json", {})
    study = load_study(paths)
    assert study.unfinished == ("c0007",) and study.unused == 1 + 8
    assert [line.split(":")[0] for line in study.unreadable] == [
        f"trials/c0000-confirm-000{i}.json" for i in (2, 3, 4)
    ]
    verdicts = judge(study)
    assert not verdicts["complete"]
    assert verdicts["tasks"]["bbc-topics"]["coverage"] == {
        "planned": 32,
        "finished": 28,
        "missing": 4,
        "stopped": 0,
    }
    assert verdicts["tasks"]["tweet-sentiment"]["coverage"]["missing"] == 8
    assert "4 of 32 runs are missing" in verdicts["tasks"]["bbc-topics"]["sentence"]


@pytest.mark.parametrize(
    "damage",
    [
        {"metrics": [1]},
        {"metrics": {"test": 3}},
        {"cost": "free"},
        {"drift": [1]},
        {"provenance": 3},
        {"status": None},
        {"trial_id": "another"},
    ],
)
def test_odd_records_are_named_not_fatal(tmp_path: Path, damage: dict[str, Any]) -> None:
    paths = Sweep({"t": {"a": [0.8, 0.9, 0.7]}}).write(tmp_path)
    change(paths.trial("c0000-confirm-0001"), **damage)
    study = load_study(paths)
    assert study.unreadable[0].startswith("trials/c0000-confirm-0001.json: ")
    assert judge(study)["tasks"]["t"]["scores"]["a"]["n"] == 2


def test_a_score_that_is_no_number_is_no_score(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8, float("nan"), float("inf"), 0.6]}}).write(tmp_path)
    task = judge(load_study(paths))["tasks"]["t"]
    assert task["scores"]["a"]["per_seed"] == {"100": 0.8, "103": 0.6}


def test_stopped_trials_score_nothing_and_count_as_stopped(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8, 0.9, 0.7]}}).write(tmp_path)
    change(paths.trial("c0000-tune-0001"), status="stopped")  # the winner's own tune trial
    study = load_study(paths)
    assert judge(study)["tasks"]["t"]["coverage"]["stopped"] == 1
    summary = cells.summarize(study, study.arenas()[0])["a"]
    assert summary.best_validation is None and summary.optimism is None


def test_one_trial_may_serve_several_cells(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8, 0.9, 0.7], "b": [0.1, 0.2, 0.3]}}).write(tmp_path)
    stored = json.loads(paths.cell("c0000").read_text())
    change(paths.cell("c0001"), confirm=stored["confirm"])
    study = load_study(paths)
    assert len(study.frame) == 12 and study.unused == 3
    task = judge(study)["tasks"]["t"]
    assert words(task)["a", "b"] == ("equivalent", False)


def test_frame_has_the_promised_columns(tmp_path: Path) -> None:
    paths = typical().write(tmp_path)
    change(paths.trial("c0000-tune-0000"), hyperparameters={"ignored": 1})
    stored = json.loads(paths.cell("c0000").read_text())
    stored["tune"][0]["hyperparameters"]["freeze"] = "all"
    stored["tune"][1]["hyperparameters"]["freeze"] = 5
    put(paths.cell("c0000"), stored)
    frame = load_study(paths).frame
    assert len(frame) == 2 * 4 * (3 + 5)
    promised = {
        "cell",
        "task",
        "backbone",
        "strategy",
        "phase",
        "seed",
        "trial_id",
        "status",
        "score_validation",
    }
    promised |= {
        "score_test",
        "wall_s",
        "device_s",
        "flops",
        "trainable_params",
        "hp.learning_rate",
        "hp.freeze",
    }
    assert promised <= set(frame.columns)
    assert "strategy.freeze" in frame.columns and "strategy.optimizer.learning_rate" not in frame.columns
    assert set(frame["hp.freeze"].dropna()) == {"all", "5"}
    frame.to_parquet(tmp_path / "x.parquet")


def test_optimism_edges_and_budgets(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8, 0.9, 0.7], "b": [0.8, 0.7, 0.6]}}, winner=2).write(tmp_path)
    plan = json.loads(paths.plan.read_text())
    plan["cells"][0]["budget"] = 7
    put(paths.plan, plan)
    study = load_study(paths)
    summary = cells.summarize(study, study.arenas()[0])["a"]
    assert summary.optimism == pytest.approx(0.9 - (0.8 - 0.005))
    warnings = judge(study)["tasks"]["t"]["warnings"]
    assert warnings[0].startswith("unequal tuning budgets (trials: a 7, b 3)")
    assert warnings[1].startswith("a: learning_rate = 0.0005 is the highest of its space")


@pytest.mark.parametrize(
    ("space", "value", "warned"),
    [
        ({"grid": [0.1, 1.0]}, 1.0, True),
        ({"grid": [1, 0.1, 0.01]}, 0.1, False),
        ({"grid": [0.0, 0.1, 1.0]}, 0.0, False),  # nothing lies beyond "none"
        ({"grid": [0.1]}, 0.1, False),
        ({"grid": [5, "all"]}, 5, False),
        ({"choice": [1, 2, 3]}, 3, False),
        ({"int": [1, 8]}, 8, True),
        ({"uniform": [0.0, 1.0]}, 0.995, True),
        ({"uniform": [0.0, 1.0]}, 0.9, False),
        ({"loguniform": [1e-5, 1e-3]}, 1.02e-5, True),
        ({"loguniform": [1e-5, 1e-3]}, 1e-4, False),
        ({"grid": [0.1, 1.0]}, None, False),
    ],
)
def test_edges(space: dict[str, Any], value: Any, warned: bool) -> None:
    assert bool(cells.edges({"x": space}, {"x": value})) is warned


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"format": 2}', '{"format": 1}'])
def test_a_folder_without_usable_plan_is_a_user_error(tmp_path: Path, content: str | None) -> None:
    paths = Sweep({"t": {"a": [0.8]}}).write(tmp_path)
    if content is None:
        paths.plan.unlink()
    else:
        paths.plan.write_text(content)
    with pytest.raises(InputError, match=r"plan\.json"):
        load_study(paths)
