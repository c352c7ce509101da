"""From a plan to finished records: checks the results folder, prepares it, runs the campaign."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from harness import pulse
from harness.errors import Mistakes, ResultsLockedError, bad
from harness.plan import Plan
from harness.prepare import Prepared, prepare
from harness.records import remote
from harness.records.lock import hold
from harness.records.paths import ResultPaths
from harness.records.patience import ending
from harness.records.pull import PREDICTIONS, STUDIES, pull
from harness.records.tensorboard import task_folder, write_experiment
from harness.sections import Resources
from harness.spec import Sweep
from harness.training import prefix
from harness.training.data import encode
from harness.training.workspace import Workspace, workspace_of
from harness.tuning.bundles import at_once
from harness.tuning.campaign import Campaign, Watch
from harness.tuning.cluster import Cluster
from harness.tuning.preflight import check_space, recorded_sweep, write_definitions


def check_machine(resources: Resources) -> None:
    """Raises: InputError if this machine cannot hold one trial."""
    mistakes = Mistakes()
    cores, devices = os.cpu_count() or 1, torch.cuda.device_count()
    if resources.cpus > cores:
        mistakes.add(
            "resources.cpus", f"a trial wants {resources.cpus:g} cores, and this machine has {cores}"
        )
    if resources.gpus > devices:
        mistakes.add(
            "resources.gpus", f"a trial wants {resources.gpus:g} GPUs, and this machine has {devices}"
        )
    mistakes.raise_any()


def check_folder(sweep: Sweep, paths: ResultPaths) -> None:
    """Raises: InputError if the results folder holds another sweep.

    A sweep may grow (more seeds, values, strategies, tasks); it is another one if it has another name, or no
    task or no backbone in common.
    """
    remote.latest(paths.sweep)
    remote.latest(paths.plan)
    known = recorded_sweep(paths)
    if known is None and not paths.sweep.exists():
        if any(not name.startswith((".lock", ".check.")) for name in remote.names(paths.root)):
            raise bad(
                remote.shown(paths.root),
                "holds files that are no sweep's results",
                "name another --results folder",
            )
        return
    if known is None:
        raise bad(str(paths.sweep), "cannot be read, and neither can plan.json")
    name, tasks, backbones = known
    same = (
        name == sweep.name
        and tasks & {entry.name for entry in sweep.tasks}
        and backbones & {entry.name for entry in sweep.backbones}
    )
    if not same:
        raise bad(
            remote.shown(paths.root),
            f"holds a different sweep ('{name}' over {', '.join(sorted(tasks))})",
            "rename this sweep, or name another --results folder",
        )


def preflight(sweep: Sweep, paths: ResultPaths, here: bool) -> Prepared:
    """Everything that can be found wrong before a trial starts, beside the storage of results (see
    `remote.check`), and what planning needs to know.

    Args:
        here: trials run on this machine. A cluster is looked at once connected.

    Raises: InputError with every mistake.
    """
    mistakes = Mistakes()
    with mistakes.collecting():
        check_folder(sweep, paths)
    with mistakes.collecting():
        if here:
            check_machine(sweep.resources)
    prepared: Prepared | None = None
    with mistakes.collecting():
        prepared = prepare(sweep)
    mistakes.raise_any()
    assert prepared is not None
    return prepared


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM (a scheduler's notice) ask the training to write its checkpoints and to end; another
    one does not wait for that. To be set after `ray.init`, which sets a handler that aborts; what the block
    gets sets it again, since Tune has a handler of its own."""

    def asked(number: int, frame: object) -> None:
        if pulse.halting():
            raise KeyboardInterrupt
        pulse.halt()

    def listen() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, asked)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    listen()
    try:
        yield listen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        pulse.go_on()


def launch(plan: Plan, paths: ResultPaths, cluster: Cluster | None, watch: Watch) -> Campaign:
    """Run what the plan owes, on a cluster or in this process. The campaign that comes back is not `done` if
    it was interrupted.

    Raises: InputError for resources that no node of a cluster has, for nodes that do not see the results, and
        for disks without room; ResultsLockedError if another run holds the results; StorageError if what they
        are on stays away; NoSpaceError if a disk became full.
    """
    check_space(plan, paths, cluster is None)
    try:
        with hold(paths), remote.telling(paths.root):
            pull(paths, STUDIES, PREDICTIONS)
            campaign = _launch(plan, paths, cluster, watch)
            pull(paths, PREDICTIONS, records=False)  # of trials that ran elsewhere
            return campaign
    except ResultsLockedError:  # whatever has failed since another run took over
        raise
    except Exception as error:
        if end := ending(error):
            raise end from error
        raise


def _launch(plan: Plan, paths: ResultPaths, cluster: Cluster | None, watch: Watch) -> Campaign:
    workspace = workspace_of(plan, paths.root)
    if cluster is not None and not cluster.local:
        cluster.ready(workspace.results)  # one that cannot run the sweep is told before anything is written
    write_definitions(plan, paths)
    if cluster is not None:
        resources = plan.sweep.resources
        slots = resources.at_once(os.cpu_count() or 1, torch.cuda.device_count())
        cluster.expect(at_once(plan, slots))
    trials = itertools.chain(plan.sources.values(), plan.planned())
    lengths = {(t.task, t.backbone, t.recipe["training"]["max_length"]) for t in trials}
    for task, backbone, length in sorted(lengths, key=str):
        encode(workspace, task, backbone, length)
    _describe_curves(plan, paths)
    here = cluster is not None and cluster.local and workspace.gpus == 0
    with _building(workspace) if here else contextlib.nullcontext():
        return _execute(plan, paths, workspace, cluster, watch)


def _execute(
    plan: Plan, paths: ResultPaths, workspace: Workspace, cluster: Cluster | None, watch: Watch
) -> Campaign:
    if cluster is not None and cluster.local:
        cluster.ready()
    from harness.tuning import halving, local  # these import ray

    halvings = halving.Halving(plan.sweep.scheduler)
    with _interruptible() as listen:
        campaign = Campaign(plan, paths, watch, halvings.replay, partial(prefix.release, workspace))
        try:
            if cluster is None:
                local.execute(campaign, workspace, halvings)
            else:
                from harness.tuning import ray_tune

                ray_tune.execute(campaign, workspace, halvings, plan.sweep.resources, listen)
        finally:
            campaign.close()
    return campaign


@contextmanager
def _building(workspace: Workspace) -> Iterator[None]:
    """While workers start on this machine, compute what frozen rungs give, with all cores. A worker that
    needs it waits for it; where it fails, the worker tries again and says why."""
    ended = threading.Event()

    def build() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(os.cpu_count() or 1)
        prefix.build(workspace, torch.device("cpu"), ended)
        torch.set_num_threads(before)

    thread = threading.Thread(target=build, name="prefixes")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _describe_curves(plan: Plan, paths: ResultPaths) -> None:
    # Every folder gets the same columns: TensorBoard reads one description, whichever folder it is opened on.
    axes = list(dict.fromkeys(".".join(path) for cell in plan.cells for path in cell.space.axes))
    for task, backbone in plan.prepared.models:
        write_experiment(task_folder(paths, task, backbone), axes)
