"""A fleet's processes in Ray: made in their placement groups, called, and made again where they were.

What a run asks of them is the protocol `actors.fleet.processes.Processes`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.device.config import DeviceConfig
from actors.fleet.config import FleetConfig, GroupConfig
from actors.fleet.device_actor import DeviceActor, DeviceInfo
from actors.fleet.placement import MARK, demands_of, place, release
from actors.fleet.processes import Gone
from actors.network.serve_transport import DEVICE_ENV
from slicer.core.common.addresses import bearer_token
from slicer.core.common.error_text import named_line
from slicer.errors import HeadTailError

#: How much longer than its assignment says a device may take before it is given up.
GRACE_S = 30.0

#: How long Ray may take to put a bundle back on a host that returned, before the device goes there without it.
BUNDLE_S = 5.0


@dataclass
class _Place:
    """What it takes to make an actor again where it was.

    Attributes:
        host: its address, once the devices have started.
        back_s: since when that host is seen again, while the actor is missing.
    """

    bundle: int
    group: GroupConfig
    placed: PlacementGroup
    configs: list[DeviceConfig]
    host: str = ""
    back_s: float | None = None


class RayProcesses:
    """The actors of one fleet, by the name of the first device in each: its *home*.

    Args:
        fleet: what its file says.
        prefix: of the actors' and groups' names.

    Attributes:
        app: the application that new actors talk to.
        actors: handles, by home.
        infos: what each device said of itself last, by its name.
    """

    def __init__(self, fleet: FleetConfig, prefix: str, app: str) -> None:
        self.app = app
        self.actors: dict[str, Any] = {}
        self.infos: dict[str, DeviceInfo] = {}
        self._fleet = fleet
        self._prefix = prefix
        self._groups: list[PlacementGroup] = []
        self._places: dict[str, _Place] = {}

    def place(self) -> dict[str, list[DeviceConfig]]:
        """Make the actors, which begin to import; the devices in each, by home.

        Raises:
            PlacementError: they do not fit the cluster; nothing is left running.
        """
        fleet = self._fleet
        processes = [fleet.processes(group) for group in fleet.groups]
        self._groups = place(
            demands_of(fleet), name=self._prefix, resource=fleet.resource, timeout_s=fleet.place_timeout_s
        )
        for group, placed, mine in zip(fleet.groups, self._groups, processes, strict=True):
            for index, configs in enumerate(mine):
                spot = _Place(index, group, placed, configs)
                self._places[configs[0].name] = spot
                where = PlacementGroupSchedulingStrategy(placed, placement_group_bundle_index=index)
                self.actors[configs[0].name] = self._make(spot, where)
        return {home: spot.configs for home, spot in self._places.items()}

    def _make(self, spot: _Place, where: Any) -> Any:
        group, threads = spot.group, str(spot.group.torch_threads)
        marked = fleet_resource(spot.placed, self._fleet.resource)
        return (
            ray.remote(DeviceActor)
            .options(
                name=f"{self._prefix}:{spot.configs[0].name}",
                num_cpus=group.cpus,
                num_gpus=group.gpus,
                resources={self._fleet.resource: MARK} if marked else {},
                scheduling_strategy=where,
                runtime_env={
                    "env_vars": {**DEVICE_ENV, **_token(), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
                },
                max_concurrency=10_000,
            )
            .remote(spot.configs, self.app)
        )

    def call(self, home: str, method: str, *args: Any) -> Any:
        """Call a method there; returns at once."""
        return getattr(self.actors[home], method).remote(*args)

    def wait(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have an answer; returns when all have, or the time is over."""
        if not calls:
            time.sleep(timeout_s)  # nobody is there whose answer could end the wait
            return []
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s, fetch_local=False)
        return list(ready)

    def answer(self, call: Any) -> Any:
        """The answer of a call that has one. Raises Gone, or the HeadTailError that the device raised."""
        try:
            return ray.get(call, timeout=GRACE_S)
        except RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, HeadTailError) else Gone(reason(error)) from None
        except (RayError, TimeoutError) as error:
            raise Gone(reason(error)) from None

    def make_again(self, home: str) -> bool:
        """Make the process of a missing home, on the host where it was: in its bundle once Ray has put that back there,
        beside it if Ray has put it elsewhere. False: the host is not there (yet)."""
        spot = self._places[home]
        marked = fleet_resource(spot.placed, self._fleet.resource)
        nodes = [
            node["NodeID"]
            for node in living_nodes()
            if node["NodeManagerAddress"] == spot.host or not spot.host
            if not marked or node["Resources"].get(self._fleet.resource)
        ]
        if not nodes:
            spot.back_s = None
            return False
        if spot.back_s is None:
            spot.back_s = time.monotonic()
        bundles = ray.util.placement_group_table(spot.placed)["bundles_to_node_id"]
        there = bundles.get(spot.bundle) in nodes
        if not there and time.monotonic() - spot.back_s < BUNDLE_S:
            return False
        with contextlib.suppress(Exception):  # what is left of it: a process behind a link that was cut
            ray.kill(self.actors[home])
        where = (
            PlacementGroupSchedulingStrategy(spot.placed, placement_group_bundle_index=spot.bundle)
            if there
            else NodeAffinitySchedulingStrategy(nodes[0], soft=False)
        )
        try:
            self.actors[home] = self._make(spot, where)
        except ValueError:  # its name is not free yet
            return False
        spot.back_s = None
        return True

    def started(self, home: str, infos: list[DeviceInfo]) -> None:
        """What `start` or `connect` said there."""
        self._places[home].host = infos[0].node_ip
        self.infos.update((info.name, info) for info in infos)

    def host(self, home: str) -> str:
        """Address of its host; empty before `start`."""
        return self._places[home].host

    def stop(self) -> None:
        """End all actors and remove the placement groups. May be called twice, and after a failed start."""
        actors, self.actors = self.actors, {}
        calls = [actor.stop.remote() for actor in actors.values()]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=5.0)
        for actor in actors.values():
            ray.kill(actor)
        groups, self._groups = self._groups, []
        release(groups)


def living_nodes() -> list[dict[str, Any]]:
    """As `ray.nodes()` gives them."""
    return [node for node in ray.nodes() if node["Alive"]]


def _token() -> dict[str, str]:
    """The HTTP token of this process, for the devices."""
    token = bearer_token(os.environ.get("HEADTAIL_TOKEN", ""), "HEADTAIL_TOKEN")
    return {"HEADTAIL_TOKEN": token} if token else {}


def fleet_resource(placed: PlacementGroup, resource: str) -> bool:
    """Whether the group's bundles hold the edge nodes' mark."""
    return any(resource in bundle for bundle in placed.bundle_specs)


def reason(error: BaseException) -> str:
    """Why a call failed, in one line."""
    error = getattr(error, "cause", None) or error  # what was raised in the actor says more than Ray's wrapping
    return named_line(error)
