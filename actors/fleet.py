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
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.actor import DeviceActor, DeviceInfo
from actors.device import TopK
from actors.fleet_config import DeviceConfig, FleetConfig, GroupConfig, load_fleet, parse_fleet
from actors.placement import MARK, Demand, place, release
from actors.plan import Plan
from actors.records import Record
from actors.runner import lost_run
from actors.transport import DEVICE_ENV
from slicer.errors import ConfigError, HeadTailError, PlacementError, ServerError

__all__ = ["Fleet", "FleetConfig", "load_fleet", "parse_fleet"]

logger = logging.getLogger(__name__)

#: How much longer than its plan says a device may take before it is given up.
GRACE_S = 30.0


class Fleet:
    """The devices of one fleet file, against one application.

    Args:
        config: the fleet.
        app: name of the Serve application the devices talk to.
        run: part of the actors' names, `headtail:<run>:<device>`; unique among fleets that live at once.

    Attributes:
        devices: what was started, in the order of the file; filled by `start`.
        failures: one line per device that died or did not come back from a run.
    """

    def __init__(self, config: FleetConfig, *, app: str, run: str) -> None:
        self.devices: list[DeviceInfo] = []
        self.failures: list[str] = []
        self._fleet = config
        self._app = app
        self._run_name = run
        self._groups: list[PlacementGroup] = []
        self._configs: dict[str, DeviceConfig] = {}
        self._actors: dict[str, Any] = {}  # by the name of the (first) device in them
        self._home: dict[str, str] = {}  # device -> its actor's name in _actors

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
        return [info for infos in self._each(method, timeout_s, *args).values() for info in infos]

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
                self._actors[first] = self._make(group, placed, index, configs)

    def _make(self, group: GroupConfig, placed: PlacementGroup, index: int, configs: list[DeviceConfig]) -> Any:
        threads = str(group.torch_threads)
        marked = fleet_resource(placed, self._fleet.resource)
        return (
            ray.remote(DeviceActor)
            .options(
                name=f"headtail:{self._run_name}:{configs[0].name}",
                num_cpus=group.cpus,
                num_gpus=group.gpus,
                resources={self._fleet.resource: MARK} if marked else {},
                scheduling_strategy=PlacementGroupSchedulingStrategy(placed, placement_group_bundle_index=index),
                runtime_env={
                    "env_vars": {**DEVICE_ENV, **_token(), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
                },
                max_concurrency=10_000,
            )
            .remote(configs, self._app)
        )

    def _each(self, method: str, timeout_s: float, *args: Any) -> dict[str, Any]:
        """Call every device; the first error is raised with the device's name."""
        calls = {name: getattr(actor, method).remote(*args) for name, actor in self._actors.items()}
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
            Records by device. The ledger closes: a device that died has its intended requests as lost, and a line in
            `failures`.
        """
        for name in plans:
            self._known(name)
        records: dict[str, list[Record]] = {}
        homes: dict[str, dict[str, Plan]] = {}
        for name, plan in plans.items():
            homes.setdefault(self._home[name], {})[name] = plan
        warm = {home: self._actors[home].prepare.remote(mine) for home, mine in homes.items()}
        most = max((sum(len(plan.warmup) for plan in mine.values()) for mine in homes.values()), default=0)
        for home, call in warm.items():
            self._collect(homes[home], call, GRACE_S + most * self._fleet.retry.budget_s, records)
        ready = [home for home, mine in homes.items() if not mine.keys() & records.keys()]
        calls = {self._actors[home].run.remote(start_in_s): home for home in ready}
        pending = list(calls)
        lengths_s = (_length_s(plan, self._fleet) for home in ready for plan in homes[home].values())
        until_s = time.monotonic() + start_in_s + GRACE_S + max(lengths_s, default=0)
        while pending and time.monotonic() < until_s:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=every_s, fetch_local=False)
            if on_progress is not None:
                on_progress(self.progress())
        for call, home in calls.items():
            records.update(self._collect(homes[home], call, 0.1 if call in pending else GRACE_S, records) or {})
        return {name: records[name] for name in plans}

    def _collect(
        self, plans: Mapping[str, Plan], call: Any, timeout_s: float, lost: dict[str, list[Record]]
    ) -> dict[str, list[Record]] | None:
        """The call's result; or None, with the plans' requests as lost, when the actor did not give it."""
        try:
            result: dict[str, list[Record]] = ray.get(call, timeout=timeout_s)
            return result
        except (RayError, TimeoutError) as error:
            for name, plan in plans.items():
                message = f"device {name} did not come back from its run: {_reason(error)}"
                logger.warning(message)
                self.failures.append(message)
                lost[name] = lost_run(self._configs[name], plan, message)
            return None

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
