"""Racing: what is foretold is right, who is beaten gets nothing more, and nobody else is touched."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from racing_fixtures import LEVELS, NOISE, Run, planned, record
from scipy import stats as scipy_stats

from harness.analysis import racing
from harness.analysis.crossed import by_seed
from harness.analysis.racing import Contest, Runner, raced_out, tie_chance
from harness.analysis.study import load_study
from harness.analysis.verdicts import judge
from harness.errors import InputError
from harness.outline import notes
from harness.records.paths import ResultPaths
from harness.report.build import write_report
from harness.tuning.racing import contest

MANY = 10**9  # so many examples that validation and test cannot differ for their sake
SIX = Contest(seeds=6, claims=6, delta=0.01, validation=MANY, test=MANY, bounds=(0.0, 1.0))
RACE: dict[str, Any] = {"racing": {"level": 0.01}}


@pytest.fixture
def paths(tmp_path: Path) -> ResultPaths:
    return ResultPaths(tmp_path / "results")


def cells(paths: ResultPaths) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in paths.cells.glob("*.json")]
    return {cell["strategy"]: cell for cell in found}


# -- what is foretold ----------------------------------------------------------------------------


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0, 3.0])
def test_with_much_seen_the_chance_is_the_tests_error_of_the_second_kind(effect: float) -> None:
    """The oracle: the power of a t-test with known mean and spread is a noncentral t distribution."""
    d = np.random.default_rng(1).standard_normal(4000)
    d = 0.1 * ((d - d.mean()) / d.std(ddof=1) + effect)
    critical = scipy_stats.t.ppf(1 - racing.ALPHA / SIX.claims / 2, 5)
    expected = scipy_stats.nct.cdf(critical, 5, effect * np.sqrt(6))
    assert tie_chance(d, SIX) == pytest.approx(expected, abs=0.01)


def test_what_is_foretold_comes_true_as_often_as_foretold() -> None:
    """Over cells whose distance to the leader has a wide distribution, against finished comparisons."""
    rng = np.random.default_rng(2)
    said, came = [], []
    critical = scipy_stats.t.ppf(1 - racing.ALPHA / SIX.claims / 2, 5)
    for _ in range(400):
        gap, spread = rng.uniform(0, 0.5), rng.uniform(0.02, 0.1)
        said.append(tie_chance(gap + spread * rng.standard_normal(5), SIX))
        test = gap + spread * rng.standard_normal(6)
        came.append(test.mean() / (test.std(ddof=1) / np.sqrt(6)) < critical)
    assert np.mean(said) == pytest.approx(np.mean(came), abs=0.05)
    sure = np.array(came)[np.array(said) < 0.05]
    assert len(sure) > 50
    assert sure.mean() <= 0.06


def test_nothing_is_foretold_from_too_little() -> None:
    assert tie_chance([0.5, 0.51], SIX) == 1
    assert tie_chance([0.5] * 6, SIX) == 1, "no spread is no evidence of none (protocol, as in the verdicts)"
    assert tie_chance([0.5, 0.51, 0.49, 0.52], Contest(2, 6, 0.01, MANY, MANY, (0, 1))) == 1


def test_every_source_of_doubt_raises_the_chance() -> None:
    d = 0.2 + 0.02 * np.random.default_rng(3).standard_normal(6)
    plain = tie_chance(d, SIX)
    assert plain < tie_chance(d, Contest(6, 6, 0.01, 100, 100, (0, 1)), examples=0.2)
    assert plain < tie_chance(d, SIX, tuned=3, tried=20)
    assert plain < tie_chance(d, SIX, noise=racing.Noise(0.01, 15))
    assert plain < tie_chance(d, Contest(6, 600, 0.01, MANY, MANY, (0, 1)))
    assert plain < tie_chance(d, Contest(6, 6, 0.25, MANY, MANY, (0, 1))), "a difference within δ is no win"


def runners(scores: dict[str, list[float]], tried: int = 1) -> dict[str, Runner]:
    return {
        name: Runner({("confirm", seed): score for seed, score in enumerate(values)}, tried)
        for name, values in scores.items()
    }


def test_examples_of_validation_and_test_differ() -> None:
    """A gap that 32 examples show is less sure than one that a million show."""
    noise = 0.01 * np.random.default_rng(4).standard_normal((2, 6))
    made = runners({"a": list(0.8 + noise[0]), "b": list(0.6 + noise[1])})
    assert raced_out(made, SIX, 0.05).keys() == {"b"}
    assert raced_out(made, Contest(6, 6, 0.01, 32, 32, (0, 1)), 0.05) == {}
    assert raced_out(made, Contest(6, 6, 0.01, MANY, MANY, None), 0.05) == {}
    assert raced_out(made, Contest(6, 6, 0.01, MANY, MANY, (0, 0.75)), 0.05) == {}, "a score beyond them"
    assert raced_out(made, SIX, 0.05, spared=["b"]) == {}
    assert raced_out({}, SIX, 0.05) == {}


def holm(p: list[float]) -> list[float]:
    """As `stats.holm`, which collects garbage for half a second each time (statsmodels does)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p)):
        highest = max(highest, (len(p) - rank) * p[index])
        adjusted[index] = highest
    return adjusted


def races(
    means: list[float], spreads: list[float], level: float, count: int, rng: np.random.Generator
) -> tuple[int, int, float]:
    """Simulated races of four cells, three tune and six confirm seeds: how often a cell that is in the tie
    set of the whole grid was raced out, how many cells were, and the share of confirm trials that ran."""
    wrong = out = run = 0
    keys = [("tune", s) for s in range(3)] + [("confirm", s) for s in range(6)]
    for _ in range(count):
        common, own, luck = rng.standard_normal((3, 4, 9))
        validation = 0.5 + np.array(means)[:, None] + np.array(spreads)[:, None] * (common + own) / np.sqrt(2)
        test = 0.5 + np.array(means)[:, None] + np.array(spreads)[:, None] * (common + luck) / np.sqrt(2)
        active, gone = dict(enumerate(validation)), set()
        for seed in range(6):
            made = {str(c): Runner(dict(zip(keys[: 3 + seed], x, strict=False))) for c, x in active.items()}
            gone |= {int(name) for name in raced_out(made, SIX, level)}
            active = {c: x for c, x in active.items() if c not in gone}
            run += len(active)
        final = test[:, 3:]
        leader = int(final.mean(axis=1).argmax())
        pairs = [(a, b) for a in range(4) for b in range(a)]
        adjusted = holm([by_seed(final[a] - final[b]).p for a, b in pairs])
        beaten = {
            sum(pair) - leader for pair, p in zip(pairs, adjusted, strict=True) if leader in pair and p < 0.05
        }
        wrong += bool(gone - beaten)
        out += len(gone)
    return wrong, out, run / (24 * count)


@pytest.mark.parametrize(
    ("means", "spreads"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.02] * 4),  # A/A: one strategy under four names
        ([0.04, 0.0, 0.0, 0.0], [0.02] * 4),  # the verdict itself is a toss-up
        ([0.04, 0.0, -0.2, -0.2], [0.02, 0.02, 0.004, 0.004]),  # the quiet ones say little of the noisy ones
    ],
)
def test_what_belongs_in_the_tie_set_is_hardly_ever_raced_out(
    means: list[float], spreads: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "DRAWS", 1500)
    level, count = 0.05, 200
    wrong, _, _ = races(means, spreads, level, count, np.random.default_rng(5))
    assert wrong / count <= level


def test_what_is_far_behind_is_raced_out_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "DRAWS", 4000)
    wrong, out, run = races([0.4, 0.4, 0.0, -0.2], [0.02] * 4, 0.01, 40, np.random.default_rng(6))
    assert wrong == 0
    assert out == 2 * 40, "both, and neither of the two leaders"
    assert run < 0.7


# -- in a campaign -------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(workers=st.integers(1, 6), order=st.integers(0, 10**6))
def test_cells_confirm_side_by_side_and_the_order_of_ends_decides_nothing(
    tmp_path_factory: pytest.TempPathFactory, workers: int, order: int
) -> None:
    here, there = (ResultPaths(tmp_path_factory.mktemp("results")) for _ in range(2))
    plan = planned(**RACE)
    going = Run(plan, here, workers, order)
    tune = {trial.trial_id for trial in plan.planned()}
    seen = 0
    while going.step():
        for trial in going.started[seen:]:
            if trial.phase == "confirm":
                ended = {t.trial_id for t in going.ended}
                assert tune <= ended, "a cell is judged against rivals that are tuned"
        seen = len(going.started)
    Run(plan, there).to_the_end()
    assert cells(here) == cells(there)
    assert max(Counter(trial.trial_id for trial in going.started).values()) == 1
    assert going.campaign.done


def test_who_is_beaten_gets_no_more_trials_and_is_never_missing(paths: ResultPaths) -> None:
    done = Run(planned(**RACE), paths).to_the_end()
    found = cells(paths)
    assert done.campaign.done
    assert {name: cell["state"] for name, cell in found.items()} == {
        "good": "done", "twin": "done", "poor": "raced out", "bad": "raced out",
    }  # fmt: skip
    for name in ("poor", "bad"):
        run = [trial for trial in done.started if (trial.strategy, trial.phase) == (name, "confirm")]
        assert len(run) == len(found[name]["confirm"]) < 6
        why = found[name]["raced_out"]
        assert why["leader"] in ("good", "twin")
        assert why["difference"] == pytest.approx(0.9 - LEVELS[name], abs=3 * NOISE)
        assert why["n"] == 3 + len(run)
        assert why["chance"] < why["bound"] == pytest.approx(0.01 / 6)
    assert all(len(found[name]["confirm"]) == 6 for name in ("good", "twin"))
    verdicts = write_report(paths)
    task = verdicts["tasks"]["one"]
    assert verdicts["complete"]
    assert set(task["tie_set"]) == {"good", "twin"}
    assert task["recommended"] in task["tie_set"]
    assert set(task["raced_out"]) == {"poor", "bad"}
    trials = " and ".join(str(task["raced_out"][name]["trials"]) for name in task["raced_out"])
    assert f"were raced out after {trials} trials" in task["sentence"]
    shown = paths.report_md.read_text()
    assert "Cells that were raced out (level 0.01)" in shown
    assert shown.count("· raced out") == 2


def test_the_claims_of_a_race_are_those_of_who_is_left(paths: ResultPaths) -> None:
    Run(planned(**RACE), paths).to_the_end()
    compared = judge(load_study(paths))["tasks"]["one"]["comparisons"]
    for comparison in compared:
        raced = {"poor", "bad"} & {comparison["a"], comparison["b"]}
        assert (comparison["verdict"] == "raced out") == bool(raced)
        assert (comparison["p_adjusted"] is None) == bool(raced)
    [left] = [c for c in compared if c["p_adjusted"] is not None]
    assert left["p_adjusted"] == pytest.approx(min(1, 2 * left["p"])), "poor against bad is unanswered"


def test_without_a_race_nobody_is_out(paths: ResultPaths) -> None:
    Run(planned(), paths).to_the_end()
    assert {cell["state"] for cell in cells(paths).values()} == {"done"}
    assert all(len(cell["confirm"]) == 6 for cell in cells(paths).values())


def test_the_baseline_is_never_out(paths: ResultPaths) -> None:
    Run(planned(**RACE, baseline="bad"), paths).to_the_end()
    assert {name for name, cell in cells(paths).items() if cell["state"] == "raced out"} == {"poor"}


def test_equal_strategies_all_stay(paths: ResultPaths) -> None:
    done = Run(planned(**RACE), paths, levels=dict.fromkeys(LEVELS, 0.9)).to_the_end()
    assert sum(trial.phase == "confirm" for trial in done.started) == 4 * 6


def test_lower_may_be_better(paths: ResultPaths) -> None:
    """Accuracy under a metric's name that is to be minimised: the former leaders are out."""
    task = {"name": "one", "use": "bbc-topics", "metrics": ["error_rate", "accuracy"]}
    plan = planned(**RACE, tasks=[task])
    campaign = Run(plan, paths).campaign
    while (trial := campaign.next()) is not None:
        made = record(trial)
        for part in (made["metrics"], *made["curve"]):
            if part.get("validation"):
                part["validation"] = {"error_rate": part["validation"]["accuracy"]}
        campaign.finish(trial, made)
    assert {name for name, cell in cells(paths).items() if "raced_out" in cell} == {"good", "twin", "poor"}
    assert contest(plan, ("one", "small")).bounds == (-1.0, 0.0)


@pytest.mark.parametrize("steps", [20, 37, 41, 45, 48])
def test_a_resumed_race_ends_as_it_would_have(paths: ResultPaths, tmp_path: Path, steps: int) -> None:
    plan, whole = planned(**RACE), ResultPaths(tmp_path / "whole")
    Run(plan, whole).to_the_end()
    first = Run(plan, paths, workers=2)
    for _ in range(steps):
        first.step()
    second = Run(plan, paths, workers=3).to_the_end()
    assert not {t.trial_id for t in first.ended} & {t.trial_id for t in second.started}
    assert cells(paths) == cells(whole)
    assert {p.name for p in paths.trials.iterdir()} == {p.name for p in whole.trials.iterdir()}
    assert Run(plan, paths).to_the_end().started == []
    assert cells(paths) == cells(whole)


def test_a_race_that_is_called_off_runs_what_it_spared(paths: ResultPaths) -> None:
    Run(planned(**RACE), paths).to_the_end()
    rest = Run(planned(), paths).to_the_end()
    assert {trial.strategy for trial in rest.started} == {"poor", "bad"}
    assert {cell["state"] for cell in cells(paths).values()} == {"done"}
    assert not any("raced_out" in cell for cell in cells(paths).values())


def test_tasks_race_apart(paths: ResultPaths) -> None:
    tasks = [{"name": "one", "use": "bbc-topics"}, {"name": "two", "use": "tweet-sentiment"}]
    plan = planned(**RACE, tasks=tasks)
    assert contest(plan, ("two", "small")).claims == 12
    done = Run(plan, paths, workers=4).to_the_end()
    assert done.campaign.done
    out = [json.loads(path.read_text()) for path in paths.cells.glob("*.json")]
    assert Counter(cell["task"] for cell in out if "raced_out" in cell) == {"one": 2, "two": 2}


# -- in the sweep file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "place", "says"),
    [
        ({"racing": {"levle": 0.01}}, "racing.levle", "level"),
        ({"racing": {"level": 1.5}}, "racing.level", "less than 0.5"),
        ({"racing": 0.01}, "racing", "name: value"),
        ({"racing": {}, "seeds": {"tune": 3, "confirm": 0}}, "racing", "there is none (seeds.confirm: 0)"),
    ],
)
def test_mistakes_are_told_where_they_are(changes: dict[str, Any], place: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        planned(**changes)
    assert [mistake.place for mistake in caught.value.mistakes] == [place]
    assert says in str(caught.value)


def test_a_task_that_cannot_be_raced_is_named(paths: ResultPaths) -> None:
    tasks = [{"name": "one", "use": "bbc-similarity", "metrics": ["mean_squared_error"]}]
    assert any("one is not raced: mean_squared_error" in note for note in notes(planned(**RACE, tasks=tasks)))
    assert not any("not raced" in note for note in notes(planned(**RACE)))
