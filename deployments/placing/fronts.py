"""How many processes speak to clients, and where: on the nodes of the cores, since they share memory with them.

Serve cannot place one deployment beside another, so both ask for the same nodes. Where more nodes could hold a core
than there are cores, both are told which ones to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.config import ServerConfig
from deployments.placing.placement import Node, Placement
from deployments.scheduling.registry import SHIPPED

#: A front per so many processors, and at most so many on a node; none on a node with up to `FEW`.
PROCESSORS, MOST, FEW = 4, 8, 2


@dataclass(frozen=True)
class Fronts:
    """The decision.

    Attributes:
        per_node: of each node; 0: the core speaks to clients itself.
        count: of all nodes.
        core_options, front_options: Serve's ray_actor_options.
    """

    per_node: int
    count: int
    core_options: dict[str, Any]
    front_options: dict[str, Any]


def decide_fronts(config: ServerConfig, placement: Placement, nodes: Sequence[Node]) -> Fronts:
    """Beside cores that are placed so.

    Args:
        nodes: that live.
    """
    possible = [node for node in nodes if _could_hold(node, placement.actor_options)]
    per_node = _per_node(config, possible)
    core = dict(placement.actor_options)
    if not per_node:
        return Fronts(0, 0, core, {})
    homes = min(config.num_replicas, len(possible)) if possible else config.num_replicas
    chosen = {"ray.io/node-id": "in(" + ",".join(sorted(node.node_id for node in possible)[:homes]) + ")"}
    if len(possible) > config.num_replicas:
        core["label_selector"] = chosen
    front = {key: value for key, value in core.items() if key in ("resources", "label_selector")}
    if possible:  # a node may have room for a front, and none for a core
        front["label_selector"] = chosen
    return Fronts(per_node, per_node * homes, core, {**front, "num_cpus": config.ingress.cpus})


def _per_node(config: ServerConfig, possible: Sequence[Node]) -> int:
    strategy = SHIPPED.get(config.models[0].strategy)
    if strategy is not None and not strategy.in_engine:
        return 0
    if config.ingress.replicas != "auto":
        return config.ingress.replicas
    processors = min((node.resources.get("CPU", 0.0) for node in possible), default=0.0)
    return 0 if processors <= FEW else int(max(1, min(MOST, processors // PROCESSORS)))


def _could_hold(node: Node, options: dict[str, Any]) -> bool:
    selected = options.get("label_selector", {}).get("ray.io/node-id", "")  # in(ID,ID,...)
    if selected and node.node_id not in selected.removeprefix("in(").removesuffix(")").split(","):
        return False
    demand = {"CPU": options.get("num_cpus", 0.0), "GPU": options.get("num_gpus", 0.0), **options.get("resources", {})}
    return all(node.has(name, amount) for name, amount in demand.items() if amount)
