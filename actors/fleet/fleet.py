"""A fleet that lives: its devices placed and started, given assignments, and taken down again.

Blocking, for a driver's main thread; one fleet at a time uses one `run` name. Use it as a context manager: whatever
happens inside, actors and placement groups are gone afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.device.config import DeviceConfig
from actors.fleet.config import FleetConfig, load_fleet, parse_fleet
from actors.fleet.device_actor import DeviceInfo
from actors.fleet.fleet_run import Absence, FleetRun
from actors.fleet.ray_processes import GRACE_S, RayProcesses, living_nodes, reason
from slicer.core.device.answer import TopK
from slicer.core.records.assignment import Assignment
from slicer.core.records.record import Record
from slicer.errors import ConfigError, HeadTailError, PlacementError, ServerError

__all__ = ["Fleet", "FleetConfig", "load_fleet", "parse_fleet"]

logger = logging.getLogger("headtail.fleet")

#: How often a start that takes long says how far it is, seconds.
SAY_S = 5.0


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
        self._run_name = run
        self._processes = RayProcesses(config, f"headtail:{run}", app)
        self._configs: dict[str, DeviceConfig] = {}
        self._home: dict[str, str] = {}  # device -> the name of its process
        self._missing: dict[str, str] = {}  # processes that are, and why

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
            if not self._home:
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
        self._processes.app = app
        self.devices = self._all("connect", self._fleet.start_timeout_s, app)
        return self.devices

    def _all(self, method: str, timeout_s: float, *args: Any) -> list[DeviceInfo]:
        for home, infos in self._each(method, timeout_s, *args).items():
            self._processes.started(home, infos)
        return self._infos()

    def _infos(self) -> list[DeviceInfo]:
        return [self._processes.infos[name] for name in self._configs]

    def place(self) -> None:
        """Make the actors, which begin to import; needs no server yet, so it may go before the server's own start.

        Raises:
            PlacementError: they do not fit the cluster; nothing is left running.
        """
        for home, configs in self._processes.place().items():
            self._configs.update((config.name, config) for config in configs)
            self._home.update((config.name, home) for config in configs)

    def _each(self, method: str, timeout_s: float, *args: Any) -> dict[str, Any]:
        """Call every device but those that are missing; the first error is raised with the device's name."""
        homes = [home for home in self._processes.actors if home not in self._missing]
        calls = {home: self._processes.call(home, method, *args) for home in homes}
        until_s = time.monotonic() + timeout_s
        self._wait(calls, method, until_s)
        return {name: self._get(name, call, method, until_s - time.monotonic()) for name, call in calls.items()}

    def _wait(self, calls: Mapping[str, Any], method: str, until_s: float) -> None:
        """Until all have answered or the time is over, with a line of how many have; the first failure is raised."""
        homes, pending = {call: home for home, call in calls.items()}, list(calls.values())
        said_s = time.monotonic()
        while pending and time.monotonic() < until_s:
            ready, pending = ray.wait(pending, num_returns=1, timeout=min(SAY_S, max(until_s - time.monotonic(), 0.0)))
            for call in ready:
                self._get(homes[call], call, method, 1.0)
            if pending and time.monotonic() - said_s >= SAY_S:
                said_s = time.monotonic()
                self._say(f"{len(calls) - len(pending)} of {len(calls)} processes of devices ready ({method})")

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
            raise ServerError(f"device {name} died in {method}: {reason(error)}") from error

    def classify(self, device: str, image: str, top_k: int = 5) -> tuple[TopK, Record]:
        """One image on one device, now: (class, logit) pairs and the record with its timings."""
        self._known(device)
        answer = self._processes.call(self._home[device], "classify", device, image, top_k)
        result: tuple[TopK, Record] = self._get(device, answer, "classify", self._fleet.retry.budget_s + GRACE_S)
        return result

    def run(
        self,
        assignments: Mapping[str, Assignment],
        *,
        start_in_s: float = 0.5,
        on_progress: Callable[[Counter[str]], None] | None = None,
        every_s: float = 0.5,
    ) -> dict[str, list[Record]]:
        """One measured run: all warm up, then all start together, each on its own clock.

        Args:
            assignments: by device name; devices without an assignment rest.
            start_in_s: from the call that starts them to the start; more than that call takes to reach every node.
            on_progress: called about every `every_s` with the number of requests by outcome so far.

        Returns:
            Records by device. The ledger closes: what a device was to ask while it was missing is lost. It comes back
            when its host does (`actors.fleet.fleet_run`); one that does not has a line in `failures`.
        """
        for name in assignments:
            self._known(name)
        homes: dict[str, dict[str, Assignment]] = {}
        for name, assignment in assignments.items():
            homes.setdefault(self._home[name], {})[name] = assignment
        most = max((sum(len(assignment.warmup) for assignment in mine.values()) for mine in homes.values()), default=0)
        budget_s, keep = self._fleet.retry.budget_s, len(living_nodes()) > 1
        run = FleetRun(self._processes, homes, self._configs, missing=self._missing, say=self._say, keep=keep)
        records = run.go(
            warm_s=GRACE_S + most * budget_s,
            start_in_s=start_in_s,
            length_s=GRACE_S + max((mine.longest_s(budget_s) for mine in assignments.values()), default=0.0),
            every_s=every_s,
            tick=lambda: None if on_progress is None else on_progress(self.progress()),
        )
        resting = {home: why for home, why in self._missing.items() if home not in homes}
        self._missing = resting | run.still_missing
        self.devices = self._infos() if self.devices else []
        self.absences += run.absences
        self.failures += [str(absence) for absence in run.absences if absence.to_s is None]
        return {name: records[name] for name in assignments}

    def progress(self) -> Counter[str]:
        """Requests of the current run by outcome, all devices together; those that answer within a second."""
        total: Counter[str] = Counter()
        calls = [actor.progress.remote() for actor in self._processes.actors.values()]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=1.0) if calls else ([], [])
        for call in ready:
            with contextlib.suppress(RayError):
                total.update(ray.get(call))
        return total

    def stop(self) -> None:
        """End all actors and remove the placement groups. May be called twice, and after a failed start."""
        self._home, self._missing = {}, {}
        self._processes.stop()

    def _known(self, device: str) -> None:
        if device not in self._home:
            names = ", ".join(self._home) or "none: the fleet is not started"
            raise ConfigError(f"no device {device!r} in this fleet; there are {names}")
