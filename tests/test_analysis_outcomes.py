"""Verdicts over seeds and examples, diverged runs, and what is said over all tasks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opda.nonparametric import EmpiricalDistribution
from report_fixtures import Sweep, put
from scipy import stats as oracle

from harness.analysis import across, budget, wording
from harness.analysis.cells import Configuration
from harness.analysis.crossed import by_seed
from harness.analysis.importance import MAX_CONFIGURATIONS, importance
from harness.analysis.study import load_study
from harness.analysis.verdicts import judge

quick = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCORES = st.lists(st.integers(120, 190).map(lambda n: n / 200), min_size=3, max_size=5)


def judged(sweep: Sweep) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return judge(load_study(sweep.write(Path(folder))))


def one(scores: Any, **more: Any) -> dict[str, Any]:
    task: dict[str, Any] = judged(Sweep({"t": scores}, **more))["tasks"]["t"]
    return task


# -- seeds and examples ------------------------------------------------------------------------------

APART = {"a": [0.86, 0.87, 0.865, 0.86, 0.87, 0.865], "b": [0.84, 0.85, 0.845, 0.84, 0.85, 0.84]}


def test_few_examples_make_a_steady_lead_unsure() -> None:
    """Two points on every seed: sure on these very examples, and on many like them, not on 200."""
    seeds_only = one(APART)["comparisons"][0]
    few = one(APART, examples=200)["comparisons"][0]
    many = one(APART, examples=20_000)["comparisons"][0]
    assert [c["verdict"] for c in (seeds_only, few, many)] == ["better", "undetermined", "better"]
    assert [c["examples"] for c in (seeds_only, few, many)] == [0, 200, 20_000]
    assert few["difference"] == pytest.approx(seeds_only["difference"], abs=0.003)
    assert few["variance"]["seeds"] < 0.5 < few["variance"]["examples"] + few["variance"]["both"]
    assert sum(few["variance"].values()) == pytest.approx(1)
    assert few["detectable"] > abs(few["difference"]) > many["detectable"]


def test_old_records_without_examples_are_compared_by_their_scores(tmp_path: Path) -> None:
    paths = Sweep({"t": APART}, examples=200).write(tmp_path)
    for path in paths.root.glob("predictions/c0000*.parquet"):
        path.unlink()
    task = judge(load_study(paths))["tasks"]["t"]
    assert task["comparisons"][0]["examples"] == 0
    assert {entry["examples"] for entry in task["scores"].values()} == {0, 200}
    assert "compared on fewer seeds, or over seeds alone" in task["warnings"][0]


@quick
@given(st.fixed_dictionaries(dict.fromkeys("abc", SCORES)), st.permutations("abc"))
def test_relabelling_and_order_change_nothing_with_examples_either(scores: Any, names: list[str]) -> None:
    """Trial ids decide the chance part of the examples, so they are kept by keeping the order of cells."""
    n = min(map(len, scores.values()))
    scores = {name: values[:n] for name, values in scores.items()}
    before = one(scores, examples=200)
    rename = dict(zip("abc", names, strict=True))
    after = one({rename[name]: values for name, values in scores.items()}, examples=200)

    def words(task: Any) -> Any:
        return {
            (c["a"], c["b"]): (c["verdict"], c["ci"])
            for pair in task["comparisons"]
            for c in (pair, wording.flipped(pair))
        }

    assert {(rename[a], rename[b]): word for (a, b), word in words(before).items()} == words(after)


# -- runs that diverged ------------------------------------------------------------------------------

FRAGILE = {"bold": [0.95, 0.94, 0.95, 0.94, "diverged"], "calm": [0.90, 0.91, 0.90, 0.91, 0.90]}


def test_a_diverged_run_counts_as_the_constant_predictor() -> None:
    task = one(FRAGILE, constant=0.5)
    bold = task["scores"]["bold"]
    assert bold["per_seed"]["104"] == 0.5 and bold["imputed"] == [104] and bold["n"] == 5
    assert bold["mean"] == pytest.approx((0.95 + 0.94 + 0.95 + 0.94 + 0.5) / 5)
    assert bold["failure_rate"]["failed"] == 1 and bold["failure_rate"]["runs"] == 5
    low, high = bold["failure_rate"]["ci"]
    assert low < 0.2 < high
    assert task["leader"] == "calm"
    assert task["sensitivity"] == {
        "leader": "bold",
        "tie_set": ["bold"],
        "recommended": "bold",
        "changed": ["leader", "tie_set", "recommended"],
    }
    assert "left out, bold would lead" in task["sentence"]


def test_without_a_constant_predictor_nothing_is_imputed() -> None:
    task = one(FRAGILE)
    assert task["scores"]["bold"]["n"] == 4 and task["sensitivity"] is None
    assert task["leader"] == "bold"


def test_a_poor_run_keeps_its_score_and_counts_as_a_failure() -> None:
    task = one({"a": [0.9, 0.9, 0.45], "b": [0.8, 0.81, 0.82]}, constant=0.5)
    assert task["scores"]["a"]["per_seed"]["102"] == 0.45
    assert task["scores"]["a"]["failure_rate"] == {
        "failed": 1, "runs": 3, "poor": 1, "ci": task["scores"]["a"]["failure_rate"]["ci"],
    }  # fmt: skip
    assert task["sensitivity"] is None


def test_without_costs_the_leader_is_recommended(tmp_path: Path) -> None:
    paths = Sweep({"t": {"z": [0.91, 0.9, 0.92], "a": [0.9, 0.91, 0.9]}}).write(tmp_path)
    for path in paths.trials.glob("*.json"):
        put(path, {**json.loads(path.read_text()), "cost": {}})
    task = judge(load_study(paths))["tasks"]["t"]
    assert task["tie_set"] == ["z", "a"] and task["recommended"] == "z"
    assert "recommended: z, as costs are not known" in task["sentence"]


def test_two_diverged_runs_are_two_runs_as_the_constant_predictor() -> None:
    scores = {"a": [0.9, 0.91, 0.9, "diverged", "diverged"], "b": [0.8, 0.81, 0.82, 0.8, 0.8]}
    task = one(scores, constant=0.5, examples=200)
    assert task["scores"]["a"]["imputed"] == [103, 104]
    assert task["comparisons"][0]["n"] == 5 and task["comparisons"][0]["examples"] == 200
    every = one({"a": ["diverged"] * 3, "b": [0.8, 0.81, 0.82]}, constant=0.5, examples=200)
    assert every["leader"] == "b" and every["scores"]["a"]["mean"] == 0.5


@pytest.mark.parametrize(("constant", "told"), [(0.66, True), (0.9, True), (0.5, False), (None, False)])
def test_a_leader_that_may_have_learned_nothing_is_told(constant: float | None, told: bool) -> None:
    """Where the constant predictor's score is in its interval, or better."""
    task = one({"a": [0.67, 0.68, 0.66, 0.67], "b": [0.66, 0.67, 0.66, 0.66]}, constant=constant)
    said = "which the leader is not known to beat: nothing may have been learned"
    assert (said in task["sentence"]) == told


def test_nobody_is_recommended_for_having_failed() -> None:
    """The cheaper strategy is beaten where both finish; its failure brings so much noise that it no longer
    is."""
    scores = {
        "full": [0.9, 0.905, 0.9, 0.9, 0.905, 0.9],
        "head-only": [0.88, 0.885, 0.88, 0.878, 0.88, "diverged"],
    }
    task = one(scores, constant=0.2)
    assert task["comparisons"][0]["verdict"] == "undetermined"
    assert task["tie_set"] == ["full"] and task["recommended"] == "full"


def test_without_a_constant_predictor_a_diverged_run_is_told() -> None:
    task = one(FRAGILE)
    assert task["scores"]["bold"]["failure_rate"]["failed"] == 1
    assert "Diverged runs are left out, since no constant predictor is known: bold (1)" in task["sentence"]


def test_faults_of_the_machinery_are_no_failures_of_a_strategy() -> None:
    scores = {"a": [0.9, 0.9, 0.9, "diverged", "failed", "failed"], "b": [0.8] * 6}
    rate = one(scores, constant=0.5)["scores"]["a"]["failure_rate"]
    assert (rate["failed"], rate["runs"]) == (1, 4)


# -- who leads ---------------------------------------------------------------------------------------


def test_a_lucky_seed_leads_nobody() -> None:
    task = one({"lucky": [0.99], "steady": [0.9, 0.91, 0.92, 0.9]})
    assert task["leader"] == "steady"


def test_the_leader_leads_on_the_seeds_that_all_share() -> None:
    """The hard seeds failed for one of the two: its mean is better, and it is beaten wherever both have
    one."""
    failed: list[Any] = ["failed"] * 3
    scores = {"head-only": [0.80, 0.81, 0.82, *failed], "full": [0.85, 0.865, 0.86, 0.60, 0.60, 0.61]}
    task = one(scores)
    assert task["scores"]["head-only"]["mean"] > task["scores"]["full"]["mean"]
    assert task["leader"] == task["recommended"] == "full"


def test_equal_costs_decide_nothing(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.5, 0.6, 0.7], "b": [0.7, 0.8, 0.9]}}).write(tmp_path)
    for number, path in enumerate(sorted(paths.trials.glob("*.json"))):
        record = json.loads(path.read_text())
        put(path, {**record, "cost": {**record["cost"], "device_s": 100 + number / 10}})
    task = judge(load_study(paths))["tasks"]["t"]
    assert task["tie_set"] == ["a", "b"] and task["recommended"] == task["leader"] == "b"


def test_who_is_probably_worse_is_not_recommended_for_being_cheap() -> None:
    """Of six pairs none is sure after Holm's adjustment; by its own interval the cheapest is far behind."""
    scores = {
        "head-only": [0.62, 0.69, 0.76, 0.79, 0.59],
        "top-2": [0.89, 0.85, 0.86, 0.89, 0.90],
        "full": [0.91, 0.89, 0.84, 0.89, 0.90],
        "full-l2sp": [0.89, 0.89, 0.80, 0.91, 0.88],
    }
    task = one(scores)
    assert task["tie_set"] == list(scores)
    assert (task["leader"], task["recommended"]) == ("full", "top-2")


# -- what few examples cannot tell -------------------------------------------------------------------


def test_few_examples_without_an_error_are_no_proof_of_equivalence() -> None:
    perfect = {"a": [1.0] * 3, "b": [1.0] * 3}
    assert one(perfect, examples=20)["comparisons"][0]["verdict"] == "undetermined"
    assert one(perfect, examples=2000)["comparisons"][0]["verdict"] == "equivalent"


def test_a_lost_file_makes_no_verdict_firmer(tmp_path: Path) -> None:
    paths = Sweep({"t": APART}, examples=200).write(tmp_path)
    before = judge(load_study(paths))["tasks"]["t"]["comparisons"][0]
    next(iter(sorted(paths.root.glob("predictions/*.parquet")))).unlink()
    task = judge(load_study(paths))["tasks"]["t"]
    after = task["comparisons"][0]
    assert (before["verdict"], after["verdict"]) == ("undetermined", "undetermined")
    assert (before["n"], after["n"], after["examples"]) == (6, 5, 200)
    assert "the examples of 1 of 6 runs are not known" in task["warnings"][0]


def test_the_order_of_rows_in_a_file_does_not_matter(tmp_path: Path) -> None:
    paths = Sweep({"t": APART}, examples=200).write(tmp_path)
    before = judge(load_study(paths))["tasks"]["t"]["comparisons"]
    for path in paths.root.glob("predictions/*.parquet"):
        pd.read_parquet(path).sample(frac=1, random_state=len(path.name)).to_parquet(path, index=False)
    assert judge(load_study(paths))["tasks"]["t"]["comparisons"] == before


# -- what to do next ---------------------------------------------------------------------------------


def test_advice_says_how_many_seeds_and_gives_the_command(tmp_path: Path) -> None:
    scores = {"a": [0.86, 0.88, 0.87, 0.85], "b": [0.85, 0.86, 0.87, 0.84]}
    paths = Sweep({"t": scores}, examples=5000).write(tmp_path / "results" / "s")
    paths.sweep.write_text("name: s\n")
    task = judge(load_study(paths))["tasks"]["t"]
    (step,) = task["advice"]
    needed = task["comparisons"][0]["seeds_needed"]
    assert task["comparisons"][0]["verdict"] == "undetermined" and needed > 4
    assert step["text"].startswith(f"{needed} seeds would be needed to separate a and b in four of five")
    expected = f"harness run {paths.sweep} --results {tmp_path / 'results'} --set seeds.confirm={needed}"
    assert step["command"] == expected


def test_advice_where_the_examples_are_the_limit() -> None:
    (step,) = one({"a": [0.86, 0.88, 0.86, 0.86], "b": [0.86] * 4}, examples=50)["advice"]
    assert step["command"] is None and "the 50 test examples are too few" in step["text"]


def test_no_advice_where_all_is_said() -> None:
    assert one(APART)["advice"] == []


def test_advice_for_too_few_seeds() -> None:
    (step,) = one({"a": [0.8, 0.9], "b": [0.7, 0.8]})["advice"]
    assert "Fewer than 3 shared seeds" in step["text"]


# -- over all tasks ----------------------------------------------------------------------------------


def many(tasks: int, gain: float, seeds: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        f"task {i:02d}": {
            "base": list(0.7 + i / 100 + rng.normal(0, 0.01, seeds)),
            "better": list(0.7 + i / 100 + gain + rng.normal(0, 0.01, seeds)),
            "same": list(0.7 + i / 100 + rng.normal(0, 0.01, seeds)),
        }
        for i in range(tasks)
    }


def test_gain_over_the_baseline_on_all_tasks() -> None:
    scores = many(4, 0.05)
    found = judged(Sweep(scores, baseline="base"))["across"]
    better, same = (found["strategies"][name] for name in ("better", "same"))
    gains = [np.mean(t["better"]) - np.mean(t["base"]) for t in scores.values()]
    assert better["gain"] == pytest.approx(np.mean(gains))
    assert better["ci"][0] < np.mean(gains) < better["ci"][1] and better["ci"][0] > 0
    assert better["p_better"] > 0.9 and better["better_on_at_least"] >= 3
    assert abs(same["gain"]) < 0.01 and same["better_on_at_least"] == 0
    assert found["unit"] == "accuracy" and found["ranks"] is None
    # rliable's definition: the mean of the middle half of all runs
    runs = np.sort(np.concatenate([t["better"] for t in scores.values()]))
    assert better["iqm"] == pytest.approx(runs[5:15].mean(), abs=1e-9)


def test_one_task_says_nothing_over_tasks() -> None:
    assert judged(Sweep({"t": APART}))["across"]["reason"] == "there is one task only"


def test_the_mean_gain_covers_the_truth() -> None:
    """Two tasks and three seeds, where resampling seeds covers 82 %."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        mean, half = across._mean([by_seed(rng.normal(0, s, 3)) for s in (1.0, 0.2)], [1.0, 1.0])
        held.append(abs(mean) <= half)
    assert 0.93 <= np.mean(held) <= 0.98


def test_two_backbones_are_no_two_tasks() -> None:
    sweep = Sweep(many(5, 0.02), baseline="base", backbones=("x", "y"))
    found = judged(sweep)["across"]
    assert (found["tasks"], found["arenas"], found["ranks"]) == (5, 10, None)


def test_who_is_left_out_over_tasks_is_told() -> None:
    scores = many(3, 0.02)
    scores["task 00"]["same"] = scores["task 00"]["same"][:2]
    found = judged(Sweep(scores, baseline="base"))["across"]
    assert found["left_out"] == {"same": "has fewer than 3 seeds on task 00"}
    assert found["strategies"].keys() == {"base", "better"}


def test_metrics_of_two_directions_are_put_on_one_scale() -> None:
    scores = {
        "up": {"base": [0.7, 0.71, 0.72], "other": [0.8, 0.81, 0.82]},
        "down": {"base": [0.4, 0.41, 0.42], "other": [0.2, 0.21, 0.22]},
    }
    directions = {"down": "min"}
    found = judged(Sweep(scores, baseline="base", directions=directions, constant=0.5))["across"]
    # from 0.42 to 0.62 of the way up from 0.5 to 1, and from 0.18 to 0.58 of the way down to 0
    assert found["strategies"]["other"]["gain"] == pytest.approx((0.2 + 0.4) / 2)
    without = judged(Sweep(scores, baseline="base", directions=directions))["across"]
    assert without["reason"] == "the tasks' metrics have no common scale"


def test_ranks_from_ten_tasks_on_equal_the_oracles() -> None:
    assert judged(Sweep(many(9, 0.05), baseline="base"))["across"]["ranks"] is None
    scores = many(10, 0.02)
    ranks = judged(Sweep(scores, baseline="base"))["across"]["ranks"]
    table = pd.DataFrame({t: {s: np.mean(v) for s, v in by.items()} for t, by in scores.items()}).T
    theirs = oracle.friedmanchisquare(*(table[name] for name in table))
    assert ranks["friedman"]["statistic"] == pytest.approx(theirs.statistic, abs=1e-9)
    assert ranks["friedman"]["p"] == pytest.approx(theirs.pvalue, abs=1e-9)
    assert ranks["mean"] == pytest.approx(dict((-table).rank(axis=1).mean()))
    melted = table.melt(var_name="strategy", value_name="score")
    holm = scikit_posthocs.posthoc_wilcoxon(melted, "score", "strategy", p_adjust="holm")
    for pair in ranks["pairs"]:
        assert pair["p_adjusted"] == pytest.approx(holm.loc[pair["a"], pair["b"]], abs=1e-9)


# -- what tuning bought ------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=1, max_size=12))
def test_expected_best_is_the_mean_over_all_choices(scores: list[float]) -> None:
    import itertools

    for k, found in enumerate(budget.expected_best(scores), start=1):
        everything = [max(chosen) for chosen in itertools.combinations(scores, k)]
        assert found == pytest.approx(np.mean(everything), abs=1e-9)


def test_expected_best_comes_close_to_draws_with_replacement() -> None:
    """Dodge et al.'s curve, as opda has it, and the unbiased one meet where configurations are many."""
    scores = np.random.default_rng(0).random(400)
    theirs = EmpiricalDistribution(scores).average_tuning_curve(np.arange(1, 6))
    assert budget.expected_best(scores)[:5] == pytest.approx(theirs, abs=2e-3)


def test_the_curve_holds_for_random_search_at_full_length_only() -> None:
    assert budget.holds({"search": {"algorithm": "random"}})
    assert not budget.holds({"search": {"algorithm": "random", "scheduler": {"name": "asha"}}})
    assert not budget.holds({"search": {"algorithm": "grid"}}) and not budget.holds({})


def test_importance_finds_what_decides() -> None:
    rng = np.random.default_rng(0)
    space = {
        "rate": {"loguniform": [1e-5, 1e-2]},
        "decay": {"uniform": [0, 1]},
        "kind": {"choice": ["a", "b"]},
    }
    configurations = [
        Configuration(
            {"rate": float(rate), "decay": float(rng.random()), "kind": str(rng.choice(["a", "b"]))},
            float(np.log10(rate) + rng.normal(0, 0.01)),
            {"finished": 1},
        )
        for rate in 10 ** rng.uniform(-5, -2, 40)
    ]
    found = importance(space, configurations, 1)
    assert found is not None and next(iter(found.share)) == "rate"
    assert found.share["rate"] > 0.8 and sum(found.share.values()) == pytest.approx(1)
    assert importance(space, configurations, -1) == found
    assert importance(space, configurations[:7], 1) is None
    assert importance({"rate": space["rate"]}, configurations, 1) is None
    assert found.configurations == 40 and found.drawn_from is None


def test_importance_of_many_configurations_is_that_of_some_of_them() -> None:
    rng = np.random.default_rng(0)
    space = {"rate": {"loguniform": [1e-5, 1e-2]}, "decay": {"uniform": [0, 1]}}
    configurations = [
        Configuration({"rate": float(rate), "decay": float(rng.random())}, float(np.log10(rate)), {})
        for rate in 10 ** rng.uniform(-5, -2, MAX_CONFIGURATIONS + 9)
    ]
    found = importance(space, configurations, 1)
    assert found is not None and found == importance(space, configurations, 1), "always the same ones"
    assert (found.configurations, found.drawn_from) == (MAX_CONFIGURATIONS, MAX_CONFIGURATIONS + 9)
    assert found.share["rate"] > 0.8
