"""The event files, read back through TensorBoard's own backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main


@pytest.fixture
def finished(sweep: Any, tmp_path: Path) -> Path:
    path = sweep(seeds={"tune": 2, "confirm": 3})
    assert main(["run", str(path), "--results", str(tmp_path), "--local"]) == 0
    return tmp_path / "small"


def backend(logdir: Path) -> tuple[Any, Any, Any]:
    """TensorBoard's data provider and HParams plug-in as its server makes them."""
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import backend_context

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
    hparams = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(logdir)))
    return provider, hparams, context.RequestContext()


def trial_records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "trials").glob("*.json")]


def test_every_trial_has_its_curve(finished: Path) -> None:
    provider, _, request = backend(finished / "tb")
    scalars = provider.list_scalars(request, experiment_id="", plugin_name="scalars")
    read = provider.read_scalars(request, experiment_id="", plugin_name="scalars", downsample=1000)
    for record in trial_records(finished):
        (run,) = [name for name in scalars if name.endswith(record["trial_id"])]
        events = read[run]["validation/accuracy"]
        assert [event.step for event in events] == [point["step"] for point in record["curve"]]
        assert [event.value for event in events] == pytest.approx(
            [point["validation"]["accuracy"] for point in record["curve"]]
        )
        assert {"train_loss", "validation_loss", "learning_rate", "final/validation"} <= set(scalars[run])
        assert ("final/test" in scalars[run]) == (record["phase"] == "confirm")


@pytest.mark.parametrize("opened_on", ["the sweep", "one task"])
def test_hparams_has_one_group_per_configuration(finished: Path, opened_on: str) -> None:
    from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups

    folder = finished / "tb"
    if opened_on == "one task":
        (folder,) = folder.iterdir()
    _, hparams, request = backend(folder)
    experiment = get_experiment.Handler(request, hparams, "", api_pb2.GetExperimentRequest()).run()
    columns = {info.name for info in experiment.hparam_infos}
    assert columns == {"task", "backbone", "strategy", "phase", "optimizer.learning_rate"}
    metrics = [info.name for info in experiment.metric_infos]
    assert {metric.tag for metric in metrics} == {"final/validation", "final/test"}
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING],
        col_params=[api_pb2.ColParams(metric=metric) for metric in metrics],
    )
    groups = list_session_groups.Handler(request, hparams, "", asked).run().session_groups
    wanted = {
        (r["strategy"], r["phase"], r["hyperparameters"]["optimizer.learning_rate"])
        for r in trial_records(finished)
    }
    shown = {
        (
            group.hparams["strategy"].string_value,
            group.hparams["phase"].string_value,
            group.hparams["optimizer.learning_rate"].number_value,
        )
        for group in groups
    }
    assert shown == wanted and len(groups) == len(wanted)
    seeds = {group.hparams["phase"].string_value: len(group.sessions) for group in groups}
    assert seeds == {"tune": 2, "confirm": 3}  # the seeds of a configuration are sessions of one group
    for group in groups:
        tags = {value.name.tag for session in group.sessions for value in session.metric_values}
        assert ("final/test" in tags) == (group.hparams["phase"].string_value == "confirm")
