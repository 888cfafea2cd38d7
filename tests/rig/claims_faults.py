"""Faults in mid-run: an edge host loses power, an edge host loses its link, a process of the server is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.rig import jobs
from tests.rig.finding import Finding, judged
from tests.rig.hosts import HEAD, RigError
from tests.rig.operator import Operator

#: Seconds of the load before the fault, and while the host is away. The whole run is LENGTH_S long.
BEFORE_S, AWAY_S, LENGTH_S = 25.0, 20.0, 110.0
NOTICED_S = 10.0
TOLERANCE = 0.2

#: Images/s of each camera: with 5 the 99th percentile of the two others was that of their two slowest requests.
_RATE = 15

#: The devices warm up between the line that says that a run begins and its zero.
_SETTLES_S = 3.0


@dataclass(frozen=True)
class Fault:
    """What is done to an edge host, and how it is undone."""

    name: str
    words: str
    host: str
    begin: Callable[[], None]
    end: Callable[[], None]


def power(operator: Operator) -> Iterator[Finding]:
    """An edge host is powered off in mid-run, and on again."""
    hosts, host = operator.hosts, operator.hosts.edges[1]
    fault = Fault("power", "power off", host, lambda: hosts.power(host, False), lambda: hosts.power(host, True))
    yield from _lost(operator, fault)


def link(operator: Operator) -> Iterator[Finding]:
    """The link of an edge host is cut for 20 s."""
    hosts, host = operator.hosts, operator.hosts.edges[2]
    fault = Fault("link", "link cut for 20 s", host, lambda: hosts.link(host, False), lambda: hosts.link(host, True))
    yield from _lost(operator, fault)


def _lost(operator: Operator, fault: Fault) -> Iterator[Finding]:
    address = operator.hosts.addresses[fault.host]
    flags = f"--fleet tests/rig/fleets/cameras.yaml --device-rate {_RATE} --duration {LENGTH_S:g} --warmup 2"
    output = jobs.start_load(operator, fault.name, flags)
    begun_s = output.wait_for("] seed 0:", 150.0)
    if begun_s is None:
        raise RigError(f"the load did not begin:\n{output.text[-2000:]}")
    time.sleep(BEFORE_S)  # the undisturbed part of the experiment
    fault_s = time.monotonic()
    fault.begin()
    known_s = operator.until(lambda: address not in operator.living(), 90.0, f"{fault.host} is given up by Ray")
    said_s = output.wait_for("] missing: ", 60.0, fault_s)
    time.sleep(max(0.0, fault_s + AWAY_S - time.monotonic()))  # as long as the experiment says
    fault.end()
    ended_s = time.monotonic()
    back_s = output.wait_for("] back: ", 120.0, fault_s)
    results = jobs.finish_load(operator, output, fault.name, 300.0)
    lines = [line for _, line in output.lines if "] missing: " in line]
    yield judged(f"{fault.words}: Ray gives the host up within 10 s", known_s <= NOTICED_S, f"{known_s:.1f} s")
    yield judged(
        f"{fault.words}: the fleet says what is missing",
        said_s is not None and any(address in line for line in lines),
        "nothing" if said_s is None else f"after {said_s - fault_s:.1f} s: {lines[0].partition('] ')[2]}",
    )
    device = next((name for name, where in results.devices.items() if where == address), "")
    mine = results.of(device)
    after = [r for r in mine if r["outcome"] == "answered" and r["scheduled_s"] > ended_s - begun_s]
    yield judged(
        f"{fault.words}: the device rejoins when its host does",
        back_s is not None and bool(after),
        "not in this run"
        if back_s is None
        else f"{back_s - ended_s:.1f} s after the host was back, {len(after)} answers after that",
    )
    whole, words = jobs.ledger(results)
    lost = sum(record["outcome"] != "answered" for record in results.records if record["device"] != device)
    yield judged(f"{fault.words}: the ledger closes", whole and not lost, f"{words}, of the other devices {lost} lost")
    others = [record for record in results.records if record["device"] != device]
    before_ms, n = jobs.p99_ms(others, 3.0, BEFORE_S - _SETTLES_S)
    during_ms, m = jobs.p99_ms(others, fault_s - begun_s, ended_s - begun_s - _SETTLES_S)
    yield judged(
        f"{fault.words}: p99 of the other devices within 20 %",
        abs(during_ms / before_ms - 1) <= TOLERANCE,
        f"{before_ms:.0f} ms before ({n} requests), {during_ms:.0f} ms while the host is away ({m})",
    )


def front(operator: Operator) -> Iterator[Finding]:
    """A process of the head host that speaks to clients is killed: the other one and the accelerator's go on."""
    yield from _killed(operator, "front", "Front", 1)


def core(operator: Operator) -> Iterator[Finding]:
    """The process that owns the accelerator is killed: requests are sent again, none is lost."""
    yield from _killed(operator, "core", "Core", 1)


def _killed(operator: Operator, name: str, deployment: str, count: int) -> Iterator[Finding]:
    output = jobs.start_load(
        operator, name, "--fleet tests/rig/fleets/cameras.yaml --device-rate 5 --duration 30 --drain 90"
    )
    if output.wait_for("] seed 0:", 150.0) is None:
        raise RigError(f"the load did not begin:\n{output.text[-2000:]}")
    time.sleep(8.0)  # the undisturbed part of the experiment
    before = {replica["replica_id"]: replica["pid"] for replica in operator.replicas(deployment)}
    others = [replica["pid"] for replica in operator.replicas() if replica["replica_id"] not in before]
    killed = dict(list(before.items())[:count])
    operator.hosts.run(HEAD, f"kill -9 {' '.join(map(str, killed.values()))}")
    results = jobs.finish_load(operator, output, name, 300.0)
    whole, words = jobs.ledger(results)
    again = sum(record["attempts"] > 1 for record in results.records)
    times_ms = [record["inference_ms"] or 0.0 for record in results.records]
    held = sum(time_ms > 1000 for time_ms in times_ms)
    yield judged(
        f"{name} killed: requests retried or held, none lost",
        whole and len(killed) == count and results.outcomes["answered"] == len(results.records),
        f"{words}; {again} sent again by the device, {held} took more than 1 s, at most {max(times_ms) / 1e3:.1f} s",
    )
    now = [replica["pid"] for replica in operator.replicas()]
    yield judged(
        f"{name} killed: Serve starts another one, and the other processes stay",
        len(operator.replicas(deployment)) == len(before)
        and not set(killed.values()) & set(now)
        and set(others) <= set(now),
        f"{len(operator.replicas(deployment))} there; of {len(others)} others {len(set(others) & set(now))} stayed",
    )
