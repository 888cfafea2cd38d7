"""How many processes speak to clients, and on which nodes: hand-worked clusters."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.config import ServerConfig
from deployments.placing.fronts import Fronts, decide_fronts
from deployments.placing.placement import MARK, Node, decide


def node(name: str, cpus: float = 16.0, **resources: float) -> Node:
    return Node(name, f"10.0.0.{name}", {"CPU": cpus, **resources})


def fronts(nodes: list[Node], **config: Any) -> Fronts:
    parsed = ServerConfig(**config)
    return decide_fronts(parsed, decide(parsed, nodes), nodes)


@pytest.mark.parametrize(
    ("processors", "count"),
    [(1, 0), (2, 0), (3, 1), (4, 1), (7, 1), (8, 2), (16, 4), (31, 7), (32, 8), (64, 8), (256, 8)],
)
def test_auto_is_one_per_four_processors_at_most_eight_and_none_on_two(processors: int, count: int) -> None:
    decided = fronts([node("1", processors)])
    assert (decided.per_node, decided.count) == (count, count)


def test_without_fronts_the_core_is_placed_as_before_and_nothing_else_is() -> None:
    nodes = [node("1", 2.0), node("3", 2.0, edge=4)]
    config = ServerConfig()
    placed = decide(config, nodes)
    assert decide_fronts(config, placed, nodes) == Fronts(0, 0, placed.actor_options, {})


def test_a_number_is_taken_as_it_is_given_also_on_a_small_node_and_zero_is_none() -> None:
    assert fronts([node("1", 2.0)], ingress={"replicas": 3}).per_node == 3
    assert fronts([node("1", 64.0)], ingress={"replicas": 20}).per_node == 20
    assert fronts([node("1", 64.0)], ingress={"replicas": 0}).per_node == 0


def test_serve_batch_answers_in_the_process_that_speaks_to_clients() -> None:
    models = [{"name": "digits_vit", "strategy": "serve_batch"}]
    assert fronts([node("1", 64.0)], models=models).per_node == 0


def test_an_own_strategy_runs_in_the_engine() -> None:
    models = [{"name": "digits_vit", "strategy": "package.module:Own"}]
    assert fronts([node("1", 64.0)], models=models).per_node == 8


def test_fronts_ask_for_the_nodes_of_the_cores_and_for_little_else() -> None:
    nodes = [node("1"), node("2", GPU=1, server=1)]
    decided = fronts(nodes, num_replicas=1)
    assert decided.core_options == {"num_cpus": 1.0, "num_gpus": 1.0, "resources": {"server": MARK}}
    there = {"ray.io/node-id": "in(2)"}
    assert decided.front_options == {"num_cpus": 0.01, "resources": {"server": MARK}, "label_selector": there}
    assert fronts(nodes, ingress={"cpus": 0.5}).front_options["num_cpus"] == 0.5


def test_with_more_nodes_than_cores_both_are_told_which_ones_to_take() -> None:
    nodes = [node("3", GPU=1, server=1), node("1", GPU=1, server=1), node("2", GPU=1, server=1), node("0")]
    decided = fronts(nodes, num_replicas=2)
    pinned = {"ray.io/node-id": "in(1,2)"}
    assert decided.core_options["label_selector"] == decided.front_options["label_selector"] == pinned
    assert decided.core_options["resources"] == {"server": MARK}
    assert (decided.per_node, decided.count) == (4, 8)


def test_a_node_with_room_for_a_front_and_none_for_a_core_gets_none() -> None:
    nodes = [node("1", GPU=1, server=1), node("2", GPU=1, server=1), node("3", server=1)]
    decided = fronts(nodes, num_replicas=2)
    assert "label_selector" not in decided.core_options, "no other node could hold it"
    assert decided.front_options["label_selector"] == {"ray.io/node-id": "in(1,2)"}
    assert decided.count == 8


def test_with_more_cores_than_nodes_there_are_fronts_for_each_node() -> None:
    decided = fronts([node("1", GPU=2, server=1)], num_replicas=2)
    assert (decided.per_node, decided.count) == (4, 4)


def test_a_pin_names_only_nodes_that_placement_permits() -> None:
    nodes = [node("1", GPU=1, edge=4), node("2"), node("3"), node("4", edge=1)]
    decided = fronts(nodes, num_replicas=1)
    assert decided.core_options["label_selector"] == {"ray.io/node-id": "in(2)"}


def test_one_nodes_name_may_be_part_of_anothers() -> None:
    """Edge nodes are no homes, whatever they are called."""
    nodes = [node("12", edge=1), node("1", 64.0, edge=1), node("123", 8.0), node("2", 2.0, edge=1)]
    decided = fronts(nodes)
    assert (decided.per_node, decided.count) == (2, 2)


def test_the_smallest_of_the_possible_nodes_decides() -> None:
    nodes = [node("1", 64.0, GPU=1, server=1), node("2", 8.0, GPU=1, server=1), node("3", 2.0)]
    assert fronts(nodes, num_replicas=2).per_node == 2


def test_without_any_node_auto_is_none_and_a_number_is_per_core() -> None:
    assert fronts([]).per_node == 0
    decided = fronts([], num_replicas=3, ingress={"replicas": 2})
    assert (decided.per_node, decided.count) == (2, 6)
