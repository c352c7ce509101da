"""Nodes that share no disk: a real Ray cluster whose second node has folders that only it sees."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import word_task

from harness.records.stores import store

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]
pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

NODE = """
mount --make-rprivate / && mount -t tmpfs tmpfs "$HIDDEN" || exit 1
exec "$PYTHON" -m ray.scripts.scripts start --address="$ADDRESS" --num-cpus=1 --block --disable-usage-stats
"""


def unshares() -> bool:
    try:
        return (
            subprocess.run(
                ["unshare", "-m", "-p", "-f", "--mount-proc", "true"], capture_output=True
            ).returncode
            == 0
        )
    except OSError:
        return False


@pytest.fixture
def two_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a cluster, and its second node, which has a `tmp_path / "hidden"` of its own. Process
    ids are its own, too: when its first process ends, all do."""
    from ray.cluster_utils import Cluster

    if not unshares():
        pytest.skip("no mount namespaces here")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "harness")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("HARNESS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "hidden"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "hidden").mkdir()
    import boto3
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # of another test's server
    boto3.client("s3").create_bucket(Bucket="bucket")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = subprocess.Popen(
        ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", NODE],
        env={
            **os.environ, "HIDDEN": str(tmp_path / "hidden"), "PYTHON": sys.executable,
            "ADDRESS": cluster.address,
        },
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield cluster.address, node
    finally:
        node.kill()  # unshare itself takes no SIGTERM
        node.wait()
        cluster.shutdown()
        server.stop()


def run(path: Path, results: str, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "run", str(path), "--results", results, "--address", address],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def joined(address: str) -> int:
    """How many nodes live."""
    ask = (
        f"import ray; ray.init(address={address!r}, log_to_driver=False); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def test_trials_run_on_nodes_that_share_nothing_but_a_uri(
    sweep: Any, words_csv: Path, tmp_path: Path, two_nodes: Any
) -> None:
    """The plain folder is refused; on a URI trials run on both nodes, one of which is killed, and the driver
    has every record and every prediction."""
    address, node = two_nodes
    deadline = time.monotonic() + 60
    while joined(address) < 2:
        assert time.monotonic() < deadline and node.poll() is None
        time.sleep(1)
    path = sweep(
        tasks=[word_task(words_csv), word_task(words_csv, "source", split_seed=3)],
        baseline=None,
        strategies={"a": {"regularizer": {"name": "fault", "seconds": 0.3}}},
        optimizer={"learning_rate": {"grid": [1e-3, 2e-3]}},
        seeds={"tune": 1, "confirm": 3},
        resources={"cpus": 1, "checkpoint_seconds": 0},
    )
    refused = run(path, str(tmp_path / "hidden" / "results"), address)
    said, _ = refused.communicate(timeout=200)
    assert refused.returncode == 2 and "does not see what the driver writes there" in said
    assert "s3://bucket/folder" in said and "Traceback" not in said

    there = store("s3://bucket/nodes/small")
    running = run(path, "s3://bucket/nodes", address)
    folder = tmp_path / "hidden" / "finetune-harness" / "results"

    def elsewhere() -> set[str]:
        """Trials of the second node that have ended: their curves stayed where they were written."""
        ended = {name.removesuffix(".json") for name in there.names("trials")}
        return ended - {path.parent.name.rpartition(".")[2] for path in folder.glob("*/tb/*/*/events*")}

    deadline = time.monotonic() + 200
    while running.poll() is None and not elsewhere():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ran = elsewhere()
    node.kill()
    said, _ = running.communicate(timeout=250)
    if running.returncode == 3:  # a trial that was just being started there; the next run runs it
        running = run(path, "s3://bucket/nodes", address)
        said, _ = running.communicate(timeout=250)
    assert running.returncode == 0, said
    records = [json.loads(there.read(key) or b"") for key in there.listed("trials")]
    assert len(records) == 10 and {record["status"] for record in records} == {"finished"}
    (root,) = (path for path in folder.iterdir() if path.suffix != ".view")
    confirmed = [record["trial_id"] for record in records if record["phase"] == "confirm"]
    assert len(confirmed) == 6
    for trial in confirmed:
        assert (root / "predictions" / f"{trial}.parquet").exists()
        assert (root / "trials" / f"{trial}.json").exists()
    assert ran and all((root / "trials" / f"{trial}.json").exists() for trial in ran)
