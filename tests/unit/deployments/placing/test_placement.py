"""Where the server goes, decided from the living nodes: hand-worked clusters."""

from __future__ import annotations

from typing import Any

from deployments.config import ServerConfig
from deployments.placing.placement import MARK, Node, decide, living, missing


def node(name: str, **resources: float) -> Node:
    return Node(name, f"10.0.0.{name}", {"CPU": 4.0, **resources})


def test_one_laptop_gets_a_cpu_server_without_any_custom_resource() -> None:
    placement = decide(ServerConfig(), [node("1")])
    assert placement.device == "cpu"
    assert placement.actor_options == {"num_cpus": 1.0}
    assert placement.note == ""


def test_auto_takes_the_gpu_of_the_server_node_not_that_of_a_jetson() -> None:
    placement = decide(ServerConfig(), [node("1"), node("2", GPU=1, server=1), node("3", GPU=1, edge=4)])
    assert placement.device == "cuda"
    assert placement.actor_options == {"num_cpus": 1.0, "num_gpus": 1.0, "resources": {"server": MARK}}


def test_auto_ignores_a_gpu_that_only_an_edge_node_has() -> None:
    placement = decide(ServerConfig(), [node("1"), node("3", GPU=1, edge=4)])
    assert placement.device == "cpu"
    assert placement.actor_options["label_selector"] == {"ray.io/node-id": "in(1)"}


def test_a_server_node_without_gpu_still_gets_the_server() -> None:
    placement = decide(ServerConfig(), [node("1"), node("2", server=1), node("3", edge=4)])
    assert placement.device == "cpu"
    assert placement.actor_options["resources"] == {"server": MARK}


def test_cuda_asks_for_a_gpu_that_no_living_node_has_so_that_an_autoscaler_adds_one() -> None:
    placement = decide(ServerConfig(accelerator="cuda"), [node("1"), node("3", edge=4, GPU=1)])
    assert placement.actor_options == {"num_cpus": 1.0, "num_gpus": 1.0, "resources": {"server": MARK}}


def test_cuda_on_an_unmarked_gpu_node_is_pinned_to_it_and_off_the_edge() -> None:
    placement = decide(ServerConfig(accelerator="cuda"), [node("1", GPU=1), node("2"), node("3", edge=4, GPU=1)])
    assert placement.actor_options["num_gpus"] == 1.0
    assert placement.actor_options["label_selector"] == {"ray.io/node-id": "in(1)"}


def test_an_edge_node_gets_the_server_only_when_there_is_no_other_and_that_is_said() -> None:
    placement = decide(ServerConfig(), [node("3", edge=4)])
    assert placement.device == "cpu"
    assert "mark a better one" in placement.note


def test_without_any_node_the_demand_is_general() -> None:
    assert decide(ServerConfig(), []).actor_options == {"num_cpus": 1.0}


def test_a_share_of_a_gpu_is_asked_for_and_found() -> None:
    placement = decide(ServerConfig(gpus=0.25), [node("2", GPU=0.5, server=1)])
    assert placement.device == "cuda"
    assert placement.actor_options["num_gpus"] == 0.25


def test_what_is_missing_is_named_with_the_remedy() -> None:
    config = ServerConfig(accelerator="cuda")
    nodes = [node("1")]
    text = missing(config, decide(config, nodes), nodes)
    assert "needs 1 x CPU 1, GPU 1, server 0.001" in text
    assert "node 10.0.0.1 has CPU 4: lacks GPU, server" in text
    assert "add a GPU node, or set accelerator to auto or cpu" in text


def test_a_busy_cluster_is_told_apart_from_a_small_one() -> None:
    config = ServerConfig()
    nodes = [node("1")]
    assert "would fit if it were free" in missing(config, decide(config, nodes), nodes)


def test_dead_nodes_do_not_count() -> None:
    raw: list[dict[str, Any]] = [
        {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1.0}, "Alive": True},
        {"NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Resources": {}, "Alive": False},
    ]
    assert [n.node_id for n in living(raw)] == ["a"]
