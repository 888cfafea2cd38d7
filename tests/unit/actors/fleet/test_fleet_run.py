"""A fleet's run through the loss and return of hosts, in virtual time, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from actors.device.config import DeviceConfig
from actors.fleet.config import parse_fleet
from actors.fleet.fleet_run import MOST_RETURNS, FleetRun
from actors.fleet.processes import Gone
from slicer.core.device.device_run import make_record
from slicer.core.records.assignment import Assignment, Capture, Closed
from slicer.core.records.record import Record
from slicer.errors import ServerError

NAMES = ("cam-0", "cam-1", "cam-2")


def configs() -> dict[str, DeviceConfig]:
    fleet = parse_fleet({"groups": [{"name": "cam", "cut": 1, "count": len(NAMES)}]})
    return {device.name: device for device in fleet.devices(fleet.groups[0])}


def assignment(seconds: int = 60, closed: Closed | None = None) -> Assignment:
    arrivals = () if closed is not None else tuple(Capture(float(second), 0) for second in range(seconds))
    return Assignment("run", ("image",), (None,), arrivals=arrivals, closed=closed, warmup=(0,))


@dataclass(eq=False)
class Call:
    asked_s: float
    home: str
    method: str
    args: tuple[Any, ...]


class Processes:
    """Devices that answer at once, on hosts that are away from `gone[home][0]` to `gone[home][1]`, of this clock.

    The loss is told by every call that is under way, `notice_s` after it.
    """

    notice_s = 8.0

    def __init__(self, gone: dict[str, tuple[float, float]] | None = None) -> None:
        self.now_s = 0.0
        self.gone = gone or {}
        self.assignments: dict[str, Assignment] = {}
        self.began_s: dict[str, float] = {}
        self.made: dict[str, float] = {}  # when it was made again
        self.calls: list[tuple[float, str, str]] = []
        self.fails: Callable[[str, str], Exception | None] = lambda home, method: None

    def call(self, home: str, method: str, *args: Any) -> Call:
        self.calls.append((self.now_s, home, method))
        if method == "prepare":
            (self.assignments[home],) = args[0].values() if args[0] else (assignment(0),)
        if method == "run":
            self.began_s[home] = self.now_s + args[0]
        return Call(self.now_s, home, method, args)

    def _due_s(self, call: Call) -> float:
        asked_s, home, method = call.asked_s, call.home, call.method
        lost_s, _ = self.gone.get(home, (float("inf"), float("inf")))
        if asked_s >= self.made.get(home, -1.0) and home in self.made:
            lost_s = float("inf")
        ends_s = asked_s
        if method == "run":
            ends_s = max([self.began_s[home] + a.at_s for a in self.assignments[home].arrivals], default=asked_s) + 0.1
        return max(lost_s + self.notice_s, asked_s) if ends_s >= lost_s else ends_s

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        until_s = self.now_s + timeout_s
        if calls:
            until_s = min(until_s, max(self.now_s, *(self._due_s(call) for call in calls)))
        self.now_s = max(self.now_s, until_s)
        return [call for call in calls if self._due_s(call) <= self.now_s]

    def answer(self, call: Call) -> Any:
        asked_s, home, method = call.asked_s, call.home, call.method
        if (error := self.fails(home, method)) is not None:
            raise error
        lost_s, _ = self.gone.get(home, (float("inf"), 0.0))
        if lost_s <= self._due_s(call) and not (home in self.made and asked_s >= self.made[home]):
            raise Gone("its host died")
        if method == "run":
            return {home: self._records(home, self._due_s(call))}
        if method == "ended":
            return self._records(home, asked_s)[call.args[0] :]
        return None

    def _records(self, home: str, until_s: float) -> list[Record]:
        made = []
        for number, arrival in enumerate(self.assignments[home].arrivals):
            record = make_record(configs()[home], self.assignments[home], arrival.image, arrival.at_s, str(number))
            record.outcome, record.finished_s = "answered", arrival.at_s + 0.1
            made.append(record)
        return [r for r in made if self.began_s[home] + r.scheduled_s + 0.1 <= until_s]

    def make_again(self, home: str) -> bool:
        back = self.now_s >= self.gone.get(home, (0.0, 0.0))[1]
        if back:
            self.made[home] = self.now_s
        return back

    def started(self, home: str, infos: Any) -> None:
        pass

    def host(self, home: str) -> str:
        return f"10.0.0.{home[-1]}"


def go(
    processes: Processes,
    made: dict[str, Assignment] | None = None,
    *,
    keep: bool = True,
    missing: dict[str, str] | None = None,
) -> tuple[FleetRun, dict[str, list[Record]], list[str]]:
    assignments = {name: assignment() for name in NAMES}
    said: list[str] = []
    run = FleetRun(
        processes,
        {name: {name: mine} for name, mine in assignments.items()},
        configs(),
        missing=missing or {},
        say=said.append,
        keep=keep,
        now_s=lambda: processes.now_s,
    )
    return run, run.go(warm_s=10.0, start_in_s=0.5, length_s=120.0, every_s=0.5, tick=lambda: None), said


def outcomes(records: list[Record]) -> list[str]:
    return [record.outcome for record in records]


def test_where_nothing_is_lost_nothing_is_said() -> None:
    run, records, said = go(Processes())
    assert {name: outcomes(mine) for name, mine in records.items()} == {name: ["answered"] * 60 for name in NAMES}
    assert (run.absences, run.still_missing, said) == ([], {}, [])


def test_a_host_that_goes_and_comes_back_costs_what_it_was_asked_meanwhile_and_nothing_else() -> None:
    processes = Processes({"cam-1": (10.2, 30.0)})
    run, records, said = go(processes)
    assert outcomes(records["cam-0"]) == outcomes(records["cam-2"]) == ["answered"] * 60
    mine = records["cam-1"]
    # Answered before 10.2 s (the run begins at 0.5 s of the clock). Back at 30.0 s of the clock, loaded at 30.5, warm
    # at 31.0, when it is told of what is left a second later: 31.5 s of the run.
    assert outcomes(mine) == ["answered"] * 10 + ["lost"] * 22 + ["answered"] * 28
    assert [record.id for record in mine] == [f"run/cam-1/{number}" for number in range(60)]
    assert [record.scheduled_s for record in mine] == [float(second) for second in range(60)]
    assert {(r.code, r.message) for r in mine if r.outcome == "lost"} == {
        ("device", "device cam-1 was missing: its host died")
    }
    (absence,) = run.absences
    assert (absence.devices, absence.host, absence.lost) == (("cam-1",), "10.0.0.1", 22)
    assert absence.from_s == pytest.approx(17.7, abs=0.5)  # 8 s after 9.7 s of the run
    assert absence.to_s == pytest.approx(31.0, abs=0.6)
    assert run.still_missing == {}
    assert [line.partition(":")[0] for line in said] == ["missing", "back"]
    assert "cam-1 on 10.0.0.1 (its host died); 2 of 3 go on" in said[0]


def test_a_host_that_stays_away_does_not_hold_the_run_up() -> None:
    processes = Processes({"cam-1": (10.2, 1e9)})
    run, records, said = go(processes)
    assert outcomes(records["cam-1"]) == ["answered"] * 10 + ["lost"] * 50
    assert processes.now_s < 62
    assert run.still_missing == {"cam-1": "its host died"}
    assert "did not come back" in str(run.absences[0])
    assert len(said) == 1


def test_without_keeping_all_of_a_lost_device_is_lost() -> None:
    _, records, _ = go(Processes({"cam-1": (10.2, 1e9)}), keep=False)
    assert outcomes(records["cam-1"]) == ["lost"] * 60


def test_a_device_that_is_lost_while_it_warms_up_joins_later() -> None:
    processes = Processes({"cam-1": (0.0, 5.0)})
    processes.notice_s = 1.0
    run, records, _ = go(processes)
    assert outcomes(records["cam-1"])[-50:] == ["answered"] * 50
    assert outcomes(records["cam-0"]) == ["answered"] * 60
    assert run.absences[0].to_s is not None


def test_a_device_that_was_missing_before_the_run_joins_when_its_host_is_back() -> None:
    processes = Processes({"cam-1": (-100.0, 20.0)})
    _, records, said = go(processes, missing={"cam-1": "its host died"})
    assert outcomes(records["cam-1"]) == ["lost"] * 22 + ["answered"] * 38
    assert [line.partition(":")[0] for line in said] == ["missing", "back"]


def test_a_device_that_dies_for_a_reason_of_its_own_is_not_made_again_for_ever() -> None:
    processes = Processes()
    processes.fails = lambda home, method: ServerError("no memory") if (home, method) == ("cam-1", "prepare") else None
    run, records, said = go(processes)
    assert sum(method == "start" and home == "cam-1" for _, home, method in processes.calls) == MOST_RETURNS
    assert outcomes(records["cam-1"]) == ["lost"] * 60
    assert outcomes(records["cam-0"]) == ["answered"] * 60
    assert run.still_missing == {"cam-1": "no memory"}
    assert len(said) == 1


def test_records_are_fetched_once_each() -> None:
    processes = Processes()
    go(processes)
    assert sum(method == "ended" for _, _, method in processes.calls) < 3 * 61


@pytest.mark.parametrize(
    ("made", "asked", "left"),
    [
        (assignment(10), 3, 4),
        (assignment(5), 5, None),
        (assignment(closed=Closed((0,), requests=9)), 4, 5),
        (assignment(closed=Closed((0,), requests=9)), 9, None),
        (assignment(closed=Closed((0,), duration_s=6.5)), 40, 6.5),
        (assignment(closed=Closed((0,), duration_s=5.0)), 40, None),
    ],
)
def test_what_is_left_of_an_assignment_after_six_seconds(made: Assignment, asked: int, left: float | None) -> None:
    rest = made.rest(asked, 6.0)
    if rest is None:
        assert left is None
    elif rest.closed is None:
        assert [arrival.at_s for arrival in rest.arrivals] == [6.0, 7.0, 8.0, 9.0]
        assert len(rest.arrivals) == left
    else:
        assert (rest.closed.requests or rest.closed.duration_s) == left
