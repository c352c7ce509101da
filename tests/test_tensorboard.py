"""The event files, read back through TensorBoard's own backend."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import Sweep, change, typical

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
        folder /= "words.tiny"
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


# -- what is said of a sweep as a whole --------------------------------------------------------------


def dashboards(logdir: Path) -> tuple[dict[str, Any], Any, Any]:
    """What the tab of custom scalars is told to draw; a reader of curves by run and tag, and one of texts,
    both by way of the plug-ins that answer the page."""
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
    from tensorboard.plugins.text.text_plugin import TextPlugin

    provider, _, request = backend(logdir)
    plugins: dict[str, Any] = {}
    context = base_plugin.TBContext(
        data_provider=provider, logdir=str(logdir), plugin_name_to_instance=plugins
    )
    plugins["scalars"] = ScalarsPlugin(context)
    scalars, text = CustomScalarsPlugin(context), TextPlugin(context)
    layout = scalars.layout_impl(request, "")
    layout = json.loads(layout) if isinstance(layout, (str, bytes)) else layout
    runs = list(provider.list_scalars(request, experiment_id="", plugin_name="scalars"))

    def curves(tags: list[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """As the page asks: every run, with one pattern for all tags of a chart."""
        pattern = "|".join(f"({re.escape(tag)})" for tag in tags)
        found = {run: scalars.scalars_impl(request, run, pattern, "")["tag_to_events"] for run in runs}
        return {
            run: {tag: [(step, value) for _, step, value in events] for tag, events in by_tag.items()}
            for run, by_tag in found.items()
            if by_tag
        }

    def texts() -> dict[tuple[str, str], list[str]]:
        return {
            (run, tag): [event["text"] for event in text.text_impl(request, run, tag, "", True)]
            for run, tags in text.index_impl(request, "").items()
            for tag in tags
        }

    return layout, curves, texts


def charts(layout: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """The tags of each chart (value, lower, upper), by the name of the task and the title."""
    found: dict[str, dict[str, list[str]]] = {}
    for category in layout["category"]:
        by_title = found.setdefault(category["title"].partition(" (")[0], {})
        for chart in category["chart"]:
            (series,) = chart["margin"]["series"]
            assert chart["title"] not in by_title
            by_title[chart["title"]] = [series[end] for end in ("value", "lower", "upper")]
    return found


def judged(root: Path, sweep: Sweep | None = None) -> Path:
    """The curves of a synthetic sweep that has a report."""
    paths = (sweep or typical()).write(root)
    assert main(["report", str(root)]) == 0
    return paths.tensorboard


@pytest.mark.parametrize(
    "opened_on", ["results", *(pytest.param(name, marks=pytest.mark.long) for name in ("sweep", "task"))]
)
def test_every_task_has_charts_that_draw_its_own_curves(tmp_path: Path, opened_on: str) -> None:
    """A chart draws its tags of every run there is: two tasks, two sweeps, and each shows what is its own."""
    folder = judged(tmp_path / "results" / "first")
    judged(tmp_path / "results" / "second")
    opened = {"results": tmp_path / "results", "sweep": folder, "task": folder / "bbc-topics.minilm-l6"}
    layout, curves, _ = dashboards(opened[opened_on])
    found = charts(layout)
    assert set(found) == ({"bbc-topics"} if opened_on == "task" else {"bbc-topics", "tweet-sentiment"})
    names = {"head-only", "top-2", "full", "full-l2sp"}
    before = {
        "task": [""],
        "sweep": ["{}.minilm-l6/"],
        "results": ["first/tb/{}.minilm-l6/", "second/tb/{}.minilm-l6/"],
    }
    for task, by_title in found.items():
        assert set(by_title) == {"validation accuracy", "training loss"}  # these records have no other curve
        for tags in by_title.values():
            drawn = curves(tags)
            assert set(drawn) == {
                f"{b.format(task)}report/{name}" for b in before[opened_on] for name in names
            }
            assert all(set(by_tag) == set(tags) for by_tag in drawn.values())


def drawn(logdir: Path, task: str, title: str) -> dict[str, list[list[tuple[int, float]]]]:
    """What a chart draws, by strategy: the curve, its lower and its upper end."""
    layout, curves, _ = dashboards(logdir)
    tags = charts(layout)[task][title]
    return {run.rpartition("/")[2]: [by_tag[tag] for tag in tags] for run, by_tag in curves(tags).items()}


def test_a_chart_shows_mean_and_range_of_the_winners_runs(tmp_path: Path) -> None:
    found = drawn(judged(tmp_path / "sweep"), "tweet-sentiment", "validation accuracy")
    # the scores of the confirm runs, less what validation is below test in these records; one has diverged
    wanted = {"head-only": (0.6972, 0.690, 0.706), "full": (0.78675, 0.780, 0.796)}
    for name, values in wanted.items():
        assert found[name] == [[(50, pytest.approx(value, abs=1e-6))] for value in values]


def test_where_nothing_is_confirmed_yet_charts_show_the_winners_tuning(tmp_path: Path) -> None:
    paths = typical().write(tmp_path / "sweep")
    for path in paths.trials.glob("*-confirm-*.json"):
        path.unlink()
    assert main(["report", str(paths.root)]) == 0
    found = drawn(paths.tensorboard, "bbc-topics", "validation accuracy")
    assert len(found) == 4
    assert all(
        curve == [(50, pytest.approx(0.9))] for curve, _, _ in found.values()
    )  # the best rate's, of three


def test_a_mean_is_one_of_the_same_seeds_at_every_step(tmp_path: Path) -> None:
    """Runs that stopped early must not leave the mean to the others."""
    paths = typical().write(tmp_path / "sweep")
    for place, path in enumerate(sorted(paths.trials.glob("c0000-confirm-*.json"))):
        steps = range(10, 40 - 10 * (place == 0), 10)
        change(path, curve=[{"step": s, "validation": {"accuracy": s + place}} for s in steps])
    assert main(["report", str(paths.root)]) == 0
    assert drawn(paths.tensorboard, "bbc-topics", "validation accuracy")["head-only"] == [
        [(10, 12.0), (20, 22.0)],
        [(10, 10.0), (20, 20.0)],
        [(10, 14.0), (20, 24.0)],
    ]


@pytest.mark.parametrize("opened_on", ["sweep", "task"])
def test_the_verdict_is_a_text(tmp_path: Path, opened_on: str) -> None:
    folder = judged(tmp_path / "sweep")
    verdicts = json.loads((tmp_path / "sweep" / "verdicts.json").read_text())["tasks"]
    prefix = "" if opened_on == "task" else "bbc-topics.minilm-l6/"
    _, _, texts = dashboards(folder / "bbc-topics.minilm-l6" if opened_on == "task" else folder)
    found = texts()
    assert said(found[f"{prefix}report", "verdict"]) == verdicts["bbc-topics"]["sentence"]
    if opened_on == "sweep":
        both = said(found["report", "verdict"])
        assert all(verdict["sentence"] in both for verdict in verdicts.values())
        (table,) = found["report", "strategies × tasks"]
        rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
        assert [row[0] for row in rows] == ["strategy", "head-only", "top-2", "full", "full-l2sp"]
        for row in rows[1:]:
            for key, cell in zip(verdicts, row[1:], strict=True):
                score = verdicts[key]["scores"][row[0]]
                assert cell.startswith(f"{score['mean']:.3f}")
                assert ("leader" in cell) == (row[0] == verdicts[key]["leader"])
                assert ("recommended" in cell) == (row[0] == verdicts[key]["recommended"])
    else:
        assert set(found) == {("report", "verdict")}


def said(text: list[str]) -> str:
    """The words of the one text that there is."""
    (shown,) = text
    return html.unescape(re.sub(r"<[^>]*>", "", shown)).strip()


def test_a_new_report_replaces_what_the_last_one_said(tmp_path: Path) -> None:
    folder = judged(tmp_path / "sweep")
    _, _, texts = dashboards(folder)
    before = texts()
    for path in (tmp_path / "sweep" / "trials").glob("*-confirm-*.json"):
        if "c0000" not in path.name and "c0004" not in path.name:  # only head-only is left
            path.unlink()
    plan = json.loads((tmp_path / "sweep" / "plan.json").read_text())
    kept = [cell for cell in plan["cells"] if cell["task"] == "bbc-topics"]
    change(tmp_path / "sweep" / "plan.json", tasks=plan["tasks"][:1], cells=kept)
    assert main(["report", str(tmp_path / "sweep")]) == 0
    layout, _, texts = dashboards(folder)
    after = texts()
    assert set(before) - set(after) == {("tweet-sentiment.minilm-l6/report", "verdict")}
    assert all(len(text) == 1 for text in after.values())
    assert after["bbc-topics.minilm-l6/report", "verdict"] != before["bbc-topics.minilm-l6/report", "verdict"]
    assert "tweet-sentiment" not in said(after["report", "verdict"])
    assert set(charts(layout)) == {"bbc-topics"}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    task, strategy = "a|b <img src=x onerror=alert(1)>", "(.*)|[x] </script>"
    scores = {task: {strategy: [0.8, 0.81, 0.82], "..": [0.7, 0.71, 0.72], "a b": [0.6], "a?b": [0.5]}}
    layout, curves, texts = dashboards(judged(tmp_path / "sweep", Sweep(scores=scores)))
    shown = "".join(text for listed in texts().values() for text in listed)
    assert "<img" not in shown and "<script" not in shown and "</script" not in shown
    assert len(re.findall("<tr>", texts()["report", "strategies × tasks"][0])) == 5
    for tags in charts(layout)[task.partition(" (")[0]].values():
        found = curves(tags)
        assert all(set(by_tag) == set(tags) for by_tag in found.values())
        assert {run.split("report")[1] for run in found} == {"/_._x_script_", "/_", "/a_b", "/a_b_"}


def test_a_sweep_that_has_run_shows_all_of_it(finished: Path) -> None:
    layout, _, texts = dashboards(finished / "tb")
    (by_title,) = charts(layout).values()
    assert set(by_title) == {"validation accuracy", "validation loss", "training loss"}
    for title in by_title:
        found = drawn(finished / "tb", "words", title)
        assert set(found) == {"full", "head-only"}
        for bands in found.values():
            steps = list(zip(*bands, strict=True))
            assert len(steps) == 2  # epochs
            assert all(low[1] <= mean[1] <= high[1] for mean, low, high in steps)
    assert {run for run, _ in texts()} == {"report", "words.tiny/report"}
    # the table of hyper-parameters has no row for what is no trial
    provider, _, request = backend(finished / "tb")
    sessions = provider.list_scalars(request, experiment_id="", plugin_name="hparams")
    assert not any(run.endswith("report") for run in sessions)
