"""The files that start clusters: Ray takes them, and what the nodes run works here."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from harness.tuning import parcel

ROOT = Path(__file__).parent.parent
LAUNCHER = ROOT / "cluster.yaml"
VARIANTS = ("aws", "gcp", "azure", "local")


def pinned(package: str) -> str:
    [version] = re.findall(rf"^{package}==([^ ;\n]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def launcher(kind: str) -> dict[str, Any]:
    """The launcher's file, with the sections of a variant uncommented as its heading says."""
    text = LAUNCHER.read_text(encoding="utf-8")
    main, *variants = re.split(r"^# == .*==$", text, flags=re.MULTILINE)
    content: dict[str, Any] = yaml.safe_load(main)
    if kind == content["provider"]["type"]:
        return content
    for variant in variants:
        own = yaml.safe_load(re.sub(r"^#", "", variant, flags=re.MULTILINE))
        if own["provider"]["type"] == kind:
            if kind == "local":
                del content["available_node_types"], content["head_node_type"]
            return {**content, **own}
    raise AssertionError(f"no variant for {kind}")


@pytest.mark.parametrize("kind", VARIANTS)
def test_ray_takes_the_launcher_file(kind: str) -> None:
    """By its own schema, with its own defaults filled in: no nightly wheel and no open dashboard is left."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher(kind))
    validate_config(prepared)
    commands = json.dumps([value for key, value in prepared.items() if key.endswith("commands")])
    assert "ray-wheels" not in commands and "nightly" not in commands and "0.0.0.0" not in commands
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key][0] == "ray stop" and "RAY_AUTH_MODE=token" in prepared[key][1]
    if kind != "local":
        types = prepared["available_node_types"]
        assert all(found["min_workers"] == 0 for found in types.values())
        assert types["head"]["resources"] == {"CPU": 0} and types["gpu"]["resources"]["GPU"] == 1
        spot = {"aws": "spot", "gcp": "preemptible", "azure": "Spot"}[kind]
        own = ["IamInstanceProfile" in found["node_config"] for found in types.values()]
        assert all(own) or not any(own)
        assert spot in json.dumps(types["gpu"]) and spot not in json.dumps(types["head"])


def test_all_versions_are_the_pinned_ones() -> None:
    for file in (LAUNCHER, ROOT / "deploy" / "Dockerfile"):
        assert "[cluster,kinds,s3]" in file.read_text()  # results on s3:// need no mount
        assert re.findall(r"ray\[[a-z,]+\]==([\d.]+)", file.read_text()) == [pinned("ray")], file.name
    _, job = rayjob()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned("ray")


def test_no_file_holds_a_secret_and_none_goes_to_the_nodes_by_chance() -> None:
    content = launcher("aws")
    assert content["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in content["setup_commands"])
    assert set(content["file_mounts"].values()) == {
        "harness", "constraints.txt", "pyproject.toml", "~/.ray/auth_token",
    }  # fmt: skip
    # rsync leaves a file out that is mounted by itself, too: the token, the key that Ray hands to the head
    mounted = ("auth_token", "ray-autoscaler_us-west-2.pem", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")
    kept = {kept for kept in parcel.KEPT if not any(fnmatch(name, kept) for name in mounted)}
    assert set(content["rsync_exclude"]) == {f"**/{kept}" for kept in kept}
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*" and ignored[-1] == "**/.*"


# -- Kubernetes ------------------------------------------------------------------------------------

# The fields of KubeRay's API (ray.io/v1) that a manifest like ours may have; the schema itself is not part of
# Ray's package. What it cannot tell is whether the operator does with them what they say.
_JOB = {
    "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
    "submissionMode", "activeDeadlineSeconds", "runtimeEnvYAML", "metadata", "jobId", "suspend",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "submitterPodTemplate",
    "clusterSelector",
}  # fmt: skip
_CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
    "workerGroupSpecs", "suspend", "headServiceAnnotations", "gcsFaultToleranceOptions",
}  # fmt: skip
_GROUP = {"rayStartParams", "template", "serviceType", "enableIngress", "headService"}
_WORKERS = _GROUP | {
    "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds", "suspend",
}  # fmt: skip


def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))
    return claim, job


def test_the_manifest_is_one_of_kuberay() -> None:
    claim, job = rayjob()
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job["spec"]) <= _JOB and set(cluster) <= _CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    head, [workers] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(head) <= _GROUP and set(workers) <= _WORKERS
    assert head["serviceType"] == "ClusterIP" and not head.get("enableIngress")
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["securityContext"]["fsGroup"] == 1000  # the image's user
        [container] = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_rays_autoscaler_reads_the_manifest_as_it_is_meant() -> None:
    """What Ray's part of the autoscaler on Kubernetes makes of the cluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    _, job = rayjob()
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "x", "namespace": "y"}, "spec": job["spec"]["rayClusterSpec"]}
    )
    validate_config(config)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0 and head["max_workers"] == 0
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, 8)
    assert types["gpu"]["resources"]["CPU"] == 4 and types["gpu"]["resources"]["GPU"] == 1
    assert config["idle_timeout_minutes"] == 10


# -- the commands of the nodes ---------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """Runs a node's commands on this machine: with a home, a temporary folder and ports of its own, and
    without `ray stop`, which would end every Ray here."""

    def __init__(self, root: Path) -> None:
        self.root, self.port, self.dashboard = root, free_port(), free_port()
        self.home = root / "home"
        (self.home / ".ray").mkdir(parents=True)
        token = self.home / ".ray" / "auth_token"
        token.write_text("a1" * 32)
        token.chmod(0o600)
        keep = ("LANG", "OMP_NUM_THREADS", "PYTHONPATH")
        self.environment = {
            **{name: os.environ[name] for name in keep if name in os.environ},
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_HEAD_IP": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
        }

    def start(self, node: str, commands: list[str], resources: dict[str, int]) -> None:
        stopping = [command for command in commands if re.match(r"ray\s+stop", command)]
        assert stopping == ["ray stop"] == commands[:1]
        options = f" --temp-dir={self.root}/{node} --dashboard-agent-listen-port={free_port()}"
        options += " --object-store-memory=150000000 --node-ip-address=127.0.0.1"
        for command in commands[1:]:
            for old, new in {
                "6379": str(self.port),
                "8265": str(self.dashboard),
                "/tmp/harness-cache": f"{self.root}/{node}-cache",
                "--autoscaling-config=~/ray_bootstrap_config.yaml": "",  # the launcher writes it for a cloud
            }.items():
                command = command.replace(old, new)
            subprocess.run(
                ["bash", "-c", command + options], check=True, timeout=120, capture_output=True,
                env={**self.environment, "RAY_OVERRIDE_RESOURCES": json.dumps(resources)},
            )  # fmt: skip

    def harness(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness", *arguments, "--address", f"127.0.0.1:{self.port}"],
            env={**self.environment, "RAY_AUTH_MODE": "token", **environment},
            capture_output=True, text=True, timeout=200, cwd=self.root,
        )  # fmt: skip

    def end(self) -> None:
        """Kill what was started here, which names this machine's folder or has its home."""
        for process in psutil.process_iter(["pid"]):
            try:
                mine = process.environ().get("HOME") == str(self.home) or str(self.root) in " ".join(
                    process.cmdline()
                )
                if mine and process.pid != os.getpid():
                    process.kill()
            except psutil.Error:
                continue


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_what_the_nodes_run_makes_a_cluster_for_those_with_the_token(sweep: Any, tmp_path: Path) -> None:
    content = launcher("aws")
    path = sweep(strategies={"full": {"freeze": 2}}, baseline=None, seeds={"tune": 1, "confirm": 0})
    root = Path(tempfile.mkdtemp(prefix="launch-"))
    machine = Machine(root)
    try:
        machine.start("head", content["head_start_ray_commands"], {"CPU": 0})
        machine.start("worker", content["worker_start_ray_commands"], {"CPU": 1})
        results = tmp_path / "results"
        stranger = machine.harness("run", str(path), "--results", str(results), RAY_AUTH_TOKEN="b" * 64)
        assert stranger.returncode == 2 and "does not let this program in" in stranger.stderr
        assert "Traceback" not in stranger.stderr and not (results / "small" / "report.html").exists()
        found = machine.harness("run", str(path), "--results", str(results))
        assert found.returncode == 0, found.stdout + found.stderr
        assert len(list((results / "small" / "trials").glob("[!.]*.json"))) == 2
        assert (root / "worker-cache" / "encoded").is_dir() and not (root / "head-cache" / "encoded").exists()
    finally:
        machine.end()
        shutil.rmtree(root, ignore_errors=True)
