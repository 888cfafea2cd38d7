"""Where devices go: on nodes with the custom resource `edge`, by placement groups; never a hang.

Each group of the fleet becomes one placement group with a bundle per device: its CPU share and a mark of `edge`. Only
where the whole cluster is one machine do devices share it with the server, without `edge`. What can never fit is
refused before anything is created, with what is missing; what does not fit now is given up after a time-out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.fleet.config import FleetConfig
from slicer.errors import PlacementError

#: What a device takes of the custom resource: a mark, not a quantity; `edge: 1` is room for a hundred devices.
MARK = 0.01


@dataclass(frozen=True)
class Demand:
    """One group's devices: `count` bundles of `cpus` and `gpus`, spread by `strategy`.

    A bundle holds one process: a device, or many virtual ones. `devices`: how many in all; 0: as many as processes.
    """

    group: str
    count: int
    cpus: float
    gpus: float = 0.0
    strategy: str = "SPREAD"
    devices: int = 0

    def said(self, processes: int) -> str:
        """So many of the group's processes, in words."""
        if self.devices in (0, self.count):
            return f"{processes} of {self.count} devices"
        return f"{processes} of {self.count} processes, which hold {self.devices} devices,"

    def bundle(self, resource: str | None) -> dict[str, float]:
        """What one device takes; `resource` is the edge nodes' mark, None on a cluster of one machine."""
        bundle = {"CPU": self.cpus}
        if self.gpus:
            bundle["GPU"] = self.gpus
        if resource is not None:
            bundle[resource] = MARK
        return bundle


@dataclass(frozen=True)
class Beside:
    """A server's replica that shares the cluster with the devices: it runs on one of `nodes` (ids), or will."""

    what: str
    amounts: Mapping[str, float]
    nodes: tuple[str, ...]


def demands_of(fleet: FleetConfig) -> list[Demand]:
    """What the groups of a fleet take, in the order of the file."""
    return [
        Demand(group.name, len(fleet.processes(group)), group.cpus, group.gpus, group.placement, group.count)
        for group in fleet.groups
    ]


def check(
    nodes: Sequence[Mapping[str, Any]],
    demands: Sequence[Demand],
    resource: str = "edge",
    beside: Sequence[Beside] = (),
) -> str | None:
    """Whether all demands fit a cluster that is empty except for `beside`, and by what they are placed.

    Args:
        nodes: as `ray.nodes()` gives them; dead ones are left out.
        beside: replicas that go on while the devices do. One that fits nowhere is left to its own start, which says so.

    Returns:
        `resource`; None when the cluster is one machine that does not declare it.

    Raises:
        PlacementError: what is missing, and what to add.
    """
    by_id = {
        str(node.get("NodeID", index)): dict(node["Resources"]) for index, node in enumerate(nodes) if node["Alive"]
    }
    living = list(by_id.values())
    taken = [(one, _take(by_id, one)) for one in beside]
    edges = [node for node in living if node.get(resource, 0) > 0]
    devices = sum(demand.devices or demand.count for demand in demands)
    add = f"add a node with: ray start --address=HEAD:6379 --resources='{{\"{resource}\": 1}}'"
    if not edges and len(living) > 1:
        raise PlacementError(
            f"none of the {len(living)} nodes is an edge node (resource {resource!r}), but the fleet has {devices} "
            f"devices; {add}"
        )
    mark = resource if edges else None
    free = edges or living
    kept = [
        dict(node["Resources"]) for node in nodes if node["Alive"] and (not edges or node["Resources"].get(resource))
    ]
    kind = f"{resource} nodes" if edges else "machines"
    for demand in sorted(demands, key=lambda demand: (demand.cpus, demand.gpus), reverse=True):
        if demand.strategy == "STRICT_SPREAD" and demand.count > len(free):
            raise PlacementError(
                f"group {demand.group!r} wants {demand.count} devices on nodes of their own (STRICT_SPREAD): "
                f"{demand.count - len(free)} more {kind} are needed than the {len(free)} of this cluster; {add}; "
                "or use SPREAD"
            )
        bundle = demand.bundle(mark)
        placed = _fill(free, bundle, demand)
        if placed < demand.count:
            lacking = demand.count - placed
            nowhere = [name for name in bundle if all(node.get(name, 0) + 1e-6 < bundle[name] for node in free)]
            want = ", ".join(f"{name} {bundle[name] * lacking:g}" for name in nowhere or bundle)
            have = "; ".join(", ".join(f"{name} {max(node.get(name, 0), 0):g}" for name in bundle) for node in free)
            total = _sum(demand.bundle(mark) for demand in demands for _ in range(demand.count))
            servers = "".join(
                f", {one.what} {_amounts(one.amounts)}" for one, node in taken if any(node is mine for mine in free)
            )
            raise PlacementError(
                f"group {demand.group!r}: {demand.said(lacking)} do not fit {len(free)} {kind}; missing {want} (left "
                f"per node: {have}). The whole fleet asks for {_amounts(total)}{servers}, the {kind} have "
                f"{_amounts(_sum(kept), total)}. Lower the group's cpus {demand.cpus:g} or its count, "
                f"{'raise its per_actor, ' if demand.devices > demand.count else ''}or {add}"
            )
    return mark


def _take(by_id: Mapping[str, dict[str, float]], one: Beside) -> dict[str, float] | None:
    """Take a replica out of the first node of its own that has the room, and say which; None: none has."""
    for node in (by_id[name] for name in one.nodes if name in by_id):
        if all(node.get(name, 0.0) + 1e-6 >= amount for name, amount in one.amounts.items()):
            for name, amount in one.amounts.items():
                node[name] = node.get(name, 0.0) - amount
            return node
    return None


def _sum(many: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in many:
        for name, amount in one.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _amounts(resources: Mapping[str, float], of: Iterable[str] = ("CPU", "GPU")) -> str:
    return ", ".join(f"{name} {resources[name]:g}" for name in of if resources.get(name)) or "nothing"


def _fill(free: list[dict[str, float]], bundle: Mapping[str, float], demand: Demand) -> int:
    """Take as many bundles as fit out of `free`, one per node for STRICT_SPREAD; how many did."""
    placed = 0
    for node in free:
        most = 1 if demand.strategy == "STRICT_SPREAD" else demand.count
        # Ray counts in ten-thousandths, so a sum of floats may miss by less than that.
        fits = min(int((node.get(name, 0.0) + 1e-6) / amount) for name, amount in bundle.items())
        taken = min(fits, most, demand.count - placed)
        for name, amount in bundle.items():
            node[name] = node.get(name, 0.0) - taken * amount
        placed += taken
    return placed


def place(demands: Sequence[Demand], *, name: str, resource: str = "edge", timeout_s: float) -> list[PlacementGroup]:
    """A ready placement group per demand, in their order; it lives as long as the driver, or until `release`.

    Raises:
        PlacementError: they do not fit, or were not ready in time; nothing is left behind.
    """
    mark = check(ray.nodes(), demands, resource)
    groups: list[PlacementGroup] = []
    try:
        for demand in demands:
            bundles = [demand.bundle(mark)] * demand.count
            groups.append(placement_group(bundles, strategy=demand.strategy, name=f"{name}:{demand.group}"))
        for demand, group in zip(demands, groups, strict=True):
            if not group.wait(timeout_s):
                free = ray.available_resources()
                shown = ", ".join(f"{key} {free.get(key, 0):g}" for key in demand.bundle(mark))
                raise PlacementError(
                    f"group {demand.group!r}: {demand.count} devices of {demand.bundle(mark)} were not placed within "
                    f"{timeout_s:g} s; free in the cluster now: {shown}; end what uses it, add nodes, or lower cpus"
                )
    except BaseException:
        release(groups)
        raise
    return groups


def release(groups: Sequence[PlacementGroup]) -> None:
    """Remove the placement groups; their actors end with them."""
    for group in groups:
        remove_placement_group(group)
