"""Reports from anywhere: tables of other tools, several sweeps at once, parts, one against another."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_fixtures import Sweep, change, put, typical

from harness.analysis import choose
from harness.analysis.contrast import contrast
from harness.analysis.merge import merge
from harness.analysis.study import Study, load_study
from harness.analysis.table import Reading, read_table
from harness.analysis.verdicts import judge
from harness.cli import main
from harness.errors import InputError

DOCS = Path(__file__).parent.parent / "docs"
Rows = Sequence[Mapping[str, Any]]

SCORES = {"full": [0.95, 0.94, 0.96, 0.95], "head": [0.90, 0.89, 0.91, 0.88]}


def rows_of(
    scores: Mapping[str, Sequence[float]] = SCORES, task: str = "t", **more: Any
) -> list[dict[str, Any]]:
    return [
        {"task": task, "strategy": strategy, "seed": seed, "score": score, **more}
        for strategy, values in scores.items()
        for seed, score in enumerate(values)
    ]


def write(path: Path, rows: Rows) -> Path:
    pd.DataFrame(list(rows)).to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Study]:
    """`table(rows, name="scores", **reading)`: the study of these rows, by way of a CSV file."""

    def make(rows: Rows, name: str = "scores", **reading: Any) -> Study:
        return read_table(write(tmp_path / f"{name}.csv", rows), Reading(**reading))

    return make


def complaints(path: Path, **reading: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_table(path, Reading(**reading))
    return [str(mistake).replace(str(path), "table") for mistake in caught.value.mistakes]


def numbers(verdicts: Mapping[str, Any]) -> dict[str, Any]:
    """Of every task what is said of scores and pairs."""
    return {
        key: {name: task[name] for name in ("leader", "tie_set", "recommended", "comparisons", "seeds")}
        | {"scores": {who: {k: e[k] for k in ("mean", "ci", "n")} for who, e in task["scores"].items()}}
        for key, task in verdicts["tasks"].items()
    }


# A table says what the sweep says that it was taken from.


def exported(study: Study) -> list[dict[str, Any]]:
    """A study's trials as another tool might have written them down."""
    found = []
    for row in study.frame.to_dict("records"):
        said = {
            name: row[name]
            for name in ("task", "strategy", "seed", "phase", "backbone", "status", "device_s", "flops")
        }
        said |= {"trainable_params": row["trainable_params"], "hp.learning_rate": row["hp.learning_rate"]}
        for split in ("validation", "test"):
            score = row[f"score_{split}"]
            if not np.isnan(score) or (row["status"] != "finished" and split == "validation"):
                found.append({**said, "split": split, "score": score, "metric": "accuracy"})
    return found


def test_a_table_of_a_sweeps_runs_gives_the_sweeps_verdicts(tmp_path: Path, table: Any) -> None:
    sweep = load_study(typical().write(tmp_path / "sweep"))
    taken = choose.with_baseline(table(exported(sweep), known={"accuracy": "max"}), "full")
    ours, theirs = judge(sweep), judge(taken)
    assert numbers(theirs) == numbers(ours)
    for key, task in ours["tasks"].items():
        assert theirs["tasks"][key]["failures"] == task["failures"]
        assert theirs["tasks"][key]["sentence"] == task["sentence"]
        for name, entry in task["scores"].items():
            assert theirs["tasks"][key]["scores"][name]["hyperparameters"] == entry["hyperparameters"]
    assert taken.plan["remarks"] == []


def test_the_order_of_rows_does_not_matter(tmp_path: Path, table: Any) -> None:
    rows = rows_of() + rows_of({"full": [0.5, 0.6, 0.4], "head": [0.7, 0.7, 0.8]}, task="u")
    straight = judge(table(rows))
    random.Random(0).shuffle(rows)
    shuffled = judge(table(rows))

    def bag(verdicts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: (
                {n: (e["mean"], e["n"]) for n, e in task["scores"].items()},
                task["leader"],
                task["sentence"],
            )
            for key, task in verdicts["tasks"].items()
        }

    assert bag(shuffled) == bag(straight)


@pytest.mark.parametrize("categorical", [False, True])
def test_parquet_and_tsv_are_read_like_csv(tmp_path: Path, categorical: bool) -> None:
    frame = pd.DataFrame(rows_of({"full": [1 / 3, 0.1, 2e-17], "head": [0.5, 7, 1e40]}, metric="m"))
    frame["hp.lr"] = 3e-5
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    if categorical:
        frame["task"] = frame["task"].astype("category")
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    first, *others = (read_table(tmp_path / f"a.{suffix}") for suffix in ("csv", "tsv", "parquet"))
    for other in others:
        assert numbers(judge(other)) == numbers(judge(first))
        drop = ["trial_id"]
        pd.testing.assert_frame_equal(other.frame.drop(columns=drop), first.frame.drop(columns=drop))


def test_what_a_table_leaves_unsaid_is_not_made_up(table: Any) -> None:
    study = table(rows_of())
    assert (study.confirm_seeds, study.split) == (4, "test")
    assert study.plan["tasks"][0]["splits"] == {} and study.provenance == {} and study.again is None
    assert "more is taken to be" in study.plan["remarks"][0]
    verdict = judge(study)["tasks"]["t"]
    assert verdict["primary"] == "score" and verdict["scores"]["full"]["hyperparameters"] is None
    assert verdict["scores"]["full"]["cost_device_s"] is None
    assert verdict["coverage"] == {"planned": 8, "finished": 8, "missing": 0, "stopped": 0}


def test_scores_on_validation_alone_confirm_nothing(table: Any) -> None:
    study = table(rows_of(split="validation"))
    assert (study.confirm_seeds, study.split) == (0, "validation")
    assert judge(study)["tasks"]["t"]["scores"]["full"]["mean"] == pytest.approx(0.95)
    assert "no confirm phase" in judge(study)["tasks"]["t"]["sentence"]


def test_runs_that_failed_have_no_score_and_are_counted(table: Any) -> None:
    rows = rows_of()
    rows[1] |= {"status": "diverged", "score": None}
    rows[2] |= {"status": "infeasible", "score": "nan"}
    verdict = judge(table(rows))["tasks"]["t"]
    assert verdict["scores"]["full"]["n"] == 2
    assert verdict["scores"]["full"]["failures"] == {"diverged": 1, "infeasible": 1}


def test_costs_decide_between_equals(table: Any) -> None:
    same = [0.9, 0.92, 0.91, 0.9, 0.93, 0.9]
    rows = rows_of({"dear": same, "cheap": same})
    for row in rows:
        row["device_s"] = 30 if row["strategy"] == "dear" else 3
    assert judge(table(rows))["tasks"]["t"]["recommended"] == "cheap"


# Metrics and their directions.


def two_metrics() -> list[dict[str, Any]]:
    return rows_of(metric="accuracy") + rows_of({"full": [0.3] * 4, "head": [0.2] * 4}, metric="wer")


def test_the_headline_is_chosen_and_the_others_are_kept(table: Any) -> None:
    known = {"accuracy": "max", "wer": "min"}
    study = table(two_metrics(), metric="wer", known=known)
    verdict = judge(study)["tasks"]["t"]
    assert (verdict["direction"], verdict["leader"]) == ("min", "head") and study.plan["remarks"] == []
    other = judge(choose.with_metric(study, "accuracy", known))
    assert numbers(other) == numbers(judge(table(two_metrics(), metric="accuracy", known=known)))


def test_the_direction_is_the_tables_or_the_options(table: Any) -> None:
    def leader(rows: Rows, **reading: Any) -> str:
        return str(judge(table(rows, **reading))["tasks"]["t"]["leader"])

    assert leader(rows_of()) == "full"
    assert leader(rows_of(), direction="min") == "head"
    assert leader(rows_of(direction="min")) == "head"
    assert leader(rows_of(), metric="wer", known={"wer": "min"}) == "head"


@pytest.mark.parametrize(
    ("rows", "reading", "said"),
    [
        (two_metrics(), {}, r"task 't' has several metrics \(choose one with --metric: accuracy, wer\)"),
        (
            two_metrics(),
            {"metric": "acuracy"},
            r"--metric: task 't' has no 'acuracy' \(did you mean 'accuracy'\?\)",
        ),
        (
            rows_of(direction="min")[:4] + rows_of(direction="max")[4:],
            {},
            "score has more than one direction",
        ),
        (
            rows_of(metric="wer", direction="max"),
            {"known": {"wer": "min"}},
            "wer has the direction min, not max",
        ),
        (
            rows_of(metric="wer"),
            {"direction": "max", "known": {"wer": "min"}},
            "--direction: max is that of no metric",
        ),
    ],
)
def test_metrics_that_cannot_be_told(tmp_path: Path, rows: Rows, reading: dict[str, Any], said: str) -> None:
    (found,) = complaints(write(tmp_path / "t.csv", rows), **reading)
    assert re.search(said, found)


# Examples.


def example_rows(seed: int = 0, count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "task": "t",
            "strategy": s,
            "seed": r,
            "example": i,
            "score": int(rng.random() < p),
            "metric": "accuracy",
        }
        for s, p in (("full", 0.9), ("head", 0.6))
        for r in range(4)
        for i in range(count)
    ]


def test_the_score_of_a_run_is_the_mean_of_its_examples(table: Any) -> None:
    rows = example_rows()
    expected = pd.DataFrame(rows).groupby(["strategy", "seed"])["score"].mean()
    random.Random(1).shuffle(rows)
    study = table(rows)
    assert study.plan["tasks"][0]["splits"] == {"test": 12}
    assert study.plan["tasks"][0]["forms"] == {"accuracy": "mean"}
    for row in study.frame.itertuples():
        assert row.score_test == pytest.approx(expected[row.strategy, row.seed], abs=1e-12)
        parts = study.examples(row.trial_id, "accuracy")
        assert parts is not None and parts.shape == (12, 1)
        said = [r for r in rows if (r["strategy"], r["seed"]) == (row.strategy, row.seed)]
        assert parts[:, 0].tolist() == [r["score"] for r in sorted(said, key=lambda r: r["example"])]
    assert study.examples("nobody", "accuracy") is None
    assert judge(study)["tasks"]["t"]["comparisons"][0]["examples"] == 12


def test_runs_on_different_examples_are_a_mistake(tmp_path: Path) -> None:
    rows = [row for row in example_rows() if (row["strategy"], row["seed"], row["example"]) != ("head", 2, 5)]
    (said,) = complaints(write(tmp_path / "t.csv", rows))
    assert "runs that lack some of the 12 examples (head, seed 2)" in said


# Every mistake at once.


def test_every_mistake_is_told_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "task,strategy,seed,score,status,device_s,phase\n"
        "t,a,0,0.5,,1,\n"
        "\n"
        "t,a,1,abc,,1,\n"
        't,"a\nb",2,,,1,\n'
        "t,a,x,0.5,,1,\n"
        "t,a,3,0.5,finishd,1,\n"
        "t,a,4,0.5,,-1,\n"
        "t,a,0,0.6,,1,\n"
        ",a,5,inf,,1,\n"
        "t,a,6,0.5,,1,tuning\n"
    )
    assert complaints(path) == [
        "table: line 11: no task",
        "table: line 8: no such status: 'finishd' (did you mean 'finished'?)",
        "table: line 12: no such phase: 'tuning' (did you mean 'tune'?)",
        "table: line 7: the seed is no whole number: 'x'",
        "table: lines 4 and 11: score is no number within ±1e+50: 'abc' and 'inf'",
        "table: line 5: no score (a run without a score says why in a column 'status': diverged, failed, …)",
        "table: line 9: device_s is negative: '-1'",
        "table: lines 2 and 10: the same run more than once (t, a, seed 0) "
        "(a column 'example' tells examples of one run apart)",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["table: holds no rows"]),
        ("task,strategy,seed,score\n", ["table: holds no rows"]),
        (
            "Task,stratgy,seed,scores\nt,a,0,1\n",
            [
                "table: has no column 'task' (did you mean 'Task'?)",
                "table: has no column 'strategy' (did you mean 'stratgy'?)",
                "table: has no column 'score' (did you mean 'scores'?)",
            ],
        ),
        ("task,task,strategy,seed,score\na,a,b,0,1\n", ["table: has 2 columns called 'task'"]),
        (
            "task,strategy,seed,score\nt,a,0\nt,a,1,0.5\nt,a,2,0,5\n",
            ["table: lines 2 and 4: not as many fields as the header has (4)"],
        ),
        (
            "task;strategy;seed;score\nt;a;0;0,5\n",
            [
                "table: line 2: not as many fields as the header has (1) "
                "(fields are separated by commas, in a .tsv file by tabs)"
            ],
        ),
        (
            "task,strategy,seed,score,hp.lr\nt,a,0,0.5,1\nt,a,0,0.6,2\n",
            [
                "table: lines 2 and 3: one confirm run with several settings (t, a, seed 0) "
                "(trials of a search say tune in a column 'phase')"
            ],
        ),
        (
            "task,strategy,seed,score,split,phase\nt,a,0,0.5,test,tune\nt,a,1,0.5,,\n",
            ["table: line 2: a tune run with a test score: what selects settings must not have seen test"],
        ),
        (
            "task,strategy,seed,score,split,phase\nt,a,0,0.5,validation,confirm\n",
            [
                "table: has confirm runs, and no score on the test split "
                "(without confirm runs a report is made of the validation scores)"
            ],
        ),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert complaints(path) == said


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.PARQUET"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00\x01", b"PAR1 no", b'task,strategy\n"a" b,"', b"\x00" * 9]
)
def test_files_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert len(complaints(tmp_path / name)) == 1


def test_a_parquet_column_of_lists_is_named(tmp_path: Path) -> None:
    pd.DataFrame([{**row, "score": [row["score"]]} for row in rows_of()]).to_parquet(tmp_path / "t.parquet")
    assert "column 'score' holds list" in complaints(tmp_path / "t.parquet")[0]


HEADS = [
    "task", "strategy", "seed", "score", "status", "metric", "split", "phase", "example", "direction",
    "backbone", "device_s", "hp.lr", "hp.", "note", "Score", "",
]  # fmt: skip
VALUES = [
    "", "t", "u", "a", "b", "</script><img onerror=x>", "0", "1", "2", "-1", "0.5", "nan", "inf", "1e999",
    "1_0", "9" * 30, "finished", "diverged", "failed", "tune", "confirm", "test", "validation", "max", "min",
    "\u0663", "a\nb", '"', ",", "\x00", "\ud800",
]  # fmt: skip


@st.composite
def hostile_tables(draw: st.DrawFn) -> str:
    """Mostly tables, some of them good, with words of every column in every other."""
    heads = draw(st.permutations(["task", "strategy", "seed", "score"]))
    heads = [*heads, *draw(st.lists(st.sampled_from(HEADS[4:]), max_size=5, unique=draw(st.booleans())))]
    score = st.sampled_from(["0.5", "0.6", "0.7", "1e40", "-3"])
    wild = draw(st.sampled_from([0.0, 0.0, 0.02, 0.5]))
    rng = draw(st.randoms(use_true_random=False))
    lines = [heads]
    for row in range(draw(st.integers(0, 24))):
        known = {"task": "tu"[row // 2 % 2], "strategy": "ab"[row % 2], "seed": str(row // 4),
                 "score": draw(score), "status": "", "metric": "m", "split": "", "phase": "", "example": "1",
                 "direction": "max", "backbone": "x", "device_s": "3", "hp.lr": "0.1"}  # fmt: skip
        lines.append([rng.choice(VALUES) if rng.random() < wild else known.get(head, "x") for head in heads])
    quote = draw(st.booleans())
    return "\n".join(
        ",".join('"' + v.replace('"', '""') + '"' if quote else v for v in line) for line in lines
    )


@pytest.mark.timeout(240)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(hostile_tables(), st.text(max_size=200)))
def test_whatever_a_table_holds_it_is_judged_or_its_mistakes_are_told(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        study = read_table(path)
    except InputError as error:
        assert error.mistakes and all(
            mistake.place.startswith((str(path), "--")) for mistake in error.mistakes
        )
        return
    json.dumps(judge(study), allow_nan=False)
    assert len(study.frame) == sum(cell.listed for cell in study.cells) > 0
    assert study.frame["trial_id"].is_unique


# Several at once.


def halves(tmp_path: Path) -> tuple[Study, Study, Study]:
    """The typical sweep, and two that each have one of its tasks."""
    whole = typical()
    parts = []
    for task, scores in whole.scores.items():
        sweep = Sweep({task: scores}, baseline="full", name=task)
        parts.append(load_study(sweep.write(tmp_path / task)))
    return load_study(whole.write(tmp_path / "whole")), *parts


def test_sweeps_with_a_task_each_together_are_the_sweep_with_both(tmp_path: Path) -> None:
    whole, first, second = halves(tmp_path)
    merged = merge({"a": first, "b": second})
    assert numbers(judge(merged)) == numbers(judge(whole))
    assert [s["name"] for s in merged.plan["strategies"]] == [s["name"] for s in whole.plan["strategies"]]
    assert merged.plan["name"] == "a+b" and merged.plan["baseline"] == "full"
    assert len(merged.frame) == len(whole.frame) and merged.frame["cell"].nunique() == len(merged.cells) == 8
    assert merged.provenance["versions"] == whole.provenance["versions"]


def test_the_order_of_sweeps_changes_no_number(tmp_path: Path) -> None:
    _, first, second = halves(tmp_path)
    there, back = (
        numbers(judge(merge(studies))) for studies in ({"a": first, "b": second}, {"b": second, "a": first})
    )
    assert there == back


def test_the_same_sweep_twice_is_the_sweep(tmp_path: Path) -> None:
    sweep = load_study(typical().write(tmp_path / "a"))
    merged = merge({"a": sweep, "b": sweep})
    assert numbers(judge(merged)) == numbers(judge(sweep))
    assert len(merged.frame) == len(sweep.frame)
    assert not any("not the same" in remark for remark in merged.plan["remarks"])


def test_a_run_that_came_out_differently_is_told(tmp_path: Path) -> None:
    first, again = typical().write(tmp_path / "a"), typical().write(tmp_path / "b")
    change(
        again.trial("c0000-confirm-0000"),
        metrics={"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}},
    )
    merged = merge({"a": load_study(first), "b": load_study(again)})
    assert any("1 trial(s) are in several" in remark for remark in merged.plan["remarks"])
    assert numbers(judge(merged)) == numbers(judge(load_study(first)))


@pytest.mark.parametrize(
    ("change_of", "kind", "names"),
    [
        ({"tasks": {"data": "other"}}, "tasks", ["t (a)", "t (b)"]),
        ({"tasks": {"primary": "f1"}}, "tasks", ["t (a)", "t (b)"]),
        ({"tasks": {"data": None}}, "tasks", ["t"]),
        ({"tasks": {"name": "same"}}, "tasks", ["t"]),
        ({"backbones": {"weights": "other"}}, "backbones", ["minilm-l6 (a)", "minilm-l6 (b)"]),
        ({"strategies": {"definition": {"freeze": 3}}}, "strategies", ["s (a)", "s (b)"]),
        ({}, "strategies", ["s"]),
    ],
)
def test_what_is_the_same_is_one_and_the_rest_is_told_apart(
    tmp_path: Path, change_of: dict[str, Any], kind: str, names: list[str]
) -> None:
    def study(name: str, changes: Mapping[str, Any]) -> Study:
        paths = Sweep({"t": {"s": [0.5, 0.6, 0.7]}}, name=name).write(tmp_path / name)
        plan = json.loads(paths.plan.read_text())
        plan["tasks"][0] |= {"data": "data", **changes.get("tasks", {})}
        plan["backbones"][0] |= {"weights": "weights", **changes.get("backbones", {})}
        plan["strategies"][0] |= changes.get("strategies", {})
        for cell in plan["cells"]:
            cell["task"] = plan["tasks"][0]["name"]
        put(paths.plan, plan)
        return load_study(paths)

    merged = merge({"a": study("a", {}), "b": study("b", change_of)})
    assert [entry["name"] for entry in merged.plan[kind]] == names
    assert len(merged.arenas()) == (2 if kind != "strategies" and len(names) == 2 else 1)
    told = [remark for remark in merged.plan["remarks"] if remark.startswith("Of one name")]
    assert bool(told) == (len(names) == 2)
    judge(merged)


def test_strategies_that_contradict_each_other_are_two(tmp_path: Path) -> None:
    """Equal definitions, other runs of the same seeds: the sweeps' defaults must have differed."""
    first = Sweep({"t": {"s": [0.5, 0.6, 0.7], "r": [0.5, 0.5, 0.5]}}).write(tmp_path / "a")
    second = Sweep({"t": {"r": [0.1, 0.2, 0.1], "s": [0.8, 0.9, 0.8]}}).write(tmp_path / "b")
    merged = merge({"a": load_study(first), "b": load_study(second)})
    assert sorted(s["name"] for s in merged.plan["strategies"]) == ["r (a)", "r (b)", "s (a)", "s (b)"]
    (task,) = judge(merged)["tasks"].values()
    assert task["leader"] == "s (b)" and all(c["n"] == 3 for c in task["comparisons"])


def test_seeds_of_a_table_and_a_sweep_are_never_paired(tmp_path: Path, table: Any) -> None:
    sweep = load_study(Sweep({"t": {"mine": [0.5, 0.6, 0.7, 0.6]}}).write(tmp_path / "a"))
    rows = rows_of({"theirs": [0.5, 0.6, 0.7, 0.6]}, backbone="minilm-l6")
    for row in rows:
        row["seed"] += 100  # as the sweep calls its own
    merged = merge({"a": sweep, "scores": table(rows, metric="accuracy", known={"accuracy": "max"})})
    (task,) = judge(merged)["tasks"].values()
    assert set(task["scores"]) == {"mine", "theirs"} and task["comparisons"][0]["n"] == 0
    assert task["scores"]["theirs"]["mean"] == pytest.approx(0.6)
    assert any("renumbered" in remark for remark in merged.plan["remarks"])


def test_seeds_of_tables_are_paired_by_number(table: Any) -> None:
    first, second = (table(rows_of({name: SCORES[name]}), name=name) for name in ("full", "head"))
    merged = merge({"x": first, "y": second})
    assert numbers(judge(merged)) == numbers(judge(table(rows_of())))


def test_tables_that_both_have_a_strategys_seeds_are_told_apart(table: Any) -> None:
    first, second = table(rows_of(), name="one"), table(rows_of({"full": [0.1, 0.2, 0.3, 0.4]}), name="two")
    merged = merge({"one": first, "two": second})
    assert [s["name"] for s in merged.plan["strategies"]] == ["full (one)", "head", "full (two)"]
    more = rows_of({"full": [0.1, 0.2]})
    for row in more:
        row["seed"] += 10
    assert len(merge({"one": first, "more": table(more, name="more")}).plan["strategies"]) == 2


def test_examples_are_asked_of_the_table_that_has_them(table: Any) -> None:
    rows = example_rows()
    parts = [table([r for r in rows if r["strategy"] == name], name=name) for name in ("full", "head")]
    merged, whole = merge(dict(zip("xy", parts, strict=True))), table(rows)
    assert numbers(judge(merged)) == numbers(judge(whole))
    assert judge(merged)["tasks"]["t"]["comparisons"][0]["examples"] == 12
    fewer = table([r for r in rows if r["strategy"] == "head" and r["example"] < 9], name="fewer")
    assert len(merge({"x": parts[0], "z": fewer}).plan["tasks"]) == 2


def test_hyper_parameters_of_several_kinds_fit_in_one_column(tmp_path: Path, table: Any) -> None:
    one = table(rows_of({"a": [0.1] * 3}, **{"hp.freeze": 3}), name="one")
    two = table(rows_of({"b": [0.1] * 3}, **{"hp.freeze": "all"}), name="two")
    merge({"one": one, "two": two}).frame.to_parquet(tmp_path / "frame.parquet")


# A part, and another view.


def test_a_part_is_judged_as_if_the_rest_had_never_been(tmp_path: Path) -> None:
    study = load_study(typical().write(tmp_path / "whole"))
    part = choose.only(study, ["bbc-*"], ["full", "top-2"])
    scores = {"bbc-topics": {name: typical().scores["bbc-topics"][name] for name in ("top-2", "full")}}
    alone = load_study(Sweep(scores, baseline="full").write(tmp_path / "part"))
    assert numbers(judge(part)) == numbers(judge(alone))
    (said,) = part.plan["remarks"]
    assert "tasks: tweet-sentiment" in said and "strategies: head-only, full-l2sp" in said
    assert choose.only(study) is study


def test_names_with_brackets_mean_themselves(table: Any) -> None:
    study = table(rows_of({"depth[freeze=0]": [0.5] * 3, "depth[freeze=3]": [0.6] * 3, "e": [0.1] * 3}))
    assert [c.strategy for c in choose.only(study, (), ["depth[freeze=0]"]).cells] == ["depth[freeze=0]"]
    assert len(choose.only(study, (), ["depth*"]).cells) == 2


def test_a_baseline_that_is_left_out_is_told(tmp_path: Path) -> None:
    part = choose.only(load_study(typical().write(tmp_path)), (), ["top-2", "head-only"])
    assert part.plan["baseline"] is None and "The baseline, full, is not shown" in part.plan["remarks"][1]


def test_names_that_are_not_there(tmp_path: Path) -> None:
    study = load_study(typical().write(tmp_path))
    for call, said in (
        (lambda: choose.only(study, ["bbc-topic"], ["ful"]), ["'bbc-topics'", "'full'"]),
        (lambda: choose.with_baseline(study, "fulll"), ["'full'"]),
        (lambda: choose.with_metric(study, "acc", {}), ["'accuracy'", "'accuracy'"]),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert [re.search("did you mean ('.*')", str(m))[1] for m in caught.value.mistakes] == said  # type: ignore[index]


def test_another_metric_is_the_headline(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8, 0.81, 0.82], "b": [0.7, 0.72, 0.71]}}).write(tmp_path)
    for trial in paths.trials.glob("*confirm*"):
        score = json.loads(trial.read_text())["metrics"]["test"]["accuracy"]
        change(trial, metrics={"validation": None, "test": {"accuracy": score, "loss": 2 * score}})
    study = choose.with_metric(load_study(paths), "loss", {}, "min")
    task = judge(study)["tasks"]["t"]
    assert (task["primary"], task["direction"], task["leader"]) == ("loss", "min", "b")
    assert task["scores"]["a"]["mean"] == pytest.approx(1.62) and task["margin"] is None
    assert any("selected by validation accuracy" in remark for remark in study.plan["remarks"])
    wide = choose.with_delta(study, 0.5)
    assert judge(wide)["tasks"]["t"]["comparisons"][0]["negligible"]


# One against another.


def shifted(by: float) -> Sweep:
    sweep = typical()
    sweep.scores = {
        task: {
            name: [s + by if not isinstance(s, str) else s for s in values]
            for name, values in strategies.items()
        }
        for task, strategies in sweep.scores.items()
    }
    return sweep


def test_a_contrast_is_b_minus_a_and_its_mirror(tmp_path: Path) -> None:
    a, b = load_study(typical().write(tmp_path / "a")), load_study(shifted(0.25).write(tmp_path / "b"))
    there, back = contrast({"a": a, "b": b}), contrast({"b": b, "a": a})
    assert len(there["comparisons"]) == 8
    for one, other in zip(there["comparisons"], back["comparisons"], strict=True):
        assert one["difference"] == pytest.approx(0.25) and other["difference"] == pytest.approx(-0.25)
        assert one["n"] == (4 if (one["task"], one["strategy"]) == ("tweet-sentiment", "full") else 5)
        assert one["p_adjusted"] == other["p_adjusted"]
        assert one["scores"]["a"]["mean"] + 0.25 == pytest.approx(one["scores"]["b"]["mean"])
    assert there["differs"] == [] and there["only_a"] == there["only_b"] == []


def test_a_study_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    a = load_study(typical().write(tmp_path / "a"))
    found = contrast({"a": a, "again": a})
    assert {entry["difference"] for entry in found["comparisons"]} == {0.0}
    assert not {entry["verdict"] for entry in found["comparisons"]} & {"better", "worse"}


def test_equal_trials_of_two_studies_keep_their_own_examples(table: Any) -> None:
    """The same trial, run with other versions, may come out differently."""
    a, b = table(example_rows(0), name="a"), table(example_rows(0), name="b")
    assert set(a.frame["trial_id"]) == set(b.frame["trial_id"])
    worse = {(trial, "accuracy"): np.zeros((12, 1)) for trial in b.frame["trial_id"]}
    import dataclasses

    frame = b.frame.assign(score_test=0.0)
    b = dataclasses.replace(b, frame=frame, examples=lambda trial, metric: worse.get((trial, metric)))
    for entry in contrast({"a": a, "b": b})["comparisons"]:
        assert entry["examples"] == 12 and entry["difference"] == -entry["scores"]["a"]["mean"]


def test_an_unfinished_side_is_told(tmp_path: Path) -> None:
    first, second = typical().write(tmp_path / "a"), typical().write(tmp_path / "b")
    second.cell("c0007").unlink()
    found = contrast({"a": load_study(first), "b": load_study(second)})
    assert any("b is not finished: 1 of 8 cells are open" in remark for remark in found["remarks"])


def test_a_table_against_a_sweep_makes_no_claim(tmp_path: Path, table: Any) -> None:
    sweep = load_study(Sweep({"t": {"full": [0.5, 0.6, 0.7, 0.6]}}).write(tmp_path / "a"))
    scores = table(rows_of(), metric="accuracy", known={"accuracy": "max"})
    (entry,) = contrast({"a": sweep, "b": scores})["comparisons"]
    assert (entry["n"], entry["difference"], entry["verdict"]) == (0, None, "undetermined")
    assert entry["scores"]["b"]["mean"] == pytest.approx(0.95)


def test_what_differs_is_told(tmp_path: Path) -> None:
    first, second = typical().write(tmp_path / "a"), typical().write(tmp_path / "b")
    plan = json.loads(second.plan.read_text())
    plan["tasks"][0] |= {"splits": {"train": 800, "validation": 200, "test": 400}}
    put(second.plan, plan)
    for trial in second.trials.iterdir():
        facts = json.loads(trial.read_text())["provenance"]
        facts["versions"]["torch"], facts["git"]["commit"] = "2.15.0", "def"
        change(trial, provenance=facts)
    sweeps = {"a": {"name": "x", "training": {"epochs": 3}}, "b": {"name": "y", "training": {"epochs": 4}}}
    found = contrast({"a": load_study(first), "b": load_study(second)}, sweeps)
    assert [(e["part"], e["name"], e["a"], e["b"]) for e in found["differs"]] == [
        ("versions", "torch", "2.14.1", "2.15.0"),
        ("git", "commit", "abc", "def"),
        ("task bbc-topics", "splits.test", 500, 400),
        ("sweep file", "training.epochs", 3, 4),
    ]


def test_nothing_in_common_is_told(tmp_path: Path, table: Any) -> None:
    with pytest.raises(
        InputError, match=r"no strategy is there in both.*a has full and head on t; b has x on u"
    ):
        contrast({"a": table(rows_of(), name="a"), "b": table(rows_of({"x": [1.0]}, task="u"), name="b")})


# At the command line.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep, another one, and a table."""
    monkeypatch.chdir(tmp_path)
    typical().write(tmp_path / "results" / "typical")
    Sweep({"bbc-topics": {"full": [0.97, 0.95, 0.97, 0.96, 0.96]}}, name="new").write(
        tmp_path / "results" / "new"
    )
    write(tmp_path / "scores.csv", rows_of())
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "folder", "said"),
    [
        ("scores.csv", "scores", "Table: file scores.csv"),
        ("scores.csv --baseline full --delta 0.02", "scores", "Baseline: full"),
        ("scores.csv --name mine", "mine", "Which fine-tuning strategy wins? mine"),
        ("typical new", "typical+new", "full (typical)"),
        ("typical --task bbc* --name part", "part", "leaves out tasks: tweet-sentiment"),
        ("typical scores.csv new", "typical+scores+new", "A table does not say"),
    ],
)
def test_a_report_goes_into_a_folder_of_its_own(
    home: Path, capsys: Any, arguments: str, folder: str, said: str
) -> None:
    before = files(home)
    assert main(["report", *shlex.split(arguments)]) == 0
    after = files(home)
    assert {name: after[name] for name in before} == before
    written = after.keys() - before.keys()
    assert {Path(name).parts[:2] for name in written} == {("results", folder)}
    names = {"report.html", "report.md", "verdicts.json", "trials.parquet"}
    assert names <= {Path(name).name for name in written}
    text = (home / "results" / folder / "report.md").read_text(encoding="utf-8")
    assert said.replace("*", "") in text.replace("\\", "")
    assert f"results/{folder}/report.html" in capsys.readouterr().out


def test_a_view_of_a_sweep_leaves_its_own_report_alone(home: Path) -> None:
    assert main(["report", "typical"]) == 0
    before = files(home / "results" / "typical")
    assert main(["report", "typical", "--strategy", "full*"]) == 0
    assert files(home / "results" / "typical") == before
    (made,) = set((home / "results").iterdir()) - {home / "results" / "typical", home / "results" / "new"}
    assert made.name.startswith("typical-strategy-full-")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("report nothing.csv", ["nothing.csv: there is no such file"]),
        ("report typicl", ["typicl: holds no results of a sweep (did you mean 'typical'?)"]),
        ("report typical typical", ["typical: is given twice"]),
        ("report typical --name new", ["results/new: holds the results of a sweep"]),
        ("report scores.csv --results .. --name ../x", ["--name: '../x' cannot be the name of a folder"]),
        (
            "report typical --task bc --baseline ful",
            ["--baseline: there is no strategy 'ful'", "--task: nothing is"],
        ),
        (
            "report typical --delta nan --direction max",
            ["--delta: takes a number", "--direction: belongs to a table"],
        ),
        ("report typical --metric accuracy --direction min", ["--direction: accuracy has the direction max"]),
        (
            "report bad.csv typicl nothing.csv",
            ["bad.csv: has no column 'score'", "typicl: holds", "nothing.csv: there"],
        ),
        ("compare typical scores.csv", ["typical, scores: no strategy is there in both"]),
        ("compare typical nothing.parquet", ["nothing.parquet: there is no such file"]),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    home: Path, capsys: Any, arguments: str, said: list[str]
) -> None:
    (home / "bad.csv").write_text("task,strategy,seed\nt,a,0\n")
    before = files(home.parent)
    assert main(shlex.split(arguments)) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for words in said:
        assert f"harness: {words}" in told
    assert len(told.splitlines()) == len(said) + 1
    assert files(home.parent) == before


def test_a_table_never_gets_its_report_beside_it(home: Path) -> None:
    inside = home / "results" / "scores"
    inside.mkdir()
    (home / "scores.csv").rename(inside / "scores.csv")
    assert main(["report", "results/scores/scores.csv"]) == 2
    assert main(["report", "results/scores/scores.csv", "--name", "other"]) == 0
    assert [path.name for path in inside.iterdir()] == ["scores.csv"]


def test_compare_shows_a_table_or_json(home: Path, capsys: Any) -> None:
    assert main(["compare", "typical", "new"]) == 0
    shown = capsys.readouterr().out
    assert "differences are new − typical" in shown and "+0.011" in shown and "only in typical: " in shown
    assert main(["compare", "typical", "new", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (entry,) = found["comparisons"]
    assert entry["difference"] == pytest.approx(0.0106) and len(found["only_a"]) == 7


# What the document shows works as it stands there.


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_commands_of_the_document_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = (DOCS / "reports.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"`([a-z-]+\.csv)`:\n\n```csv\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(content)
    typical().write(tmp_path / "results" / "quickstart")
    shifted(0.01).write(tmp_path / "results" / "newer")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = [line for language, block in blocks if not language for line in block.splitlines()]
    assert len(commands) > 12 and (tmp_path / "scores.csv").exists()
    for command in commands:
        name, *arguments = shlex.split(command, comments=True)
        assert name == "harness" and main(arguments) == 0, command
        assert capsys.readouterr().out


def test_the_order_of_sweeps_does_not_choose_the_margin(tmp_path: Path) -> None:
    """Two sweeps that disagree on δ: the stricter one counts, and it is said."""
    scores = {"a": [0.90, 0.91, 0.92], "b": [0.89, 0.90, 0.91]}
    one = load_study(Sweep({"t": scores}, name="one", delta=0.01).write(tmp_path / "one"))
    two = load_study(Sweep({"t": {"c": [0.8, 0.81, 0.82]}}, name="two", delta=0.2).write(tmp_path / "two"))
    for studies in ({"one": one, "two": two}, {"two": two, "one": one}):
        merged = merge(studies)
        assert merged.plan["tasks"][0]["delta"] == 0.01
        assert any("δ differs" in remark for remark in merged.plan["remarks"])


def test_a_report_goes_nowhere_else_and_onto_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Not out of --results by a file's name, and not over what is no report."""
    monkeypatch.chdir(tmp_path)
    text = "task,strategy,seed,score\nt,a,1,0.5\nt,a,2,0.6\n"
    for name in ("...csv", "..csv", "scores.csv"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(text)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for name in ("...csv", "..csv"):
        assert main(["report", f"in/{name}", "--metric", "accuracy"]) == 2
    (tmp_path / "results" / "scores").mkdir(parents=True)
    (tmp_path / "results" / "scores" / "report.md").write_text("mine")
    assert main(["report", "in/scores.csv", "--metric", "accuracy"]) == 2
    assert (tmp_path / "results" / "scores" / "report.md").read_text() == "mine"
    assert "holds something else than a report" in capsys.readouterr().err
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name != "report.md") == before
    assert main(["report", "in/scores.csv", "--metric", "accuracy", "--name", "fine"]) == 0
    assert main(["report", "in/scores.csv", "--metric", "accuracy", "--name", "fine"]) == 0
