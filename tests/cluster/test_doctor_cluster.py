"""The doctor on a cluster of several nodes, as the command that a person runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster


def run_doctor(*arguments: str) -> tuple[int, str, str]:
    # A process of its own: the doctor connects as a driver and disconnects, which would end this process's connection.
    done = subprocess.run(
        [sys.executable, "-m", "deployments.doctor.cli", *arguments], capture_output=True, text=True, timeout=200
    )
    return done.returncode, done.stdout, done.stderr


def test_every_node_is_looked_at(cluster: Cluster) -> None:
    code, out, err = run_doctor("--address", cluster.address, "--json")
    assert code == 0, out + err
    document = json.loads(out.splitlines()[-1])
    assert len(document["nodes"]) == 4
    assert [node["dead"] for node in document["nodes"]] == [""] * 4
    assert all(node["versions"]["torch"] and node["project"] == "" for node in document["nodes"])
    resources = {f["message"] for f in document["findings"] if f["check"] == "resources"}
    assert any(message.startswith("server: ") for message in resources)
    assert any(message.startswith("edge: ") and message.count("(4)") == 2 for message in resources)


@pytest.mark.long
def test_a_missing_application_is_a_failure(cluster: Cluster) -> None:
    code, out, err = run_doctor("--address", cluster.address, "--server", "nowhere")
    assert code == 2, out + err
    assert "no application 'nowhere'" in out.splitlines()[-2]
