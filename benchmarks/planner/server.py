"""A server with other clients, in virtual time.

Scheduler, policy and load report are the real ones. What is emulated: the accelerator (a cost table, drawn with a
spread), and the other clients (Poisson arrivals at every entry).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.costs.cost_model import CostModel
from deployments.replica.load_report import LoadReport
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Row, Scheduler, Step
from deployments.simulation.workloads import bound_rps
from slicer.core.network.server import Server
from slicer.core.protocol.messages import Answer, Reply, Request, ServedModel, Timings

#: From a request's arrival in the replica to its row in the engine (docs/log/, 2026-11-23: about 1 ms).
ADMISSION_S = 0.001

#: Relative standard deviation of a step's duration.
STEP_SPREAD = 0.05


@dataclass(slots=True)
class _Open:
    arrived_s: float
    answered: asyncio.Future[None] | None  # None: another client's
    execution_s: float = 0.0
    rows_per_step: tuple[int, ...] = ()


class VirtualServer(Server):
    """`slicer.core.network.server.Server`: the scheduler with a cost table in place of an accelerator, on the
    running loop.

    Args:
        served: the one model.
        costs: what steps cost; strategy `continuous` decides by the same table.
        others: (moment, entry) of other clients' requests, ascending, from now on.
        seed: of the steps' durations.
    """

    def __init__(self, served: ServedModel, costs: CostModel, others: Sequence[tuple[float, int]], seed: str) -> None:
        n = costs.num_slices
        self._served, self._costs = served, costs
        policy = make_policy(
            "continuous", model=served.name, num_slices=n, max_batch=32, options={}, costs=costs.copy()
        )
        self._scheduler = Scheduler({served.name: policy})
        self._loop = asyncio.get_running_loop()
        self.load = LoadReport(served.entries, n, clock=self._loop.time)
        self._open: dict[int, _Open] = {}
        self._key = 0
        self._running = False
        self._random = random.Random(f"{seed}/steps")
        self._sigma = math.sqrt(math.log1p(STEP_SPREAD**2))
        self._others, self._next, self._began_s = others, 0, self._loop.time()
        self.busy_s = 0.0
        self._await_other()

    async def describe(self, model: str) -> ServedModel:
        """What is served."""
        return self._served

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        """One request: these devices have no gateway that would make parcels of more."""
        [request] = requests
        return [await self._answer(request)]

    async def _answer(self, request: Request) -> Answer:
        """Admission, the scheduler's steps, a reply with the server's timings."""
        arrived_s = self._loop.time()
        await asyncio.sleep(ADMISSION_S)
        row = _Open(self._loop.time(), self._loop.create_future())
        self._add(request.cut, row)
        assert row.answered is not None
        await row.answered
        now_s = self._loop.time()
        timings = Timings(
            (row.arrived_s - arrived_s) * 1e3,
            (now_s - row.arrived_s - row.execution_s) * 1e3,
            row.execution_s * 1e3,
            (now_s - arrived_s) * 1e3,
            row.rows_per_step,
        )
        load = self.load.report() if request.wants_load else ()
        return Reply(request.id, timings, ((0, 1.0),), server="virtual", load=load)

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """Shards are in the devices' caches."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to give back."""

    def _await_other(self) -> None:
        if self._next < len(self._others):
            self._loop.call_at(self._began_s + self._others[self._next][0], self._other)

    def _other(self) -> None:
        self._add(self._others[self._next][1], _Open(self._loop.time(), None))
        self._next += 1
        self._await_other()

    def _add(self, entry: int, row: _Open) -> None:
        self._key += 1
        self._open[self._key] = row
        self._scheduler.add(Row(self._key, self._served.name, entry, row.arrived_s))
        if not self._running:
            self._begin()

    def _begin(self) -> None:
        step = self._scheduler.next(self._loop.time())
        self._running = step is not None
        if step is not None:
            mean_s = self._costs.span_s(step.start, step.end, len(step.rows))
            took_s = mean_s * math.exp(self._random.gauss(-(self._sigma**2) / 2, self._sigma))
            self._loop.call_later(took_s, self._end, step, took_s)

    def _end(self, step: Step, took_s: float) -> None:
        now_s = self._loop.time()
        self.busy_s += took_s
        for row in step.rows:
            opened = self._open[row.key]
            opened.execution_s += took_s
            if opened.answered is not None:
                opened.rows_per_step += (len(step.rows),)
        for row in self._scheduler.finish(step, now_s):
            opened = self._open.pop(row.key)
            wait_s = now_s - opened.arrived_s - opened.execution_s + ADMISSION_S
            self.load.observe(row.entry, wait_s * 1e3, opened.execution_s * 1e3)
            if opened.answered is not None and not opened.answered.done():
                opened.answered.set_result(None)
        self._scheduler.observe(step, took_s)
        self._begin()


def others(
    costs: CostModel, entries: Sequence[int], loads: Sequence[tuple[float, float]], end_s: float, seed: str
) -> list[tuple[float, int]]:
    """Other clients' requests: Poisson, at all entries alike; `loads` are (from second, share of the bound)."""
    draw, found = random.Random(f"{seed}/others"), list[tuple[float, int]]()
    bound = bound_rps(costs, tuple(entries), 32)
    for index, (from_s, share) in enumerate(loads):
        until_s = loads[index + 1][0] if index + 1 < len(loads) else end_s
        now_s = from_s
        while share and (now_s := now_s + draw.expovariate(share * bound)) < until_s:
            found.append((now_s, draw.choice(list(entries))))
    return found
