"""One measured run of a whole fleet, through the loss and the return of devices' hosts.

All devices warm up, then all start together. A device whose process or host is gone is missing: somebody is told at
once, the others go on. When its host is back, it is made again there, warms up, and takes its assignment up where the
run is by then. What it had been asked meanwhile is lost, by name; what had been answered before is known, since
records are fetched all along where there is more than one host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from actors.device.config import DeviceConfig
from actors.fleet.processes import Call, Processes
from slicer.core.device.device_run import lost_run
from slicer.core.records.assignment import Assignment
from slicer.core.records.record import Record
from slicer.errors import HeadTailError

#: How often records of requests that have ended are fetched.
KEEP_S = 1.0

#: From telling a device that came back what is left of its assignment, to the first request of that.
MARGIN_S = 1.0

#: How often a device is made again in one run. One that dies for a reason of its own would do so for ever.
MOST_RETURNS = 5

Records = dict[str, list[Record]]


@dataclass
class Absence:
    """One process that was missing during a run.

    Attributes:
        devices: that live in it; `host`: where.
        from_s, to_s: seconds of the run; `to_s` None: it did not come back. The loss was before `from_s`, since Ray
            needs some seconds to be sure of it.
        lost: requests of its devices that were lost.
    """

    devices: tuple[str, ...]
    host: str
    why: str
    from_s: float
    to_s: float | None = None
    lost: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def __str__(self) -> str:
        until = "did not come back" if self.to_s is None else f"back after {self.to_s - self.from_s:.1f} s"
        return (
            f"{', '.join(self.devices)} on {self.host or 'an unknown host'} missing from {self.from_s:.1f} s on, "
            f"{until}, {self.lost} requests lost: {self.why}"
        )


@dataclass
class _Part:
    """What one process did of its devices' work without a break; `assignments` begins where the part before ended."""

    assignments: dict[str, Assignment]
    records: Records = field(default_factory=dict)
    fetched: int = 0


@dataclass
class _Home:
    """One process in this run. `stage`: what `call` is about; `gone` without a call: it is missing."""

    name: str
    assignments: Mapping[str, Assignment]
    stage: str = "gone"
    call: Call | None = None
    parts: list[_Part] = field(default_factory=list)
    absence: Absence | None = None
    returns: int = 0


class FleetRun:
    """One run; made for one call of `go`. Blocking, for one thread.

    Args:
        assignments: by home and device; homes without an assignment rest.
        configs: of all devices.
        missing: homes that are known to be missing from the beginning, and why.
        say: told in one line when a device is missing and when it is back.
        keep: fetch records all along; where all is one host, nothing can be lost alone.

    Attributes:
        absences: all so far, in order.
        still_missing: homes that are, and why.
    """

    def __init__(
        self,
        processes: Processes,
        assignments: Mapping[str, Mapping[str, Assignment]],
        configs: Mapping[str, DeviceConfig],
        *,
        missing: Mapping[str, str],
        say: Callable[[str], None],
        keep: bool,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.absences: list[Absence] = []
        self._processes = processes
        self._configs = configs
        self._homes = {name: _Home(name, mine) for name, mine in assignments.items()}
        self._missing = missing
        self._say = say
        self._keep = keep
        self._now_s = now_s
        self._began_s = now_s()
        self._kept_s = now_s()
        self._keeping: dict[Call, tuple[_Home, _Part]] = {}

    @property
    def still_missing(self) -> dict[str, str]:
        """Homes that are missing now."""
        return {h.name: h.absence.why for h in self._homes.values() if h.stage == "gone" and h.absence is not None}

    def go(
        self, *, warm_s: float, start_in_s: float, length_s: float, every_s: float, tick: Callable[[], None]
    ) -> Records:
        """Warm up, run, and return every device's records; the ledger closes.

        Args:
            warm_s, length_s: how long the warm-up and the run may take; who takes longer is given up.
            every_s: how often `tick` is called while the run goes on.
        """
        self._all_warm(warm_s)
        self._began_s = self._now_s() + start_in_s
        for home in self._homes.values():
            if home.stage == "ready":
                self._call(home, "running", "run", start_in_s)
        until_s = self._began_s + length_s
        while self._now_s() < until_s and any(self._goes_on(home) for home in self._homes.values()):
            self._wait(every_s)
            self._keep_records()
            for home in self._homes.values():
                if home.stage == "gone" and self._left(home):
                    self._try_again(home)
            tick()
        for home in self._homes.values():
            if home.stage not in ("done", "gone"):
                self._lose(home, "it did not end its run in time")
        return {name: self._records(home, name) for home in self._homes.values() for name in home.assignments}

    def _all_warm(self, warm_s: float) -> None:
        until_s = self._now_s() + warm_s
        for home in self._homes.values():
            home.parts.append(_Part(dict(home.assignments)))
            if home.name in self._missing:
                self._lose(home, self._missing[home.name])
            else:
                self._call(home, "first", "prepare", dict(home.assignments))
        while (left_s := until_s - self._now_s()) > 0 and any(home.stage == "first" for home in self._homes.values()):
            self._wait(left_s)
        for home in self._homes.values():
            if home.stage == "first":
                self._lose(home, f"it was not warm within {warm_s:g} s")

    def _goes_on(self, home: _Home) -> bool:
        return home.stage != "done" and (home.stage != "gone" or self._left(home))

    def _left(self, home: _Home) -> bool:
        """Whether anything is left to be asked of a missing home, were it back now."""
        return home.returns < MOST_RETURNS and bool(self._rest(home))

    def _run_s(self) -> float:
        return self._now_s() - self._began_s

    # --- calls --------------------------------------------------------------------------------------------------------

    def _call(self, home: _Home, stage: str, method: str, *args: Any) -> None:
        home.stage, home.call = stage, self._processes.call(home.name, method, *args)

    def _wait(self, timeout_s: float) -> None:
        """Until every call has an answer, or the time is over; then go one step further with each that has."""
        calls = {home.call: home for home in self._homes.values() if home.call is not None}
        for call in self._processes.wait(list(calls), timeout_s):
            home = calls[call]
            home.call = None
            try:
                self._next(home, self._processes.answer(call))
            except HeadTailError as error:
                self._lose(home, str(error))

    def _next(self, home: _Home, answer: Any) -> None:
        """The step after `home.stage`, whose answer is there."""
        if home.stage == "first":
            home.stage = "ready"
        elif home.stage == "running":
            home.parts[-1].records = answer
            home.stage = "done"
        elif home.stage == "starting":  # heads are loaded: now the warm-up alone, with nothing to ask after it
            self._processes.started(home.name, answer)
            only = {name: replace(mine, arrivals=(), closed=None) for name, mine in home.assignments.items()}
            self._call(home, "warming", "prepare", only)
        elif home.stage == "warming":
            rest = self._rest(home)
            home.parts.append(_Part(rest))
            self._call(home, "back", "prepare", {name: replace(mine, warmup=()) for name, mine in rest.items()})
        elif home.stage == "back":
            assert home.absence is not None, "it was missing"
            home.absence.to_s = self._run_s()
            away_s = home.absence.to_s - home.absence.from_s
            self._say(f"back: {', '.join(home.assignments)} on {self._processes.host(home.name)}, after {away_s:.1f} s")
            if home.parts[-1].assignments:
                self._call(home, "running", "run", -self._run_s())
            else:
                home.stage = "done"

    def _try_again(self, home: _Home) -> None:
        if self._processes.make_again(home.name):
            home.returns += 1
            self._call(home, "starting", "start")

    def _lose(self, home: _Home, why: str) -> None:
        """The home is missing from now on; that it is, is said once."""
        again = home.absence is not None and home.absence.to_s is None
        home.stage, home.call = "gone", None
        if again:
            return
        home.absence = Absence(tuple(home.assignments), self._processes.host(home.name), why, max(self._run_s(), 0.0))
        self.absences.append(home.absence)
        here = sum(other.stage != "gone" for other in self._homes.values())
        self._say(
            f"missing: {', '.join(home.assignments)} on {home.absence.host or 'an unknown host'} ({why}); "
            f"{here} of {len(self._homes)} go on"
        )

    # --- records ------------------------------------------------------------------------------------------------------

    def _keep_records(self) -> None:
        """Fetch what has ended since the last time, from every device that runs; never waits for one."""
        for call in self._processes.wait(list(self._keeping), 0.0):
            home, part = self._keeping.pop(call)
            try:
                ended: list[Record] = self._processes.answer(call)
            except HeadTailError:
                continue  # the run's own call says it, too
            if home.stage == "done":
                continue  # with all of its records
            part.fetched += len(ended)
            for record in ended:
                part.records.setdefault(record.device, []).append(record)
        if not self._keep or self._now_s() - self._kept_s < KEEP_S:
            return
        self._kept_s = self._now_s()
        busy = [home.name for home, _ in self._keeping.values()]
        for home in self._homes.values():
            if home.stage == "running" and home.name not in busy:
                call = self._processes.call(home.name, "ended", home.parts[-1].fetched)
                self._keeping[call] = home, home.parts[-1]

    def _rest(self, home: _Home) -> dict[str, Assignment]:
        """What is left of the assignments from now on; empty: nothing."""
        asked = {name: sum(len(part.records.get(name, ())) for part in home.parts) for name in home.assignments}
        found = {name: mine.rest(asked[name], self._run_s() + MARGIN_S) for name, mine in home.assignments.items()}
        return {name: mine for name, mine in found.items() if mine is not None}

    def _records(self, home: _Home, name: str) -> list[Record]:
        """One device's records of all parts, in order of intention, those of nobody as lost."""
        assignment = home.assignments[name]
        if home.stage == "done" and len(home.parts) == 1:
            return home.parts[0].records[name]
        found: dict[int, Record] = {}
        for part in home.parts:
            offset = len(assignment.arrivals) - len(part.assignments[name].arrivals) if name in part.assignments else 0
            offset = offset if assignment.arrivals else len(found)
            for record in part.records.get(name, ()):
                number = offset + int(record.id.rpartition("/")[2])
                record.id = f"{assignment.run_id}/{name}/{number}"
                found[number] = record
        why = home.absence.why if home.absence is not None else ""
        lost = lost_run(self._configs[name], assignment, f"device {name} was missing: {why}")
        if not assignment.arrivals:
            lost = [record for number, record in enumerate(lost) if number >= len(found)]
            mine = [found[number] for number in sorted(found)] + lost
        else:
            mine = [found.get(number, record) for number, record in enumerate(lost)]
        if home.absence is not None:
            home.absence.lost += sum(record.outcome == "lost" and record.code == "device" for record in mine)
        return mine
