"""A fleet that lives: its devices placed and started, given plans, and taken down again.

Blocking, for a driver's main thread; one fleet at a time uses one `run` name. Use it as a context manager: whatever
happens inside, actors and placement groups are gone afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.actor import DeviceActor, DeviceInfo
from actors.device import TopK
from actors.fleet_config import DeviceConfig, FleetConfig, GroupConfig, load_fleet, parse_fleet
from actors.fleet_run import Absence, FleetRun, Gone
from actors.placement import MARK, Demand, place, release
from actors.plan import Plan
from actors.records import Record
from actors.transport import DEVICE_ENV
from slicer.errors import ConfigError, HeadTailError, PlacementError, ServerError

__all__ = ["Fleet", "FleetConfig", "load_fleet", "parse_fleet"]

logger = logging.getLogger(__name__)

#: How much longer than its plan says a device may take before it is given up.
GRACE_S = 30.0


#: How long Ray may take to put a bundle back on a host that returned, before the device goes there without it.
BUNDLE_S = 5.0


class _Place(NamedTuple):
    """What it takes to make an actor again where it was; `host` is known after `start`."""

    host: str
    bundle: int
    group: GroupConfig
    placed: PlacementGroup
    configs: list[DeviceConfig]


class Fleet:
    """The devices of one fleet file, against one application.

    Args:
        config: the fleet.
        app: name of the Serve application the devices talk to.
        run: part of the actors' names, `headtail:<run>:<device>`; unique among fleets that live at once.
        say: told in one line when a device is missing in a run, and when it is back.

    Attributes:
        devices: what was started, in the order of the file; filled by `start`.
        absences: when devices were missing during a run, and until when.
        failures: one line per absence that lasted to the end of its run.
    """

    def __init__(self, config: FleetConfig, *, app: str, run: str, say: Callable[[str], None] = logger.warning) -> None:
        self.devices: list[DeviceInfo] = []
        self.absences: list[Absence] = []
        self.failures: list[str] = []
        self._say = say
        self._fleet = config
        self._app = app
        self._run_name = run
        self._groups: list[PlacementGroup] = []
        self._configs: dict[str, DeviceConfig] = {}
        self._actors: dict[str, Any] = {}  # by the name of the (first) device in them
        self._home: dict[str, str] = {}  # device -> its actor's name in _actors
        self._place: dict[str, _Place] = {}  # where each actor is, to make it again there
        self._missing: dict[str, str] = {}  # actors that are, and why
        self._back_s: dict[str, float] = {}  # since when the host of a missing one is seen again

    def __enter__(self) -> Fleet:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> list[DeviceInfo]:
        """Place all devices unless `place` did, load their heads, and say what they are.

        Raises:
            PlacementError: they do not fit the cluster, or could not be started in time.
            HeadTailError: a device refused; the message begins with its name. Nothing is left running.
        """
        try:
            if not self._actors:
                self.place()
            self.devices = self._all("start", self._fleet.start_timeout_s)
        except BaseException:
            self.stop()
            raise
        return self.devices

    def connect(self, app: str) -> list[DeviceInfo]:
        """Turn all devices, started before, to another application; they stay the processes that they are.

        Raises:
            HeadTailError: a device refused; the message begins with its name. The fleet still runs.
        """
        self._app = app
        self.devices = self._all("connect", self._fleet.start_timeout_s, app)
        return self.devices

    def _all(self, method: str, timeout_s: float, *args: Any) -> list[DeviceInfo]:
        found = self._each(method, timeout_s, *args)
        for home, infos in found.items():
            self._place[home] = self._place[home]._replace(host=infos[0].node_ip)
        known = {info.name: info for infos in found.values() for info in infos}
        known = {info.name: info for info in self.devices} | known
        return [known[name] for name in self._configs]

    def place(self) -> None:
        """Make the actors, which begin to import; needs no server yet, so it may go before the server's own start.

        Raises:
            PlacementError: they do not fit the cluster; nothing is left running.
        """
        fleet, prefix = self._fleet, f"headtail:{self._run_name}"
        processes = [fleet.processes(group) for group in fleet.groups]
        demands = [
            Demand(g.name, len(mine), g.cpus, g.gpus, g.placement)
            for g, mine in zip(fleet.groups, processes, strict=True)
        ]
        self._groups = place(demands, name=prefix, resource=fleet.resource, timeout_s=fleet.place_timeout_s)
        for group, placed, mine in zip(fleet.groups, self._groups, processes, strict=True):
            for index, configs in enumerate(mine):
                first = configs[0].name
                self._configs.update((config.name, config) for config in configs)
                self._home.update((config.name, first) for config in configs)
                self._place[first] = _Place("", index, group, placed, configs)
                where = PlacementGroupSchedulingStrategy(placed, placement_group_bundle_index=index)
                self._actors[first] = self._make(group, placed, where, configs)

    def _make(self, group: GroupConfig, placed: PlacementGroup, where: Any, configs: list[DeviceConfig]) -> Any:
        threads = str(group.torch_threads)
        marked = fleet_resource(placed, self._fleet.resource)
        return (
            ray.remote(DeviceActor)
            .options(
                name=f"headtail:{self._run_name}:{configs[0].name}",
                num_cpus=group.cpus,
                num_gpus=group.gpus,
                resources={self._fleet.resource: MARK} if marked else {},
                scheduling_strategy=where,
                runtime_env={
                    "env_vars": {**DEVICE_ENV, **_token(), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
                },
                max_concurrency=10_000,
            )
            .remote(configs, self._app)
        )

    def _each(self, method: str, timeout_s: float, *args: Any) -> dict[str, Any]:
        """Call every device but those that are missing; the first error is raised with the device's name."""
        homes = [home for home in self._actors if home not in self._missing]
        calls = {home: self.call(home, method, *args) for home in homes}
        until_s = time.monotonic() + timeout_s
        return {name: self._get(name, call, method, until_s - time.monotonic()) for name, call in calls.items()}

    def _get(self, name: str, call: Any, method: str, timeout_s: float) -> Any:
        try:
            return ray.get(call, timeout=max(timeout_s, 0.1))
        except GetTimeoutError:
            raise PlacementError(
                f"device {name}: {method} did not end in time; look at actor headtail:{self._run_name}:{name} in the "
                "dashboard, or raise start_timeout_s"
            ) from None
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, HeadTailError):
                raise type(cause)(f"device {name}: {cause}") from None
            raise
        except RayActorError as error:
            raise ServerError(f"device {name} died in {method}: {_reason(error)}") from error

    def classify(self, device: str, image: str, top_k: int = 5) -> tuple[TopK, Record]:
        """One image on one device, now: (class, logit) pairs and the record with its timings."""
        self._known(device)
        answer = self._actors[self._home[device]].classify.remote(device, image, top_k)
        result: tuple[TopK, Record] = self._get(device, answer, "classify", self._fleet.retry.budget_s + GRACE_S)
        return result

    def run(
        self,
        plans: Mapping[str, Plan],
        *,
        start_in_s: float = 0.5,
        on_progress: Callable[[Counter[str]], None] | None = None,
        every_s: float = 0.5,
    ) -> dict[str, list[Record]]:
        """One measured run: all warm up, then all start together, each on its own clock.

        Args:
            plans: by device name; devices without a plan rest.
            start_in_s: from the call that starts them to the start; more than that call takes to reach every node.
            on_progress: called about every `every_s` with the number of requests by outcome so far.

        Returns:
            Records by device. The ledger closes: what a device was to ask while it was missing is lost. It comes back
            when its host does (`actors.fleet_run`); one that does not has a line in `failures`.
        """
        for name in plans:
            self._known(name)
        homes: dict[str, dict[str, Plan]] = {}
        for name, plan in plans.items():
            homes.setdefault(self._home[name], {})[name] = plan
        most = max((sum(len(plan.warmup) for plan in mine.values()) for mine in homes.values()), default=0)
        run = FleetRun(
            self, homes, self._configs, missing=self._missing, say=self._say, keep=len(self._living_nodes()) > 1
        )
        records = run.go(
            warm_s=GRACE_S + most * self._fleet.retry.budget_s,
            start_in_s=start_in_s,
            length_s=GRACE_S + max((_length_s(plan, self._fleet) for plan in plans.values()), default=0.0),
            every_s=every_s,
            tick=lambda: None if on_progress is None else on_progress(self.progress()),
        )
        self._missing = run.still_missing
        self.absences += run.absences
        self.failures += [str(absence) for absence in run.absences if absence.to_s is None]
        return {name: records[name] for name in plans}

    # --- what FleetRun asks of the processes

    def call(self, home: str, method: str, *args: Any) -> Any:
        """Call a method there; returns at once."""
        return getattr(self._actors[home], method).remote(*args)

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
            raise cause if isinstance(cause, HeadTailError) else Gone(_reason(error)) from None
        except (RayError, TimeoutError) as error:
            raise Gone(_reason(error)) from None

    def make_again(self, home: str) -> bool:
        """Make the process of a missing home, on the host where it was: in its bundle once Ray has put that back there,
        beside it if Ray has put it elsewhere. False: the host is not there (yet)."""
        host, index, group, placed, configs = self._place[home]
        nodes = [n["NodeID"] for n in self._living_nodes() if n["NodeManagerAddress"] == host or not host]
        if not nodes:
            self._back_s.pop(home, None)
            return False
        since_s = time.monotonic() - self._back_s.setdefault(home, time.monotonic())
        bundles = ray.util.placement_group_table(placed)["bundles_to_node_id"]
        there = bundles.get(index) in nodes
        if not there and since_s < BUNDLE_S:
            return False
        with contextlib.suppress(Exception):  # what is left of it: a process behind a link that was cut
            ray.kill(self._actors[home])
        where = (
            PlacementGroupSchedulingStrategy(placed, placement_group_bundle_index=index)
            if there
            else NodeAffinitySchedulingStrategy(nodes[0], soft=False)
        )
        try:
            self._actors[home] = self._make(group, placed, where, configs)
        except ValueError:  # its name is not free yet
            return False
        return True

    def started(self, home: str, infos: list[DeviceInfo]) -> None:
        """What `start` said there."""
        new = {info.name: info for info in infos}
        self.devices = [new.get(info.name, info) for info in self.devices]

    def host(self, home: str) -> str:
        """Address of its host; empty before `start`."""
        return self._place[home].host

    def _living_nodes(self) -> list[dict[str, Any]]:
        return [node for node in ray.nodes() if node["Alive"]]

    def progress(self) -> Counter[str]:
        """Requests of the current run by outcome, all devices together; those that answer within a second."""
        total: Counter[str] = Counter()
        calls = [actor.progress.remote() for actor in self._actors.values()]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=1.0) if calls else ([], [])
        for call in ready:
            with contextlib.suppress(RayError):
                total.update(ray.get(call))
        return total

    def stop(self) -> None:
        """End all actors and remove the placement groups. May be called twice, and after a failed start."""
        actors, self._actors, self._home = self._actors, {}, {}
        calls = [actor.stop.remote() for actor in actors.values()]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=5.0)
        for actor in actors.values():
            ray.kill(actor)
        groups, self._groups = self._groups, []
        release(groups)

    def _known(self, device: str) -> None:
        if device not in self._home:
            names = ", ".join(self._home) or "none: the fleet is not started"
            raise ConfigError(f"no device {device!r} in this fleet; there are {names}")


def _token() -> dict[str, str]:
    """The HTTP token of this process, for the devices."""
    token = os.environ.get("HEADTAIL_TOKEN", "")
    return {"HEADTAIL_TOKEN": token} if token else {}


def fleet_resource(placed: PlacementGroup, resource: str) -> bool:
    """Whether the group's bundles hold the edge nodes' mark."""
    return any(resource in bundle for bundle in placed.bundle_specs)


def _length_s(plan: Plan, fleet: FleetConfig) -> float:
    """How long a run of this plan can take at most, seconds; a closed loop by requests: as long as retries allow."""
    if plan.arrivals:
        return plan.arrivals[-1].at_s + plan.drain_s
    if plan.closed is None:
        return 0.0
    if plan.closed.duration_s is not None:
        return plan.closed.duration_s + plan.drain_s
    assert plan.closed.requests is not None, "a closed loop has an end"
    return plan.closed.requests * (fleet.retry.budget_s + plan.closed.think_s) + plan.drain_s


def _reason(error: BaseException) -> str:
    error = getattr(error, "cause", None) or error  # what was raised in the actor says more than Ray's wrapping
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
