"""The command line: a whole sweep in this process, what it leaves, what it says, how it exits."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import records, word_task

from harness.cli import main
from harness.training import rate


@pytest.fixture
def local(tmp_path: Path) -> Any:
    """`local(spec, *more)`: run a sweep with `--local`; returns the exit code."""

    def run(path: Path, *more: str) -> int:
        return main(["run", str(path), "--results", str(tmp_path / "results"), "--local", *more])

    return run


def stamps(folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (folder / "trials").glob("*.json")}


def test_a_sweep_from_file_to_verdict(sweep: Any, local: Any, tmp_path: Path, capsys: Any) -> None:
    assert local(sweep()) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "results" / "small"
    for name in (
        "sweep.yaml",
        "plan.json",
        "trials.parquet",
        "report.html",
        "report.md",
        "verdicts.json",
        "tb",
    ):
        assert (folder / name).exists(), name
    plan = json.loads((folder / "plan.json").read_text())
    found = records(folder)
    assert sum(r["phase"] == "tune" for r in found.values()) == sum(c["budget"] for c in plan["cells"]) == 4
    assert sum(r["phase"] == "confirm" for r in found.values()) == 2 * 3
    assert {r["seed"] for r in found.values() if r["phase"] == "confirm"} == {1000, 1001, 1002}
    verdict = json.loads((folder / "verdicts.json").read_text())["tasks"]["words"]
    assert {
        "leader",
        "tie_set",
        "recommended",
        "baseline",
        "comparisons",
        "seeds",
        "coverage",
        "failures",
    } <= set(verdict)
    assert verdict["sentence"] in said and "report.html" in said and "harness tensorboard" in said
    assert list((folder / "predictions").glob("*.parquet")) and list((folder / "figures").glob("*.svg"))
    assert list((folder / "tables").glob("*.tex"))
    assert not list((folder / "checkpoints").glob("*"))


def test_running_again_redoes_nothing(sweep: Any, local: Any, tmp_path: Path) -> None:
    path, folder = sweep(), tmp_path / "results" / "small"
    assert local(path) == 0
    before = stamps(folder)
    assert local(path) == 0
    assert stamps(folder) == before


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"seeds": {"tune": 1, "confirm": 4}}, 2),
        ({"optimizer": {"learning_rate": {"grid": [1e-3, 1e-2, 3e-2]}}}, 2),
        (
            {"strategies": {"full": {"freeze": 0}, "head-only": {"freeze": "all"}, "top": {"freeze": 2}}},
            2 + 3,
        ),
    ],
    ids=["a seed", "a value", "a strategy"],
)
def test_a_grown_sweep_runs_only_what_is_new(
    sweep: Any, local: Any, tmp_path: Path, change: dict[str, Any], new: int
) -> None:
    folder = tmp_path / "results" / "small"
    assert local(sweep()) == 0
    before = stamps(folder)
    assert local(sweep(**change)) == 0
    after = stamps(folder)
    assert {key: after[key] for key in before} == before
    winners_changed = "optimizer" in change  # a new winner is confirmed on its own seeds
    assert len(after) - len(before) >= new if winners_changed else len(after) - len(before) == new


def test_the_command_that_the_report_gives_works(sweep: Any, local: Any, tmp_path: Path) -> None:
    """Two seeds allow no claim: the report says what to run, and running it confirms on more seeds."""
    assert local(sweep(seeds={"tune": 1, "confirm": 2})) == 0
    folder = tmp_path / "results" / "small"
    before = stamps(folder)
    (step,) = json.loads((folder / "verdicts.json").read_text())["tasks"]["words"]["advice"]
    _, *command = shlex.split(step["command"])
    assert main([*command, "--local"]) == 0
    verdict = json.loads((folder / "verdicts.json").read_text())["tasks"]["words"]
    assert verdict["seeds"] == 5 and all(c["examples"] > 0 for c in verdict["comparisons"])
    assert {name: stamp for name, stamp in stamps(folder).items() if name in before} == before


def test_a_new_task_runs_only_itself(sweep: Any, local: Any, words_csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "small"
    assert local(sweep()) == 0
    before = stamps(folder)
    two = [word_task(words_csv), word_task(words_csv, "other", split_seed=1)]
    assert local(sweep(tasks=two)) == 0
    assert len(stamps(folder)) == 2 * len(before)


def test_equal_strategies_share_their_trials(sweep: Any, local: Any, tmp_path: Path) -> None:
    """λ = 0 is no regulariser: four strategies, two different trainings."""
    strategies = {
        "full": {"freeze": 0},
        "zero": {"freeze": 0, "regularizer": {"name": "l2-sp", "strength": 0}},
        "head": {"freeze": "all"},
        "head-sp": {"freeze": 1.0, "regularizer": {"name": "l2-sp", "strength": {"grid": [0.1, 1.0]}}},
    }
    assert local(sweep(strategies=strategies)) == 0
    folder = tmp_path / "results" / "small"
    assert len(records(folder)) == 2 * (2 + 3)
    scores = json.loads((folder / "verdicts.json").read_text())["tasks"]["words"]["scores"]
    assert scores["full"]["per_seed"] == scores["zero"]["per_seed"]
    assert scores["head"]["per_seed"] == scores["head-sp"]["per_seed"]


def test_without_a_confirm_phase_the_report_says_so(sweep: Any, local: Any, tmp_path: Path) -> None:
    assert local(sweep(seeds={"tune": 2, "confirm": 0})) == 0
    folder = tmp_path / "results" / "small"
    assert all(record["metrics"]["test"] is None for record in records(folder).values())
    assert json.loads((folder / "verdicts.json").read_text())["tasks"]["words"]["split"] == "validation"
    assert "validation" in (folder / "report.md").read_text()


def test_failed_trials_leave_the_sweep_running_and_are_tried_again(
    sweep: Any, local: Any, tmp_path: Path, capsys: Any
) -> None:
    log = tmp_path / "log"
    fault = {"name": "fault", "log": str(log)}
    strategies = {
        "full": {"freeze": 0},
        "raises": {"freeze": 0, "regularizer": {**fault, "what": "raise", "at": 3}},
        "diverges": {"freeze": 0, "regularizer": {**fault, "what": "nan", "at": 10}},
        "too-large": {"freeze": 0, "regularizer": {**fault, "what": "oom"}},
    }
    path = sweep(strategies=strategies, optimizer={"learning_rate": 1e-3})
    assert local(path) == 3
    by_status: dict[str, set[str]] = {}
    for record in records(tmp_path / "results" / "small").values():
        by_status.setdefault(record["status"], set()).add(record["strategy"])
    assert by_status == {
        "finished": {"full"}, "failed": {"raises"}, "diverged": {"diverges"}, "infeasible": {"too-large"},
    }  # fmt: skip
    verdict = json.loads((tmp_path / "results" / "small" / "verdicts.json").read_text())["tasks"]["words"]
    assert verdict["leader"] == "full"
    assert verdict["failures"] == {"diverged": 1, "infeasible": 1, "failed": 1}
    larger = ["oom"] * 4  # with 8, 4, 2 and 1 examples at a time
    assert sorted(log.read_text().split()) == ["nan", *larger, "raise"]
    assert local(path) == 3  # only the fault of the machinery is tried again
    assert sorted(log.read_text().split()) == ["nan", *larger, "raise", "raise"]
    assert "Traceback" not in capsys.readouterr().err


def test_halving_stops_trials_within_each_cell(
    sweep: Any, local: Any, words_csv: Path, tmp_path: Path
) -> None:
    """Two tasks whose scores differ a hundredfold: each cell stops its own, none is stopped by the other."""
    path = sweep(
        tasks=[
            word_task(words_csv, metrics=["percent"]),
            word_task(words_csv, "others", metrics=["accuracy"], split_seed=1),
        ],
        strategies={"full": {"freeze": 0}},
        optimizer={"learning_rate": {"grid": [1e-2, 1e-8, 2e-8, 3e-8, 4e-8, 5e-8]}},
        training={"epochs": 4, "batch_size": 8, "max_length": 16},
        search={"algorithm": "grid", "scheduler": {"name": "asha", "grace": 1, "reduction": 2}},
        seeds={"tune": 1, "confirm": 0},
    )
    assert local(path) == 0
    for task, metric in (("words", "percent"), ("others", "accuracy")):
        found = [r for r in records(tmp_path / "results" / "small").values() if r["task"] == task]
        stopped = [r for r in found if r["status"] == "stopped"]
        assert len(found) == 6 and 1 <= len(stopped) < 6
        assert all(len(r["curve"]) < 4 and r["metrics"]["test"] is None for r in stopped)
        early = {r["trial_id"]: r["curve"][0]["validation"][metric] for r in found}
        best = max(early.values())
        assert any(r["status"] == "finished" for r in found if early[r["trial_id"]] == best)
        assert all(early[r["trial_id"]] < best for r in stopped)


def test_optuna_keeps_its_studies_with_the_results(sweep: Any, local: Any, tmp_path: Path) -> None:
    import optuna

    path = sweep(
        optimizer={"learning_rate": {"loguniform": [1e-4, 1e-2]}},
        search={"algorithm": "optuna", "trials": 4, "scheduler": "asha"},
        strategies={
            "full": {"freeze": 0},
            "sp": {"regularizer": {"name": "l2-sp", "strength": {"uniform": [0, 1]}}},
        },
    )
    assert local(path) == 0
    folder = tmp_path / "results" / "small"
    before = stamps(folder)
    assert local(path) == 0 and stamps(folder) == before
    storage = f"sqlite:///{folder / 'optuna.db'}"
    studies = optuna.get_all_study_summaries(storage)
    assert len(studies) == 2
    for study in studies:
        states = [
            t.state.name for t in optuna.load_study(study_name=study.study_name, storage=storage).trials
        ]
        assert len(states) == 4 and set(states) <= {"COMPLETE", "PRUNED"}


def test_bad_input_names_every_mistake_and_writes_nothing(sweep: Any, tmp_path: Path, capsys: Any) -> None:
    path = sweep(
        training={"epochs": 0},
        strategies={"full": {"freze": 0}, "deep": {"freeze": 99}},
        baseline="ful",
        resources={"cpus": 4096},
    )
    assert main(["run", str(path), "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    for words in ("training.epochs", "did you mean 'freeze'", "did you mean 'full'"):
        assert words in said
    assert "Traceback" not in said and not (tmp_path / "results").exists()


def test_what_only_data_and_models_show_is_found_before_any_trial(
    sweep: Any, tmp_path: Path, capsys: Any
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    path = sweep(strategies={"deep": {"freeze": 99}}, baseline=None, resources={"cpus": 4096})
    assert main(["run", str(path), "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert "freezes 99 rungs, and the ladder has 4" in said and "4096 cores" in said
    assert f"{path.name}:" in said  # with the line
    path = sweep(backbones=[str(broken)])
    assert main(["plan", str(path)]) == 2
    assert "holds no safetensors weights" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_results_of_a_different_sweep_are_refused(
    sweep: Any, local: Any, words_csv: Path, tmp_path: Path, capsys: Any
) -> None:
    assert local(sweep()) == 0
    before = stamps(tmp_path / "results" / "small")
    assert local(sweep(tasks=[word_task(words_csv, "another")])) == 2
    assert "different sweep" in capsys.readouterr().err
    assert stamps(tmp_path / "results" / "small") == before


def test_a_held_folder_is_refused_with_its_owner(sweep: Any, local: Any, tmp_path: Path, capsys: Any) -> None:
    from harness.records.lock import hold
    from harness.records.paths import ResultPaths

    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys\nfrom pathlib import Path\nfrom harness.records.lock import hold\n"
         "from harness.records.paths import ResultPaths\n"
         f"with hold(ResultPaths(Path({str(tmp_path / 'results' / 'small')!r}))):\n"
         "    print('held', flush=True)\n    sys.stdin.read()\n"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert local(sweep()) == 4
    assert f"process {holder.pid}" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    with hold(ResultPaths(tmp_path / "results" / "small")):
        pass


def test_plan_as_data_and_as_text(sweep: Any, capsys: Any) -> None:
    assert main(["plan", str(sweep()), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [len(cell["trials"]) for cell in plan["cells"]] == [2, 2]
    assert plan["predicted"]["flops"] > 0 and plan["predicted"]["disk_bytes"] > 0
    assert main(["plan", str(sweep())]) == 0
    assert "4 tune + 6 confirm trials" in capsys.readouterr().out


def test_set_changes_a_setting(sweep: Any, capsys: Any) -> None:
    arguments = ["--set", "strategies.full.freeze=2", "--set", "tasks.words.train_size=32"]
    assert main(["plan", str(sweep()), "--json", *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["strategies"][0]["definition"]["freeze"] == 2
    assert plan["tasks"][0]["splits"]["train"] == 32


def test_status_and_report_read_what_is_there(sweep: Any, local: Any, tmp_path: Path, capsys: Any) -> None:
    assert local(sweep()) == 0
    folder = tmp_path / "results" / "small"
    some = sorted((folder / "trials").glob("*.json"))[0]
    some.unlink()  # an unfinished sweep
    capsys.readouterr()
    assert main(["status", "small", "--results", str(tmp_path / "results"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["trials"]["finished"] == 9
    assert main(["report", str(folder)]) == 0
    assert json.loads((folder / "verdicts.json").read_text())["complete"] is False
    assert main(["report", "smal", "--results", str(tmp_path / "results")]) == 2
    assert "did you mean 'small'?" in capsys.readouterr().err


def test_the_resolved_sweep_gives_the_same_plan(sweep: Any, local: Any, tmp_path: Path, capsys: Any) -> None:
    assert local(sweep()) == 0
    folder = tmp_path / "results" / "small"
    capsys.readouterr()
    assert main(["plan", str(folder / "sweep.yaml"), "--json"]) == 0
    again, first = json.loads(capsys.readouterr().out), json.loads((folder / "plan.json").read_text())
    assert [cell["trials"] for cell in again["cells"]] == [cell["trials"] for cell in first["cells"]]


@pytest.mark.parametrize(
    "kind", ["tasks", "backbones", "strategies", "regularizers", "optimizers", "metrics", "search"]
)
def test_everything_that_can_be_named_is_listed(kind: str, capsys: Any) -> None:
    assert main(["list", kind, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries and all(entry["name"] and entry["summary"] for entry in entries)
    assert main(["list", kind]) == 0


def test_the_ladder_of_any_folder_is_listed(models: Any, capsys: Any) -> None:
    assert main(["list", "backbones", str(models("gpt2")), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert [rung["name"] for rung in entry["ladder"]] == ["stem", "h.0", "h.1", "h.2"]


def test_sweeps_that_ship_are_valid(tmp_path: Path) -> None:
    """Every file in `sweeps/` reads; all that may be missing is the user's own data."""
    from harness import spec
    from harness.errors import InputError

    files = sorted((Path(__file__).parent.parent / "sweeps").glob("*.yaml"))
    assert len(files) >= 3
    for path in files:
        assert yaml.safe_load(path.read_text())["name"]
        try:
            spec.load(path)
        except InputError as error:
            assert all("there is no file or folder 'data/" in mistake.reason for mistake in error.mistakes), (
                path
            )


def test_help_names_every_verb() -> None:
    """The command line as a tested surface: what is added or taken away shows here."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True
    )
    for verb in ("plan", "run", "status", "report", "tensorboard", "list"):
        assert f"\n    {verb}" in done.stdout


def test_a_precision_that_this_machine_is_slow_at_is_told_and_counted(
    sweep: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Half of the work at a hundredth of the rate: the prediction is that of both."""
    rates = {"fp32": 1e9, "bf16": 1e7}
    monkeypatch.setattr(rate, "training_rate", lambda threads, precision="fp32": rates[precision])
    other = {"training": {"precision": "bf16"}}
    path = sweep(strategies={"full": {"freeze": 0}, "other": {"freeze": 0, **other}})
    assert main(["plan", str(path)]) == 0
    told = capsys.readouterr()
    assert "bf16 has 1.0% of the rate of fp32" in told.err
    assert "19.8 MFLOP/s a trial" in told.out  # 2 / (1/1e9 + 1/1e7)
    assert main(["plan", str(sweep())]) == 0
    assert not capsys.readouterr().err
