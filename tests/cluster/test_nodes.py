"""The cluster that the other tests share is what they think it is."""

from __future__ import annotations

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def test_four_nodes_with_their_resources(cluster: Cluster) -> None:
    assert len(cluster.list_all_nodes()) == 4
    total = ray.cluster_resources()
    assert total["server"] == 1
    assert total["edge"] == 8
    assert total["CPU"] == 16


def test_every_node_runs_work_and_sees_the_packages(node_ids: dict[str, str]) -> None:
    @ray.remote(num_cpus=0)
    def where() -> tuple[str, str]:
        import slicer.core.protocol.messages

        return ray.get_runtime_context().get_node_id(), slicer.core.protocol.messages.__name__

    seen = ray.get(
        [
            where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote()
            for node_id in node_ids.values()
        ],
        timeout=120,
    )
    assert seen == [(node_id, "slicer.core.protocol.messages") for node_id in node_ids.values()]
