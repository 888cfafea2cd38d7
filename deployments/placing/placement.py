"""Where the server goes: on GPU nodes marked `server`, never on an `edge` node unless there is no other.

`server` and `edge` are custom Ray resources. `server` keeps a Jetson, which advertises a GPU, from getting the server.
The decision is a pure function of the living nodes, so it can be read and tested without a cluster; what Ray gets is
actor options: resources, and a label selector that names the permitted nodes where no resource says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.config import ServerConfig

#: The share of the custom resource that a replica takes: a mark, not a quantity.
MARK = 0.001


@dataclass(frozen=True)
class Node:
    """What counts of one living node: total resources, as `ray.nodes()` tells them."""

    node_id: str
    address: str
    resources: Mapping[str, float]

    def has(self, resource: str, amount: float = MARK) -> bool:
        """Whether the node declares at least `amount` of `resource`."""
        return self.resources.get(resource, 0.0) >= amount


@dataclass(frozen=True)
class Placement:
    """The decision.

    Attributes:
        device: ``cuda`` or ``cpu``: what the replica should use.
        actor_options: `num_cpus`, `num_gpus`, `resources`, `label_selector` for Serve's ray_actor_options.
        note: what a person should know about it; empty when there is nothing to say.
    """

    device: str
    actor_options: dict[str, Any]
    note: str = ""


def living(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """`ray.nodes()` -> living nodes."""
    return [Node(n["NodeID"], n["NodeManagerAddress"], dict(n["Resources"])) for n in nodes if n["Alive"]]


def decide(config: ServerConfig, nodes: Sequence[Node]) -> Placement:
    """Choose device and actor options for the server.

    `cuda` always asks for `server` and a GPU, so that an autoscaler can add such a node; `auto` and `cpu` ask only for
    what lives. Without any node (an application built away from a cluster) the demand is the general one.
    """
    servers = [node for node in nodes if node.has("server")]
    others = [node for node in nodes if not node.has("edge")]
    device = config.accelerator
    if device == "auto":
        # A node that is marked `server` is meant for it even without a GPU; else any GPU node that is no edge.
        device = "cuda" if any(node.has("GPU", config.gpus) for node in servers or others) else "cpu"

    options: dict[str, Any] = {"num_cpus": config.cpus}
    if device == "cuda":
        options["num_gpus"] = config.gpus
        others = [node for node in others if node.has("GPU", config.gpus)]
    if servers or (device == "cuda" and not others):
        options["resources"] = {"server": MARK}
        return Placement(device, options)
    if nodes and not others:
        note = "every living node is an edge node, so the server runs on one of them; mark a better one with `server`"
        return Placement(device, options, note)
    if len(others) < len(nodes):
        options["label_selector"] = {"ray.io/node-id": "in(" + ",".join(node.node_id for node in others) + ")"}
    return Placement(device, options)


def missing(config: ServerConfig, placement: Placement, nodes: Sequence[Node]) -> str:
    """Why a replica cannot be placed, for the message of a start that timed out; names demand and supply."""
    options = placement.actor_options
    demand: dict[str, float] = {"CPU": options.get("num_cpus", 0.0), "GPU": options.get("num_gpus", 0.0)}
    demand.update(options.get("resources", {}))
    lines = [f"the server needs {config.num_replicas} x " + _amounts(demand)]
    for node in nodes:
        lacks = {name: amount for name, amount in demand.items() if amount and not node.has(name, amount)}
        verdict = "lacks " + ", ".join(lacks) if lacks else "would fit if it were free"
        lines.append(f"  node {node.address} has {_amounts(node.resources)}: {verdict}")
    absent = [name for name, amount in demand.items() if amount and not any(node.has(name, amount) for node in nodes)]
    if absent:
        remedy = {
            "server": "start the GPU node with --resources='{\"server\": 1}'",
            "GPU": "add a GPU node, or set accelerator to auto or cpu",
            "CPU": "lower cpus in the configuration, or add CPUs",
        }
        lines.append("to do: " + "; ".join(remedy.get(name, f"add a node with {name}") for name in absent))
    return "\n".join(lines)


def _amounts(resources: Mapping[str, float]) -> str:
    shown = {name: resources[name] for name in ("CPU", "GPU", "server", "edge") if resources.get(name)}
    return ", ".join(f"{name} {amount:g}" for name, amount in shown.items()) or "nothing"
