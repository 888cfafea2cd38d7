"""One Ray of several nodes for all tests here: a head, one server node, two edge nodes, all on this machine.

Nodes are raylets of `ray.cluster_utils.Cluster`; their CPU counts are virtual, so that placement can be asserted on any
machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import serve
from ray.cluster_utils import Cluster

torch.set_num_threads(1)

STORE_BYTES = 100 * 1024 * 1024  # Ray's least is 75 MiB

#: Resources of the nodes beside the head, by a name for the tests.
NODES: dict[str, dict[str, Any]] = {
    "server": {"num_cpus": 4, "resources": {"server": 1}},
    "edge-1": {"num_cpus": 4, "resources": {"edge": 4}},
    "edge-2": {"num_cpus": 4, "resources": {"edge": 4}},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with this process connected to it as a driver in the namespace ``headtail-tests``."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    try:
        for node in NODES.values():
            cluster.add_node(object_store_memory=STORE_BYTES, **node)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, namespace="headtail-tests", log_to_driver=True)
        yield cluster
    finally:
        # This order: Serve's controller needs Ray, and a driver that outlives its raylets hangs or aborts.
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="session")
def node_ids(cluster: Cluster) -> dict[str, str]:
    """Ray's node ids by our names: ``head``, and the keys of NODES."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    servers = [n["NodeID"] for n in alive if "server" in n["Resources"]]
    edges = sorted(n["NodeID"] for n in alive if "edge" in n["Resources"])
    heads = [n["NodeID"] for n in alive if "node:__internal_head__" in n["Resources"]]
    assert (len(servers), len(edges), len(heads)) == (1, 2, 1), alive
    return {"head": heads[0], "server": servers[0], "edge-1": edges[0], "edge-2": edges[1]}


@pytest.fixture
def no_application(cluster: Cluster) -> Iterator[None]:
    """Whatever application a test starts is gone after it, and so are its replicas."""
    yield
    for name in list(serve.status().applications):
        serve.delete(name)
