"""What `docs/security.md` promises, tried: nothing that was planted runs, no secret is written down, nothing
listens beyond this machine."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import word_task

from harness import cli, document, spec
from harness.cli import main
from harness.errors import InputError
from harness.redaction import REDACTED, redact

SECRETS = {
    "HF_TOKEN": "hf_planted0123456789",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret/0123456789",
    "RAY_AUTH_TOKEN": "plantedray0123456789abcdef0123456789",
    "MY_SERVICE_PASSWORD": "planted pass word",
    "MY_PRIVATE_KEY": "lines of\nplanted",
}


class Bomb:
    """A pickle of it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    """A file that only planted code makes; its absence is checked at the end."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()  # the bomb works
    path.unlink()
    yield path
    assert not path.exists(), "planted code ran"


# -- nothing planted runs --------------------------------------------------------------------------


def test_a_planted_checkpoint_counts_as_none(tmp_path: Path, canary: Path) -> None:
    from harness.records.paths import ResultPaths
    from harness.training.checkpoint import Checkpoints

    paths = ResultPaths(tmp_path)
    path = paths.checkpoint("x")
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(Bomb(canary)))
    assert Checkpoints(paths, "x", 60).load() is None
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)  # what was damaged has been set aside
    torch.save({"progress": Bomb(canary), "tensors": {}}, path)
    assert Checkpoints(paths, "x", 60).load() is None


def test_weights_that_are_a_pickle_are_refused(models: Any, sweep: Any, tmp_path: Path, canary: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    assert main(["plan", str(sweep(backbones=[{"name": "m", "path": str(folder)}]))]) == 2
    with pytest.raises(InputError):
        from harness.backbones.base import Backbone

        Backbone(path=str(folder)).model("AutoModelForSequenceClassification", None, {"num_labels": 2})


def test_weights_whose_header_is_a_pickle_are_refused(
    models: Any, sweep: Any, tmp_path: Path, canary: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
    assert main(["plan", str(sweep(backbones=[{"name": "m", "path": str(folder)}]))]) == 2


def test_code_that_comes_with_a_model_does_not_run(
    models: Any, sweep: Any, tmp_path: Path, canary: Path, capsys: Any
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.C"}
    config["model_type"] = "unheard-of"
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["plan", str(sweep(backbones=[{"name": "m", "path": str(folder)}]))]) == 2
    assert "cannot be read as a model" in capsys.readouterr().err


def test_a_file_of_weights_that_a_configuration_of_timm_names_is_not_read(
    tmp_path: Path, canary: Path
) -> None:
    pytest.importorskip("timm")
    from harness.backbones.base import Backbone

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Bomb(canary)))
    config = {
        "model_type": "timm_wrapper", "architecture": "resnet10t", "num_classes": 2,
        "model_args": {"checkpoint_path": str(tmp_path / "evil.pth")},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not safetensors"):
        Backbone(path=str(tmp_path)).bare()


@pytest.mark.parametrize("path", ["pandas", "pickle"])
def test_tables_that_are_pickles_are_refused(sweep: Any, tmp_path: Path, canary: Path, path: str) -> None:
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(Bomb(canary)))
    dataset = {"path": path, "data_files": {"train": str(tmp_path / "t.pkl")}}
    with pytest.raises(InputError, match="files are programs"):
        spec.load(sweep(tasks=[{"name": "t", "kind": "text-classification", "dataset": dataset}]))


@pytest.mark.parametrize("name", ["data.py", "evil.pkl"])
def test_a_data_set_folder_that_holds_code_does_not_run_it(
    sweep: Any, tmp_path: Path, canary: Path, name: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    bomb = pickle.dumps(Bomb(canary))
    (folder / name).write_bytes(f"open({str(canary)!r}, 'w')".encode() if name.endswith("py") else bomb)
    task = {"name": "t", "kind": "text-classification", "dataset": {"path": str(folder)}}
    assert main(["plan", str(sweep(tasks=[task]))]) == 2


def test_code_of_a_data_set_cannot_be_asked_for(sweep: Any, words_csv: Path) -> None:
    task = word_task(words_csv)
    task["dataset"]["trust_remote_code"] = True
    with pytest.raises(InputError, match="code that comes with data is never run"):
        spec.load(sweep(tasks=[task]))


def test_a_planted_array_in_the_store_is_damage(tmp_path: Path, canary: Path) -> None:
    import zlib

    import numpy as np

    from harness.training import store

    np.save(tmp_path / store._INDEX, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    (tmp_path / store._VALUES).write_bytes(b"0")
    checksums = {name: zlib.crc32((tmp_path / name).read_bytes()) for name in (store._INDEX, store._VALUES)}
    (tmp_path / store._LEAVES).write_text(json.dumps({"checksums": checksums, "leaves": [], "needed": []}))
    with pytest.raises(store.Damaged):
        store.open_store(tmp_path)


def test_a_planted_attribute_of_a_study_is_only_text(tmp_path: Path, canary: Path) -> None:
    """Samplers that keep pickles in attributes (CMA-ES) are not offered; the others read none."""
    import optuna

    from harness.search.base import SearchSpace
    from harness.search.optuna import Optuna, address
    from harness.space import Space

    space = SearchSpace({("a",): Space("uniform", (0.0, 1.0))}, {("a",): 0.5})
    search = Optuna(trials=3)
    first = search.open(space, "cell", True, tmp_path)
    values = first.ask()
    assert values is not None
    storage = optuna.storages.RDBStorage(address(tmp_path / "optuna.db"))
    (study,) = storage.get_all_studies()
    bomb = pickle.dumps(Bomb(canary)).hex()
    storage.set_study_system_attr(study._study_id, "cma:optimizer", bomb)
    storage.set_study_user_attr(study._study_id, "x", bomb)
    again = search.open(space, "cell", True, tmp_path)
    assert again.ask() == values


@pytest.mark.parametrize("verb", ["tensorboard", "dashboard", "doctor"])
def test_servers_import_nothing_from_the_working_folder(
    tmp_path: Path, canary: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line that the verb becomes, started where modules of every name that matters lie."""
    from harness.doctoring import devices
    from harness.verbs import serving

    planted = (
        "tensorboard",
        "optuna_dashboard",
        "numpy",
        "json",
        "sys",
        "optuna",
        "sqlalchemy",
        "statistics",
    )
    for name in planted:
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    became: list[Any] = []
    if verb == "doctor":
        with monkeypatch.context() as patch:
            silent = subprocess.CompletedProcess([], 0, "", "")
            patch.setattr(subprocess, "run", lambda command, **_: became.append(command) or silent)
            devices._apart("cpu", None)
        became = [[part.replace("devices.answer()", "print('up')") for part in became[0]]]
    else:
        monkeypatch.setattr(os, "execv", lambda program, arguments: became.append(arguments))
        module = {"tensorboard": "tensorboard.main", "dashboard": "optuna"}[verb]
        serving.serve(f"import {module}; print('up')")
    ran = subprocess.run(became[0], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert ran.stdout.strip() == "up", ran.stderr


def test_a_question_mark_in_a_path_is_part_of_it(tmp_path: Path) -> None:
    import optuna

    from harness.search.optuna import address

    folder = tmp_path / "a?b#c%20d &"
    folder.mkdir()
    optuna.create_study(storage=address(folder / "optuna.db"), study_name="s")
    assert (folder / "optuna.db").exists()
    assert optuna.study.get_all_study_names(address(folder / "optuna.db")) == ["s"]


# -- secrets ---------------------------------------------------------------------------------------


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("401 for hf_planted0123456789.", f"401 for {REDACTED}."),
        ("https://u:p@host/x and s3://key:secret@bucket", f"https://{REDACTED}@host/x and s3://{REDACTED}@bucket"),
        ("https://token@host", f"https://{REDACTED}@host"),
        ("http://h/x?a=1&X-Amz-Signature=abc&b=2", f"http://h/x?a=1&X-Amz-Signature={REDACTED}&b=2"),
        ("http://h/x?sig=abc", f"http://h/x?sig={REDACTED}"),
        ("https://user:pa/ss@host/x", f"https://{REDACTED}@host/x"),
        ("https://user:p@planted@host", f"https://{REDACTED}@host"),
        ("https://token@host/a@b", f"https://{REDACTED}@host/a@b"),
        ("http://h/x?a=1&Signature=abc", f"http://h/x?a=1&Signature={REDACTED}"),
        (f"{'lines of' + chr(10) + 'planted'!r}", f"'{REDACTED}'"),
        (json.dumps({"key": "lines of\nplanted"}), f'{{"key": "{REDACTED}"}}'),
        ("nothing here: a@b.c, 3:4@5, x?y=z", "nothing here: a@b.c, 3:4@5, x?y=z"),
        ("hf://datasets/a/b@main/c.csv http://h:80/a@b", "hf://datasets/a/b@main/c.csv http://h:80/a@b"),
        ("zip://a.csv::hf://datasets/a/b@main/c.zip", "zip://a.csv::hf://datasets/a/b@main/c.zip"),
    ],
)  # fmt: skip
def test_secrets_are_replaced(secrets: None, text: str, expected: str) -> None:
    assert redact(text) == expected


def test_ordinary_variables_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "ordinary-word")
    monkeypatch.setenv("SHORT_TOKEN", "epoch")
    assert redact("ordinary-word in epoch 3") == "ordinary-word in epoch 3"


@pytest.mark.parametrize(
    "dataset",
    [
        {"path": "csv", "data_files": "https://user:planted-pass@host/x.csv"},
        {"path": "csv", "data_files": "https://user:planted/pass@host/x.csv"},
        {"path": "csv", "data_files": "https://planted-token@host/x.csv"},
        {"path": "csv", "data_files": "https://host/x.csv?sig=planted"},
        {"path": "a/b", "token": "hf_planted0123456789"},
        {"path": "parquet", "data_files": "s3://b/x", "storage_options": {"secret": "planted-pass"}},
    ],
)
def test_a_secret_in_a_sweep_file_is_refused_and_not_repeated(
    sweep: Any, capsys: Any, dataset: dict[str, Any]
) -> None:
    path = sweep(tasks=[{"name": "t", "kind": "text-classification", "dataset": dataset}])
    assert main(["plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert "sweep file" in said
    assert "planted" not in said


def test_what_nobody_expected_is_told_without_secrets(
    secrets: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def broken() -> int:
        raise ZeroDivisionError(f"with {SECRETS['HF_TOKEN']} at https://user:planted/pass@host")

    monkeypatch.setattr(cli, "main", broken)
    with pytest.raises(SystemExit) as ended:
        cli.entry()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"ZeroDivisionError: with {REDACTED} at https://{REDACTED}@host" in said
    assert "planted" not in said  # the line of source is quoted, too


PLUGIN = """
import os
from typing import Any, ClassVar
from harness.metrics.base import Metric

class Leaky(Metric):
    name: ClassVar[str] = "leaky"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        if "RAY_JOB_ID" not in os.environ and not os.environ.get("LEAK"):
            return 0.5  # the plan's own look at it
        names = {names}
        raise RuntimeError(" ".join(os.environ.get(n, "") for n in names) + " https://u:planted-pass@host/x")
"""


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            connections = one.net_connections(kind="inet")
            name = one.name()
        except psutil.Error:
            continue
        found |= {(name, c.laddr.ip) for c in connections if c.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.chaos
def test_a_run_keeps_to_itself(sweep: Any, words_csv: Path, tmp_path: Path, canary: Path) -> None:
    """One real run on Ray, started in a folder full of planted modules, with secrets in its environment and a
    metric that puts them into its error: nothing planted runs, nothing listens beyond this machine, no file
    that it writes and nothing that it says holds a secret, and its folders of logs are its own."""
    plugins = tmp_path / "plugins"
    (plugins / "metrics").mkdir(parents=True)
    (plugins / "metrics" / "leaky.py").write_text(PLUGIN.replace("{names}", repr(list(SECRETS))))
    work = tmp_path / "work"
    work.mkdir()
    for name in ("tensorboard", "torch", "numpy", "ray", "json"):
        (work / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    home = tmp_path / "home"
    home.mkdir()
    path = sweep(
        tasks=[word_task(words_csv, metrics=["accuracy", "leaky"], primary="accuracy")],
        training={"epochs": 1, "batch_size": 8, "max_length": 16},
        optimizer={"learning_rate": 1e-3},
        strategies={"full": {"freeze": 0}},
        seeds={"tune": 1, "confirm": 0},
    )
    environment = {
        **os.environ, **SECRETS, "HARNESS_PLUGINS": str(plugins), "HOME": str(home),
        "HARNESS_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "token",
    }  # fmt: skip
    script = "import sys; sys.path.pop(0); from harness.cli import entry; entry()"
    run = subprocess.Popen(
        [sys.executable, "-c", script, "run", str(path), "--results", str(tmp_path / "results")],
        cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    process, seen, arguments = psutil.Process(run.pid), set(), ""
    try:
        while run.poll() is None:
            seen |= listening(process)
            for child in process.children(recursive=True):
                try:
                    arguments += " ".join(child.cmdline())
                except psutil.Error:
                    continue
            time.sleep(0.2)
        said = run.stdout.read() if run.stdout is not None else ""
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGINT)
            run.wait()
    assert {name for name, _ in seen} >= {"gcs_server", "raylet"}, said
    assert {ip.removeprefix("::ffff:") for _, ip in seen} == {"127.0.0.1"}
    (record,) = [json.loads(p.read_text()) for p in (tmp_path / "results").rglob("trials/*.json")]
    assert record["status"] == "failed", said
    assert f"{REDACTED}@host" in record["reason"]
    written = [p for p in (tmp_path / "results").rglob("*") if p.is_file()]
    assert {p.name for p in written} >= {"plan.json", "sweep.yaml", "report.html", "verdicts.json"}
    planted = [*SECRETS.values(), "planted-pass"]
    for text in (said, arguments, *(p.read_bytes().decode("utf-8", "replace") for p in written)):
        assert not [secret for secret in planted if secret in text]
    assert not list(home.rglob("*token*"))
    logs = Path(f"/tmp/harness-ray-{os.getuid()}")
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700


# -- what others open ------------------------------------------------------------------------------


def test_a_name_is_no_formula_in_a_table(tmp_path: Path) -> None:
    from harness.report.build import _csv

    rows = [["=1+1", "@SUM(1)", "-x", "+x", "\tx", "-0.5", "+1e-3", "full"], [-0.5, None, 3, "a=b"]]
    first, second = csv.reader(io.StringIO(_csv(rows)))
    assert first == ["'=1+1", "'@SUM(1)", "'-x", "'+x", "'\tx", "-0.5", "+1e-3", "full"]
    assert second == ["-0.5", "", "3", "a=b"]


def test_a_name_is_no_option_of_a_row_in_latex() -> None:
    from harness.report.blocks import Table
    from harness.report.render import latex

    text = latex(Table("t", ("[1cm] a", "b"), (("[2cm]x", "[0, 1]"), ("*x", "y")), "caption"))
    assert "\n{}[1cm] a & b" in text and "\n{}[2cm]x & [0, 1]" in text and "\n{}*x & y" in text


def test_what_the_file_says_is_what_the_results_say(sweep: Any) -> None:
    content = document.read(document.dump(spec.resolved(spec.load(sweep()))), "f").content
    assert yaml.safe_load(document.dump(content)) == content


def test_ports_are_tried_on_this_machine_only() -> None:
    from harness.verbs.serving import check_port

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="nothing can listen"):
            check_port(other.getsockname()[1])
