"""What a sweep looks like at the terminal: the plan before, progress during, verdicts after."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.analysis import wording
from harness.outline import Load, count, load_of, notes, predicted, work
from harness.pace import RECENT
from harness.plan import Cell, Plan, Trial
from harness.records import remote
from harness.records.paths import ResultPaths
from harness.records.record import FAILURES
from harness.space import Path, Space
from harness.tuning.campaign import Event

if TYPE_CHECKING:
    from harness.tuning.replay import Replays  # imports ray

Rates: TypeAlias = Mapping[str, float]

# Elsewhere than on a terminal a line per ended trial is written, but not more often than this.
_QUIET_SECONDS = 2.0
_MANY_TRIALS = 200


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(count_: float, unit: str) -> str:
    """12.3 TFLOP, 45 MB."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(count_) < 1000 or prefix == "E":
            return f"{count_:.3g} {prefix}{unit}"
        count_ /= 1000
    raise AssertionError("unreachable")


def _grid(*headings: str, right: tuple[int, ...] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
    return table


def show_plan(console: Console, plan: Plan, rates: Rates | None, concurrent: float) -> None:
    """Cells, trials, what was merged, budgets, predicted compute and disk.

    Args:
        rates: FLOP/s of one trial on this machine by its precision, None if trials run elsewhere.
        concurrent: trials at a time.
    """
    trials, will = count(plan), predicted(plan)
    sweep = plan.sweep
    console.print(
        Text(
            f"{sweep.name}: {len(sweep.tasks)} tasks, {len(sweep.backbones)} backbones, "
            f"{len(sweep.strategies)} strategies: {len(plan.cells)} cells",
            style="bold",
        )
    )
    table = _grid(
        "task", "backbone", "strategy", "configurations", "tune", "confirm", "tuned", right=(3, 4, 5)
    )
    for cell in plan.cells:
        table.add_row(*map(_text, _plan_row(cell, plan)))
    console.print(table)
    merged = sum(len(cells) - 1 for cells in plan.merged.values()) + sum(cell.repeated for cell in plan.cells)
    if merged:
        console.print(_text(f"{merged} trials were asked for more than once and run once"))
    for note in notes(plan):
        console.print(_text(f"note: {note}"))
    source = f"{trials['source']} source + " if trials["source"] else ""
    took = ""
    if rates is not None:
        seconds = sum(flops / rates[load.precision] for load, flops in work(plan).items())
        rate = size(will["flops"] / seconds, "FLOP/s")
        took = f", about {duration(seconds / concurrent)} here at {rate} a trial"
    console.print(
        _text(
            f"{source}{trials['tune']} tune + {trials['confirm']} confirm trials, "
            f"{size(will['flops'], 'FLOP')}{took}; disk {size(will['disk_bytes'], 'B')}"
        )
    )


def _plan_row(cell: Cell, plan: Plan) -> list[str]:
    axes = ", ".join(_axis(path, axis) for path, axis in cell.space.axes.items())
    tune, confirm = cell.budget * plan.sweep.seeds.tune, plan.sweep.seeds.confirm
    repeated = f" (+{cell.repeated} equal)" if cell.repeated else ""
    return [
        cell.task,
        cell.backbone,
        cell.strategy,
        f"{cell.budget}{repeated}",
        str(tune),
        str(confirm),
        axes or "—",
    ]


def _axis(path: Path, axis: Space) -> str:
    """`regularizer.strength loguniform [0.001, 1.0] if regularizer=l2-sp`."""
    when = "" if axis.when is None else f" if {'.'.join(axis.when[0])}={axis.when[1]}"
    return f"{'.'.join(path)} {axis.how} {list(axis.values)}{when}"


def _text(words: str) -> Text:
    """Plain words: names must not be read as markup."""
    return Text(words)


class ProgressView:
    """Live progress of a campaign: a table on a terminal, plain lines elsewhere.

    Args:
        rates: FLOP/s to be expected of a trial by its precision, until some like it have ended; None if
            unknown.
        concurrent: trials at a time.
    """

    def __init__(self, console: Console, plan: Plan, rates: Rates | None, concurrent: float) -> None:
        self._console, self._plan, self._concurrent = console, plan, max(1.0, concurrent)
        self._started = self._spoken = time.monotonic()
        self._cells: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._best: dict[str, float] = {}
        self._status: Counter[str] = Counter()
        self._known = 0
        self._running: dict[str, float] = {}
        self._expected = rates
        self._left = work(plan)
        # a small network gets less out of a processor than a large one
        self._rates: defaultdict[Load, list[float]] = defaultdict(list)
        self._device_seconds = 0.0
        self._total = sum(count(plan).values())
        self._live: Live | None = None

    @contextmanager
    def showing(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console, get_renderable=self._table, refresh_per_second=2, transient=True
        ) as live:
            self._live = live
            yield
        self._live = None

    def __call__(self, event: Event) -> None:
        trial, record = event.trial, event.record
        if event.what == "started":
            self._running[trial.trial_id] = 0.0
            self._cells[trial.cell]["running"] += 1
        elif event.what == "point" and record is not None:
            self._running[trial.trial_id] = record["curve"][-1]["epoch"]
        elif event.what in ("ended", "known") and record is not None:
            load = load_of(trial)
            self._left[load] = max(0.0, self._left[load] - trial.flops)
            self._status[record["status"]] += 1
            cell = self._cells[trial.cell]
            cell[record["status"]] += 1
            self._note_best(event)
            if event.what == "known":
                self._known += 1
                return
            cell["running"] -= 1
            self._running.pop(trial.trial_id, None)
            self._device_seconds += record["cost"]["device_s"]
            if record["cost"]["wall_s"] > 0 and record["status"] == "finished":
                self._rates[load].append(record["cost"]["flops"] / record["cost"]["wall_s"])
            if self._live is None:
                self._say(event)

    def _note_best(self, event: Event) -> None:
        trial, record = event.trial, event.record
        assert record is not None
        task = self._plan.tasks[trial.task]
        value = (record["metrics"]["validation"] or {}).get(task.primary_metric)
        if record["status"] == "finished" and value is not None:
            before = self._best.get(trial.cell)
            better = before is None or (value > before if task.higher_is_better else value < before)
            if better:
                self._best[trial.cell] = value

    @property
    def failures(self) -> int:
        """Trials that ended without a score, for another reason than the scheduler."""
        return sum(self._status[status] for status in FAILURES)

    def _done(self) -> int:
        return sum(self._status.values())

    def _time_left(self) -> str:
        """A range: at the rates of the faster and the slower quarter of the trials so far that are alike."""
        soon = late = 0.0
        for load, left in self._left.items():
            if left <= 0:
                continue
            rates = sorted(self._rates[load][-RECENT:])
            if len(rates) < 2:
                known = chain(*self._rates.values())
                rates = [self._expected[load.precision]] if self._expected else sorted(known)
            if not rates:
                return "?"
            soon += left / rates[3 * len(rates) // 4]
            late += left / rates[len(rates) // 4]
        ends = [duration(seconds / self._concurrent) for seconds in (soon, late)]
        return ends[0] if ends[0] == ends[1] else f"{ends[0]} – {ends[1]}"

    def _summary(self) -> str:
        return (
            f"{self._done()}/{self._total} trials ended ({self._known} from before, "
            f"{self._status['stopped']} stopped, {self.failures} failed), {len(self._running)} running; "
            f"{duration(time.monotonic() - self._started)} so far, left {self._time_left()}; "
            f"{duration(self._device_seconds)} of device time"
        )

    def _say(self, event: Event) -> None:
        record, trial = event.record, event.trial
        assert record is not None
        now = time.monotonic()
        bad = record["status"] in FAILURES
        if self._total > _MANY_TRIALS and now - self._spoken < _QUIET_SECONDS and not bad:
            return
        self._spoken = now
        metric = self._plan.tasks[trial.task].primary_metric
        split = "test" if record["metrics"]["test"] else "validation"
        value = (record["metrics"][split] or {}).get(metric)
        score = (
            f"{split} {metric} {value:.4f}" if value is not None else record["reason"].splitlines()[0][:200]
        )
        chosen = ", ".join(f"{name.split('.')[-1]}={value}" for name, value in trial.hyperparameters.items())
        line = (
            f"[{self._done()}/{self._total}] {self._arena(trial)} | {trial.strategy} | {trial.phase} "
            f"seed {trial.seed}{' | ' + chosen if chosen else ''}: {record['status']}, {score}, "
            f"{record['cost']['wall_s']:.1f} s; left {self._time_left()}"
        )
        self._console.print(_text(line), soft_wrap=True)

    def _arena(self, entry: Trial | Cell) -> str:
        """Where it competes, as the report calls it."""
        single = len(self._plan.sweep.backbones) == 1
        return entry.task if single else f"{entry.task} @ {entry.backbone}"

    def _table(self) -> Any:
        table = _grid(
            "task",
            "strategy",
            "done",
            "running",
            "stopped",
            "failed",
            "best validation",
            right=(2, 3, 4, 5, 6),
        )
        cells = [c for c in self._plan.cells if self._cells[c.id]["running"] or self._cells[c.id]["finished"]]
        for cell in cells[-30:]:
            seen, best = self._cells[cell.id], self._best.get(cell.id, math.nan)
            failed = sum(seen[status] for status in FAILURES)
            numbers = [str(seen[k]) for k in ("finished", "running", "stopped")]
            shown = f"{best:.4f}" if not math.isnan(best) else "—"
            table.add_row(*map(_text, [self._arena(cell), cell.strategy, *numbers, str(failed), shown]))
        return Group(table, _text(self._summary()))

    def close(self) -> None:
        self._console.print(_text(self._summary()))


def show_replays(console: Console, found: Replays) -> None:
    """What each replay spent and where it ended, then the sum of it."""
    table = _grid("order", "trials", "device time", "FLOPs", "raced out", "tie set", right=(0, 1, 2, 3))
    for run in found.runs:
        part = found.compute(run)
        ends = []
        for task, place in run.tasks.items():
            words = "the full grid's" if place.same else f"lost {', '.join(place.lost)}" if place.lost else ""
            more = [name for name in place.tie_set if name not in place.full_tie_set]
            words += f"{' and ' if place.lost else ''}more: {', '.join(more)}" if more else ""
            ends.append(f"{task}: {words}")
        places = run.tasks.values()
        out = [f"{name} ({why['trials']})" for place in places for name, why in place.raced_out.items()]
        row = [str(run.order), str(run.spent.trials), f"{part['device_s']:.0%}", f"{part['flops']:.0%}"]
        table.add_row(*map(_text, [*row, ", ".join(out) or "—", "; ".join(ends)]))
    console.print(table)
    summary, parts = found.as_dict(), [found.compute(run) for run in found.runs]
    less = {name: len(parts) / sum(part[name] for part in parts) for name in parts[0]}
    console.print(
        _text(
            f"full grid: {found.full.trials} trials, {duration(found.full.device_s)} of device time, "
            f"{size(found.full.flops, 'FLOP')}. Replays took {less['device_s']:.1f}× less device time and "
            f"{less['flops']:.1f}× less FLOPs; tie set of the full grid: {summary['same']} of {len(parts)} "
            f"times, nothing of it lost: {summary['superset']}, its leader lost: {summary['leader_lost']}."
        ),
        soft_wrap=True,
    )
    if stood_in := sum(run.stand_ins for run in found.runs):
        words = f"{stood_in} confirm trials that nobody has run were stood in for by the recorded winner's; "
        console.print(_text(f"note: {words}--train runs them"), soft_wrap=True)


def show_verdicts(console: Console, verdicts: Mapping[str, Any], paths: ResultPaths) -> None:
    """One sentence per task, then where to read on."""
    console.print()
    for verdict in verdicts["tasks"].values():
        console.print(_text(verdict["sentence"]), soft_wrap=True)
    console.print()
    console.print(_text(f"report:      {paths.report_html}"), soft_wrap=True)
    if (place := remote.shown(paths.root)) != str(paths.root):
        console.print(_text(f"results:     {place}"), soft_wrap=True)
    if paths.plan.exists():  # a report of tables, or of a part, has no curves of its own
        console.print(_text(f"tensorboard: harness tensorboard {place}"), soft_wrap=True)


def show_contrast(console: Console, found: Mapping[str, Any]) -> None:
    """What changed from A to B for each strategy, then what else differs between the two."""
    a, b = found["a"], found["b"]
    console.print(_text(f"{b} against {a}: differences are {b} − {a}"))
    single = not any(entry["backbone"] for entry in found["comparisons"])
    head = ("task", "strategy", "metric", a, b, "difference", "95 % interval", "Holm p", "n", "verdict")
    table = _grid(*map(escape, head), right=(3, 4, 5, 6, 7, 8))
    for entry in found["comparisons"]:
        like = entry["scores"][a]["mean"]
        interval = "—"
        if entry["ci"] is not None:
            low, high = (wording.fixed(bound, like, signed=True) for bound in entry["ci"])
            interval = f"{low} to {high}"
        p = entry["p_adjusted"]
        metric = f"{entry['primary']} {'↓' if entry['direction'] == 'min' else '↑'}"
        row = [
            entry["task"] if single else f"{entry['task']} @ {entry['backbone']}",
            entry["strategy"],
            metric if entry["split"] == "test" else f"{entry['split']} {metric}",
            wording.score(entry["scores"][a]),
            wording.score(entry["scores"][b]),
            wording.fixed(entry["difference"], like, signed=True),
            interval,
            "—" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
            str(entry["n"]),
            wording.verdict_word(entry),
        ]
        table.add_row(*map(_text, row))
    console.print(table)
    for key, words in (
        ("only_a", f"only in {a}"),
        ("only_b", f"only in {b}"),
        ("other_metric", "in both, with different primary metrics"),
    ):
        if found[key]:
            places = [f"{place['task']} | {place['strategy']}" for place in found[key]]
            console.print(_text(f"{words}: {', '.join(places)}"), soft_wrap=True)
    if found["differs"]:
        differs = _grid("differs", "in", *map(escape, (a, b)))
        for entry in found["differs"]:
            sides = (_shown(entry[side]) for side in ("a", "b"))
            differs.add_row(*map(_text, (entry["name"], entry["part"], *sides)))
        console.print()
        console.print(differs)
    else:
        console.print(_text("No record, plan or sweep file says of anything else that it differs."))
    for remark in found["remarks"]:
        console.print(_text(f"note: {remark}"), soft_wrap=True)


def _shown(value: Any) -> str:
    if value is None:
        return "—"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
