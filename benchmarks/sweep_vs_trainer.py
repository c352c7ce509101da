"""The same sweep with the Hugging Face Trainer on Ray Tune and with the harness: how fast, and equal results?

How to run, on a machine that does nothing else (`pip install -e '.[demo,benchmarks]' -c constraints.txt`):

    python benchmarks/sweep_vs_trainer.py                                   # tiny: two minutes, does it work?
    python benchmarks/sweep_vs_trainer.py --grid B --repeats 3 --out b.jsonl
    python benchmarks/sweep_vs_trainer.py --summary b.jsonl                 # medians over all that is there

Arms, run in turn, each repeat beginning with another one:

    plain      Ray Tune and the Trainer as their documentation shows (arms/plain.py)
    tuned      the same with all that can be set (arms/tuned.py)
    unshared   `harness run` with `resources: {share: false}`
    harness    `harness run` as it comes

Data, weights, trials, seeds, epochs, batches, rates, penalties, clipping and precision are the same, read
from one plan (arms/grids.py); one trial per core at a time, of one thread. Every arm is a fresh process with
fresh caches (of the harness, of `datasets`, of Ray), and its time is that of the whole process: imports,
starting Ray, tokenising and building stores count. So does, for the harness only, what else it does: reading
and carving the corpus (the Trainer's arms get it as Arrow), counting FLOPs, records, curves, drift, a copy of
the best weights, the report.

`--confirm 1` makes the harness confirm winners and record predictions on test, which are compared one by one;
the Trainer's arms know no such phase and are left out. `--set` changes a grid as it does for `harness run`
(`--set seeds.tune=1`).

The table shows medians over the repeats: seconds of wall clock and their range; core-seconds (what a process
runs in its last half second is lost, see arms/clock.py); `fit`, roughly
from the first trial's start to the last one's end, without a store that is built before; wall clock over that
of `harness`, and over two bounds. A bound is FLOPs over the rate of this machine's matrix products with all
cores at it. The *ordinary* way computes every trial from its inputs. The *shared* way passes each example
once through the deepest frozen prefix, taking out on the way what others need, and computes every trial from
what leaves its own prefix. Both count matrix products only: forward once, backward twice for what trains.

Identity is that of `harness` with `unshared`, next to the noise: `unshared` with itself, a repeat before;
each is a maximum over all trials. The Trainer draws heads and orders differently: of its arms the mean
accuracy over the seeds is shown, at the last epoch. Exit code 1 if a trial is missing or sharing changed a
result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from arms import clock, grids, identity

from harness.records import provenance

Row: TypeAlias = dict[str, Any]

ARMS = ("plain", "tuned", "unshared", "harness")
TRAINER = ("plain", "tuned")
IDENTITY, NOISE = "harness and unshared", "noise: unshared twice"
HERE = Path(__file__).resolve().parent
# What a user's shell may hold that decides how fast an arm is.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    top.add_argument("--grid", choices=grids.NAMES, default="tiny")
    top.add_argument("--arms", nargs="+", choices=ARMS, default=None, help="default: all")
    top.add_argument("--repeats", type=int, default=2)
    top.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    top.add_argument("--confirm", type=int, default=0, help="confirm seeds; for the harness's arms only")
    top.add_argument("--set", action="append", default=[], dest="assignments", metavar="PATH=VALUE")
    top.add_argument("--out", type=Path, help="append every measurement to this file, as JSON lines")
    top.add_argument("--summary", type=Path, help="measure nothing, show what such a file holds")
    top.add_argument("--keep", type=Path, help="keep logs and results of every arm below this new folder")
    return top


def main() -> int:
    chosen = parser().parse_args()
    if chosen.summary is not None:
        rows = [json.loads(line) for line in chosen.summary.read_text().splitlines()]
        print(summary(rows))
        return verdict(rows)
    chosen.arms = chosen.arms or [arm for arm in ARMS if not (chosen.confirm and arm in TRAINER)]
    if chosen.confirm and set(chosen.arms) & set(TRAINER):
        parser().error("--confirm is for unshared and harness only")
    if chosen.keep is not None and chosen.keep.exists():
        parser().error(f"--keep: {chosen.keep} exists")
    folder = Path(tempfile.mkdtemp(prefix="svt-"))  # a short name: Ray's sockets lie below it
    rows = []
    try:
        for row in measured(chosen, folder):
            rows.append(row)
            if chosen.out is not None:
                with chosen.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(summary(rows))
        return verdict(rows)
    finally:
        if chosen.keep is not None:
            shutil.copytree(folder, chosen.keep, ignore=shutil.ignore_patterns("ray", "cache", "hf"))
        shutil.rmtree(folder, ignore_errors=True)


# -- measuring ---------------------------------------------------------------------------------------


def measured(chosen: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Run the arms in turn; a row for each, for the machine, and for what two of them have in common."""
    specs = {arm: folder / f"{arm}.yaml" for arm in ARMS if arm not in TRAINER}
    for arm, spec in specs.items():
        content = grids.sweep(chosen.grid, chosen.precision, chosen.confirm, share=arm == "harness")
        spec.write_text(json.dumps(content))  # YAML holds JSON
    # Here and in the arms alike: the tokenizer of an untrained model, and so its hash, keeps a note of it.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HARNESS_CACHE"] = str(folder / "cache")  # of this process, not of the arms
    work = grids.work(specs["harness"], chosen.assignments, folder)
    common = {
        "grid": " ".join([chosen.grid, *chosen.assignments]),
        "precision": chosen.precision,
        "confirm": chosen.confirm,
        "command": shlex.join(["python", *sys.argv]),
        "machine": provenance.hardware(),
        "versions": {**provenance.versions(), "accelerate": metadata.version("accelerate")},
        "git": provenance.git(),
    }
    before: Path | None = None
    for repeat in range(chosen.repeats):
        # a batch in the first product of minilm's feed-forward layers, where most of the FLOPs are
        rate = clock.matmul_rate(chosen.precision, 384, 1536, work.job["batch_size"] * work.job["max_length"])
        now = {**common, "repeat": repeat, "time": time.time()}
        yield {**now, "kind": "machine", "rate": rate, "ordinary": work.ordinary, "shared": work.shared}
        turn = repeat % len(chosen.arms)
        places: dict[str, Path] = {}
        for arm in (*chosen.arms[turn:], *chosen.arms[:turn]):
            places[arm] = folder / f"{repeat}-{arm}"
            load = os.getloadavg()[0]
            usage, ended = run_arm(arm, places[arm], work.job, specs.get(arm), chosen.assignments, folder)
            missing = len(work.job["trials"]) - len(ended)
            print(f"{repeat} {arm}: {usage.wall_s:.1f} s, {len(ended)} trials, {missing} missing", flush=True)
            if usage.exit_code or missing:
                log = (places[arm] / "log").read_text(errors="replace")
                print("\n".join(log.splitlines()[-30:]), file=sys.stderr)
            times = [(trial["started"], trial["ended"]) for trial in ended] or [(0.0, 0.0)]
            yield {
                **now, "kind": "arm", "arm": arm, "load": load, **asdict(usage), "missing": missing,
                "fit_s": max(end for _, end in times) - min(start for start, _ in times),
                "accuracy": by_configuration(ended, work.job["trials"]),
            }  # fmt: skip
        roots = {arm: place / "results" for arm, place in places.items()}
        for pair, other in ((IDENTITY, roots.get("harness")), (NOISE, before)):
            if other is not None and "unshared" in roots:
                found = identity.differences(results_of(roots["unshared"]), results_of(other))
                holds = found.holds(chosen.precision)
                yield {**now, "kind": "identity", "pair": pair, "holds": holds, **asdict(found)}
        before = roots.get("unshared")


def run_arm(
    arm: str, place: Path, job: Mapping[str, Any], spec: Path | None, assignments: Sequence[str], folder: Path
) -> tuple[clock.Usage, list[dict[str, Any]]]:
    """Run an arm in its own new folder; what it took, and of every trial that finished in the tune phase
    `trial_id`, `accuracy` at the last evaluation, `started` and `ended` (seconds)."""
    place.mkdir()
    if spec is None:
        shutil.copytree(folder / "data", place / "data")  # `datasets` keeps what it makes beside the data
        own = {"data": str(place / "data"), "scratch": str(place), "results": str(place / "results.json")}
        (place / "job.json").write_text(json.dumps({**job, **own}))
        command = [sys.executable, str(HERE / "arms" / f"{arm}.py"), "job.json"]
    else:
        changes = [word for assignment in assignments for word in ("--set", assignment)]
        command = [sys.executable, "-m", "harness", "run", str(spec), "--results", "results", *changes]
    usage = clock.clocked(command, environment(place), place, place / "log")
    if spec is None:
        written = place / "results.json"
        return usage, json.loads(written.read_text()) if written.exists() else []
    root = results_of(place / "results")
    ended = []
    for record in identity.records(root).values():
        if record["phase"] == "tune" and record["status"] == "finished":
            end = (root / "trials" / f"{record['trial_id']}.json").stat().st_mtime
            last = record["curve"][-1]["validation"]
            # drift is measured after a trial's own time: the start comes out late by that
            times = {"started": end - record["cost"]["wall_s"], "ended": end}
            ended.append({"trial_id": record["trial_id"], "accuracy": last["accuracy"], **times})
    return usage, ended


def environment(place: Path) -> dict[str, str]:
    """Of this process, but with caches of the arm's own, no hub, and as many threads as a library likes."""
    inherited = {name: value for name, value in os.environ.items() if name not in _THREADS}
    return inherited | {
        "HARNESS_CACHE": str(place / "cache"),
        "HF_HOME": str(place / "hf"),
        "RAY_TMPDIR": str(place),
        # else Ray leaves a token below the home folder
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def results_of(folder: Path) -> Path:
    """The one sweep below a `--results` folder; the folder itself if nothing was written."""
    return next((path.parent for path in folder.glob("*/plan.json")), folder)


def by_configuration(ended: Iterable[Row], trials: Iterable[Row]) -> dict[str, float]:
    """Mean accuracy over the seeds of every configuration, in the plan's order."""
    names = {trial["trial_id"]: trial["configuration"] for trial in trials}
    found: dict[str, list[float]] = defaultdict(list)
    for trial in ended:
        found[names[trial["trial_id"]]].append(trial["accuracy"])
    return {name: statistics.fmean(found[name]) for name in dict.fromkeys(names.values()) if name in found}


# -- showing -----------------------------------------------------------------------------------------


def summary(rows: Sequence[Row]) -> str:
    """Tables of medians in Markdown, for each machine, commit, grid and precision."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        where = f"{row['machine']['cores']} cores of {row['machine']['cpu']}"
        if row["git"] is not None:
            where += f", commit {row['git']['commit'][:7]}{' with changes' if row['git']['dirty'] else ''}"
        groups[where, row["grid"], row["precision"], row["confirm"]].append(row)
    return "\n\n".join("\n\n".join(_group(key, found)) for key, found in groups.items())


def _group(key: tuple[Any, ...], rows: Sequence[Row]) -> Iterator[str]:
    where, grid, precision, confirm = key
    machine = [row for row in rows if row["kind"] == "machine"]
    arms = {name: [row for row in rows if row.get("arm") == name] for name in ARMS}
    arms = {name: found for name, found in arms.items() if found}
    rate = _median(machine, "rate")
    bounds = {name: machine[-1][name] / rate for name in ("ordinary", "shared")}
    phases = f", {confirm} confirm seeds" if confirm else ""
    yield f"## Grid {grid}, {precision}{phases}; {where}"
    yield (
        f"Matrix products {rate / 1e9:.0f} GFLOP/s; bound of the ordinary way {bounds['ordinary']:.2f} s "
        f"({machine[-1]['ordinary'] / 1e12:.2f} TFLOP), of the shared way {bounds['shared']:.2f} s."
    )
    columns = "arm | runs | wall s | (range) | core-s | fit s | × harness | × ordinary | × shared | missing"
    lines = [columns.split(" | ")]
    base = _median(arms["harness"], "wall_s") if "harness" in arms else math.nan
    for name, found in arms.items():
        wall = _median(found, "wall_s")
        walls = [row["wall_s"] for row in found]
        lines.append(
            [
                name, f"{len(found)}", f"{wall:.1f}", f"{min(walls):.1f}–{max(walls):.1f}",
                f"{_median(found, 'core_s'):.1f}", f"{_median(found, 'fit_s'):.1f}", f"{wall / base:.2f}",
                f"{wall / bounds['ordinary']:.2f}", f"{wall / bounds['shared']:.2f}",
                f"{sum(row['missing'] for row in found)}",
            ]
        )  # fmt: skip
    yield _table(lines)
    columns = "identity | trials | missing | train loss | validation loss | metrics"
    lines = [f"{columns} | predictions | other | scores | holds".split(" | ")]
    for row in (row for row in rows if row["kind"] == "identity"):
        numbers = [f"{row[name]:.1e}" for name in ("train_loss", "validation_loss", "metrics")]
        counts = [f"{row[name]}" for name in ("predictions", "other")]
        lines.append(
            [row["pair"], f"{row['trials']}", f"{row['missing']}", *numbers, *counts,
             f"{row['scores']:.1e}", "yes" if row["holds"] else "NO"]
        )  # fmt: skip
    if len(lines) > 1:
        tolerance = identity.TOLERANCE[precision]
        yield f"Largest differences; a loss may differ by {tolerance:g}, metrics and predictions not at all:"
        yield _table(lines)
    lines = [["mean validation accuracy", *arms]]
    for configuration in next(iter(arms.values()))[-1]["accuracy"] if arms else ():
        means = [
            statistics.fmean(row["accuracy"].get(configuration, math.nan) for row in a) for a in arms.values()
        ]
        lines.append([configuration, *(f"{mean:.3f}" for mean in means)])
    yield _table(lines)


def _median(rows: Sequence[Row], name: str) -> float:
    return float(statistics.median(row[name] for row in rows))


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def verdict(rows: Sequence[Row]) -> int:
    """Exit code: 1 if a trial is missing, an arm failed, or sharing changed a result."""
    failed = any(row["missing"] or row["exit_code"] for row in rows if row["kind"] == "arm")
    changed = any(not row["holds"] for row in rows if row["kind"] == "identity" and row["pair"] == IDENTITY)
    return int(failed or changed)


if __name__ == "__main__":
    sys.exit(main())
