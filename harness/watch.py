"""What `harness status` shows: once, or again and again until the sweep is done."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.analysis import wording
from harness.records.record import FAILURES
from harness.report.blocks import printable
from harness.status import CellStatus, Status, Watcher

# Looking takes a twentieth of the time at most, however large the sweep.
_SHARE = 20
_MOST_RUNNING = 8
_MOST_DAMAGED = 5


def watch(watcher: Watcher, console: Console, every: float, as_json: bool) -> None:
    """Look every so many seconds and show what is seen, until the sweep is done: on a terminal a table that
    is drawn anew, elsewhere lines where something has changed, or one JSON object per look.

    Raises: InputError if the results are gone.
    """
    on_terminal = console.is_terminal and not as_json
    before: Status | None = None
    with Live(console=console, auto_refresh=False) if on_terminal else nullcontext() as live:
        for status in _looks(watcher, every):
            if as_json:
                print(json.dumps(status.as_dict(), ensure_ascii=False), flush=True)
            elif live is not None:
                live.update(_table(status, console.height), refresh=True)
            else:
                for line in lines(status) if before is None else _news(before, status):
                    print(line, flush=True)
            before = status


def _looks(watcher: Watcher, every: float) -> Iterator[Status]:
    while True:
        started = time.monotonic()
        status = watcher.look()
        yield status
        if status.done:
            return
        time.sleep(max(every, _SHARE * (time.monotonic() - started)))


def lines(status: Status) -> list[str]:
    """The whole state: a line for the sweep, one for each cell, and what was damaged."""
    cells = (f"  {_cell_line(cell, status)}" for cell in status.cells)
    return [printable(headline(status)), *cells, *_damaged(status)]


def _damaged(status: Status) -> list[str]:
    """What runs found damaged and made or ran again; the latest of a process last."""
    more = len(status.damaged) - _MOST_DAMAGED
    shown = [printable(f"  damaged: {said}") for said in status.damaged[:_MOST_DAMAGED]]
    return [*shown, f"  and {more} more files, see the report"] if more > 0 else shown


def _news(before: Status, status: Status) -> list[str]:
    """A line for the sweep if anything has changed, and one for each cell that has come to another state."""
    if (before.trials, before.planned, before.since, before.done) == (
        status.trials, status.planned, status.since, status.done
    ):  # fmt: skip
        return []
    states = {cell.id: cell.state for cell in before.cells}
    moved = [cell for cell in status.cells if states.get(cell.id) != cell.state]
    return [headline(status), *(f"  {_cell_line(cell, status)}" for cell in moved)]


def headline(status: Status) -> str:
    """`mine: not done; 12 of 40 trials have ended (1 stopped), 2 running; 9.5 a minute, left 50 s – 70 s`."""
    ended = f"{status.ended} of {status.planned} trials have ended"
    apart = _apart(status.trials)
    ended += f" ({apart})" if apart else ""
    running = len(status.running)
    parts = [ended + (f", {running} running" if running else "")]
    if status.done:
        parts.append(f"{wording.seconds(status.device_s)} of device time")
    elif status.since is None:
        parts.append("no run is at work on it")
    elif status.pace is None:
        parts.append("how long it takes is not known yet")
    else:
        ends = [wording.seconds(round(end)) for end in status.pace.left]
        left = ends[0] if ends[0] == ends[1] else " – ".join(ends)
        parts.append(f"{status.pace.a_minute:.3g} a minute, left {left}")
    return f"{status.sweep}: {'done' if status.done else 'not done'}; {'; '.join(parts)}"


def _apart(trials: Mapping[str, int]) -> str:
    """The fates that are not as wished."""
    return wording.counts({fate: trials.get(fate, 0) for fate in ("stopped", *FAILURES, "unreadable")})


def _cell_line(cell: CellStatus, status: Status) -> str:
    why = f" ({wording.out_of_the_race(cell.raced_out)})" if cell.raced_out else ""
    text = f"{cell.task} | {cell.backbone} | {cell.strategy}: {cell.state}{why}; "
    text += wording.counts(cell.trials) or "nothing yet"
    if cell.best is not None:
        text += f"; best validation {status.metrics[cell.task]} {wording.fixed(cell.best)}"
    return printable(text)


def _table(status: Status, height: int) -> Group:
    """All of it where the terminal is high enough, else what is at work first."""
    running = [
        f"{trial.task} | {trial.backbone} | {trial.strategy} | {trial.phase} {trial.trial_id[:8]}: "
        f"{wording.seconds(round(max(0.0, status.seen - trial.started)))}"
        for trial in status.running[:_MOST_RUNNING]
    ]
    if len(status.running) > _MOST_RUNNING:
        running.append(f"and {len(status.running) - _MOST_RUNNING} more")
    room = max(3, height - len(running) - len(_damaged(status)) - 7)
    shown = sorted(status.cells, key=_rank)[:room] if len(status.cells) > room else status.cells
    ids = {cell.id for cell in shown}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("task", "backbone", "strategy", "state"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for heading in ("ended", "running", "stopped", "failed", "best validation"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in status.cells:
        if cell.id in ids:
            table.add_row(*map(Text, _row(cell)))
    rest = Counter(cell.state for cell in status.cells if cell.id not in ids)
    more = [Text(f"and {sum(rest.values())} more cells: {wording.counts(rest)}")] if rest else []
    at_work = [Text("running:", style="bold"), *(Text(f"  {line}") for line in running)] if running else []
    return Group(Text(headline(status), style="bold"), table, *more, *at_work, *map(Text, _damaged(status)))


def _rank(cell: CellStatus) -> int:
    """What is at work before what is to come, and that before what is settled."""
    return 0 if cell.trials.get("running") else 3 if cell.settled else 1 if cell.trials else 2


def _row(cell: CellStatus) -> list[str]:
    seen = cell.trials
    ended = sum(n for fate, n in seen.items() if fate not in ("running", "missing", "unreadable"))
    failed = sum(seen.get(fate, 0) for fate in FAILURES)
    numbers = [str(seen.get(fate, 0)) for fate in ("running", "stopped")]
    best = wording.fixed(cell.best)
    return [
        cell.task,
        cell.backbone,
        cell.strategy,
        cell.state,
        f"{ended}/{cell.planned}",
        *numbers,
        str(failed),
        best,
    ]
