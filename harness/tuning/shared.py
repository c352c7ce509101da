"""Whether every node of a running cluster sees the results, found out before trials run there."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import HarnessError, Mistakes
from harness.records.stores import is_uri, store

_SECONDS = 120.0  # a node that joins may have to unpack an environment


def check_results(results: str) -> None:
    """Every node that lives looks for something that this process has written there.

    Args:
        results: an absolute folder, or a URI.

    Raises: InputError naming the nodes that do not see it, and why.
    """
    name, content = f".check.{secrets.token_hex(8)}", secrets.token_hex(8)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    look: Any = ray.remote(num_cpus=0, max_retries=0)(_seen)
    _write(results, name, content)
    try:
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                results, name
            ): where
            for node, where in nodes.items()
        }
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
    finally:
        _remove(results, name)
    mistakes = Mistakes()
    for answer in late:
        mistakes.add(
            f"node {asked[answer]}", f"does not say within {_SECONDS:.0f} s whether it sees {results}"
        )
    for answer in ready:
        if reason := _reason(answer, content):
            hint = (
                ""
                if is_uri(results)
                else "name a folder that all nodes share, or a URI such as s3://bucket/folder"
            )
            mistakes.add(f"node {asked[answer]}", f"{results}: {reason}", hint)
    mistakes.raise_any()


def _reason(answer: Any, content: str) -> str:
    """Why a node does not see what was written; empty if it does."""
    try:
        seen, reason = ray.get(answer)
    except ray.exceptions.NodeDiedError:
        return ""  # it will run no trial
    except ray.exceptions.RayError as error:
        return f"cannot be looked for there: {' '.join(str(error).split())[-300:]}"
    if seen == content:
        return ""
    return reason or "this node does not see what the driver writes there"


def _write(results: str, name: str, content: str) -> None:
    if is_uri(results):
        store(results).write(name, content.encode())
    else:
        (Path(results) / name).write_text(content)


def _remove(results: str, name: str) -> None:
    if is_uri(results):
        store(results).remove(name)
    else:
        (Path(results) / name).unlink(missing_ok=True)


def _seen(results: str, name: str) -> tuple[str, str]:
    """On a node: what it sees, and why it sees nothing."""
    try:
        if is_uri(results):
            return (store(results).read(name, seconds=10.0) or b"").decode(), ""
        path = Path(results) / name
        return (path.read_text() if path.exists() else ""), ""
    except (HarnessError, OSError) as error:
        return "", str(error)
