"""The benchmarks that docs/performance.md quotes still run on the code as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_the_driver_is_measured_against_bare_tune(tmp_path: Path) -> None:
    out = tmp_path / "driver.json"
    command = [sys.executable, str(BENCHMARKS / "driver_scale.py"), "--trials", "130", "--rounds", "1"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=300)
    found = json.loads(out.read_text())
    assert found["harness"][0]["trials"] == found["bare"][0]["trials"] == found["pandas"][0]["records"] > 100
    assert found["harness"][0]["ms_per_trial"] > 0


def test_the_trainer_s_arms_and_ours_train_the_same_grid(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(BENCHMARKS / "sweep_vs_trainer.py"), "--grid", "tiny", "--repeats", "1"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=500)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    arms = {row["arm"]: row["missing"] for row in rows if row["kind"] == "arm"}
    assert arms == dict.fromkeys(("plain", "tuned", "unshared", "harness"), 0)
