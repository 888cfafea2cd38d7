"""The application on a cluster of four nodes: it lands on the server node, and nothing hangs silently."""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve import context
from ray.serve.schema import ServeDeploySchema

from deployments import app
from slicer.core.codecs import activations
from slicer.core.protocol.messages import Reply, Request
from slicer.errors import PlacementError, ServerError


@pytest.fixture
def config(tmp_path: Path, no_application: None) -> Iterator[dict[str, Any]]:
    yield {
        "models": [{"name": "digits_vit", "strategy": "per_slice"}],
        "torch_threads": 1,
        "shard_dir": str(tmp_path),
        "start_timeout_s": 120.0,
    }


def handle(name: str = "headtail") -> Any:
    return serve.get_app_handle(name)


def test_the_server_runs_on_the_node_that_is_marked_for_it(
    cluster: Cluster, node_ids: dict[str, str], config: dict[str, Any]
) -> None:
    app.run(config)
    status = handle().status.remote().result(timeout_s=30)
    assert status["node"] == node_ids["server"]
    assert status["accelerator"] == "cpu"
    assert status["models"]["digits_vit"]["strategy"] == "per_slice"
    app.stop()
    assert "headtail" not in serve.status().applications
    app.stop()  # nothing there: nothing happens


@pytest.mark.parametrize("fronts", [0, 1])
def test_two_replicas_share_the_server_node_and_serve_the_same_manifest(
    cluster: Cluster, node_ids: dict[str, str], config: dict[str, Any], fronts: int
) -> None:
    app.run({**config, "num_replicas": 2, "ingress": {"replicas": fronts}})
    seen: dict[str, Any] = {}
    deadline_s = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < deadline_s:  # the router chooses; ask until both have answered
        status = handle().status.remote().result(timeout_s=30)
        if fronts:  # it tells of both once it has found both
            seen = dict.fromkeys(status["replica"].split("+"), status)
        else:
            seen[status["replica"]] = status
    assert {status["node"] for status in seen.values()} == {node_ids["server"]}
    assert len({status["models"]["digits_vit"]["manifest"] for status in seen.values()}) == 1
    assert len(seen) == 2


def test_a_gpu_that_no_node_has_is_named_after_the_start_time_out(cluster: Cluster, config: dict[str, Any]) -> None:
    begun_s = time.monotonic()
    with pytest.raises(PlacementError) as caught:
        app.run({**config, "accelerator": "cuda", "start_timeout_s": 3.0})
    assert time.monotonic() - begun_s < 30
    assert "GPU" in str(caught.value) and "add a GPU node, or set accelerator to auto or cpu" in str(caught.value)
    assert "headtail" not in serve.status().applications


def test_a_model_that_cannot_be_built_says_why_instead_of_retrying_for_ever(
    cluster: Cluster, config: dict[str, Any]
) -> None:
    with pytest.raises(ServerError, match="vit_tinny"):
        app.run({**config, "models": [{"name": "vit_tinny_patch16_224"}], "start_timeout_s": 100.0})


def test_a_killed_replica_comes_back_with_the_same_manifest(cluster: Cluster, config: dict[str, Any]) -> None:
    app.run(config)
    before = handle().status.remote().result(timeout_s=30)
    actor = next(a for a in ray.util.list_named_actors(all_namespaces=True) if before["replica"] in a["name"])
    ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]), no_restart=True)

    async def back() -> Any:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            try:
                status = await handle().status.remote()
            except Exception:
                status = None
            if status is not None and status["replica"] != before["replica"]:
                return status
            await asyncio.sleep(0.2)
        raise AssertionError("no new replica within 60 s")

    after = asyncio.run(back())
    assert after["models"]["digits_vit"]["manifest"] == before["models"]["digits_vit"]["manifest"]


def test_the_shipped_serve_config_deploys_as_serve_deploy_does_it(
    cluster: Cluster, node_ids: dict[str, str], no_application: None
) -> None:
    data = yaml.safe_load((Path(__file__).parents[2] / "serve.yaml").read_text())
    data["applications"][0]["args"]["shard_dir"] = str(Path(tempfile.mkdtemp()))
    serve.start(proxy_location="Disabled")
    # What Serve's REST endpoint does with the file that `serve deploy` sends; this cluster has no dashboard.
    context._get_global_client().deploy_apps(ServeDeploySchema.model_validate(data), _blocking=True)
    status = handle().status.remote().result(timeout_s=60)
    assert status["node"] == node_ids["server"]
    assert status["models"]["digits_vit"]["strategy"] == "per_tail_shared"


def test_prometheus_finds_the_servers_metrics_on_its_node(cluster: Cluster, config: dict[str, Any]) -> None:
    app.run(config)
    served = handle().describe.remote("digits_vit").result(timeout_s=30)
    payload = activations.encode("fp32", np.zeros((3, 32, 32), np.float32))
    request = Request("r", "digits_vit", served.manifest, 0, "fp32", (3, 32, 32), payload, top_k=1)
    answers = [handle().infer_parcel.remote([request]).result(timeout_s=30) for _ in range(3)]
    assert all(isinstance(answer, Reply) for [answer] in answers)
    port = next(node["MetricsExportPort"] for node in ray.nodes() if "server" in node["Resources"])
    deadline_s = time.monotonic() + 60
    # Ray goes on exporting what ended replicas counted, so it is this one's line that is looked for.
    status = handle().status.remote().result(timeout_s=30)
    replica = status.get("front", status)["replica"]  # who answers counts
    lines: list[str] = []
    while not lines and time.monotonic() < deadline_s:  # Ray exports every few seconds
        time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            text = page.read().decode()
        lines = [line for line in text.splitlines() if "headtail_requests_total{" in line and replica in line]
    (line,) = lines
    assert 'model="digits_vit"' in line and 'entry="0"' in line and 'outcome="answered"' in line
    assert float(line.rsplit(" ", 1)[1]) == 3.0
    assert "headtail_queue_ms_bucket" in text and "headtail_rows_per_step_bucket" in text
