"""One device, its link and a server with other clients, in virtual time: what `benchmarks/planner/planner.py` runs.

Everything that decides or takes time is the real class: `Device` with its planner and link estimate, `EmulatedLink`,
the server's scheduler, policy and load report. What is emulated: the device's slices (times drawn from a profile), the
accelerator (a cost table, drawn with a spread), and the other clients (Poisson arrivals at every entry). No activation
is computed; payloads are zeros of the right length.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.clock.virtual_time import VirtualClock
from actors.device.config import TAIL, DeviceConfig, Retry
from actors.device.device import Device
from actors.device.head_runtime import Computed
from actors.network.client import LinkedServer
from actors.network.emulated_link import EmulatedLink
from actors.planning.online_planner import PlanConfig
from benchmarks.planner.cases import ENCODE_NS, Case
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_profile
from deployments.replica.load_report import LoadReport
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Row, Scheduler, Step
from deployments.simulation.workloads import bound_rps
from slicer.planning.cut_planner import Choice, Facts, payload_bytes
from slicer.planning.cut_planner import DeviceView as View
from slicer.profiles.device_profile import Profile
from slicer.protocol.messages import Answer, Reply, Request, ServedModel, Timings

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


class VirtualServer:
    """`actors.network.client.Server`: the scheduler with a cost table in place of an accelerator, on the running loop.

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


class _Numbers:
    """`HeadRuntime` of numbers alone: how much of a head there is. What it computes is `EmulatedDevice`'s affair."""

    size_bytes = 0
    slices_ms: Sequence[float] = ()

    def __init__(self, served: ServedModel, loaded: int) -> None:
        self.manifest, self.num_slices, self.loaded = served.manifest, served.num_slices, loaded

    async def extend(self, count: int) -> None:
        self.loaded = count

    async def rehearse(self) -> None:
        """Its times are drawn."""

    def close(self) -> None:
        """There is no thread."""

    async def trim(self, count: int) -> None:
        self.loaded = min(self.loaded, count)

    def reseed(self, seed: str) -> None:
        """Draws are the device's."""


class EmulatedDevice(Device):
    """`Device` whose slices take the times of a true profile; the one in its configuration is what it believes.

    Args:
        true: what it draws from. encode_ns: what encoding really takes per value.
    """

    def __init__(
        self, config: DeviceConfig, server: Any, true: Profile, encode_ns: dict[str, float], seed: str
    ) -> None:
        super().__init__(config, server, load=_load, clock=VirtualClock())  # type: ignore[arg-type]
        self._true, self._encode_ns = true, encode_ns
        self._draw = random.Random(f"{seed}/device")

    async def finish(self, computed: Computed, image: str) -> Computed:
        """The slices that are left, where the device goes on alone."""
        slices_ms = [spread.draw_ms(self._draw) for spread in self._true.slices_ms[computed.cut :]]
        await asyncio.sleep(sum(slices_ms) / 1e3)
        logits = np.zeros(10, np.float32)
        return Computed(computed.manifest, (10,), b"", logits, sum(slices_ms), 0.0, cut=computed.cut + len(slices_ms))

    async def compute(self, image: str, choice: Choice) -> Computed:
        """Let the drawn time pass."""
        head, facts, draw = self.head, facts_of(self.served), self._draw
        assert head is not None
        assert self._true.preprocess_ms is not None
        prepare_ms = self._true.preprocess_ms.draw_ms(draw)
        slices_ms = tuple(spread.draw_ms(draw) for spread in self._true.slices_ms[: choice.cut])
        shape, whole = facts.shapes[choice.cut], choice.cut == facts.num_slices
        encode_ms = 0.0 if whole else self._encode_ns[choice.codec] * math.prod(shape) / 1e6 * draw.uniform(0.9, 1.1)
        head_ms = prepare_ms + sum(slices_ms)
        await asyncio.sleep((head_ms + encode_ms) / 1e3)
        logits = np.zeros(10, np.float32) if whole else None
        payload = b"" if whole else zeros(int(payload_bytes(facts, choice, View(())) or 0))
        return Computed(
            head.manifest,
            shape,
            payload,
            logits,
            head_ms,
            encode_ms,
            False,
            choice.cut,
            choice.codec,
            prepare_ms,
            slices_ms,
        )


async def _load(served: ServedModel, config: DeviceConfig, get: object) -> Any:
    return _Numbers(served, served.num_slices if config.alone else config.cut)


_FACTS: dict[str, Facts] = {}
_ZEROS: dict[int, bytes] = {}


def facts_of(served: ServedModel | None) -> Facts:
    """`Facts.of`, once per model."""
    assert served is not None
    if served.manifest not in _FACTS:
        _FACTS[served.manifest] = Facts.of(served)
    return _FACTS[served.manifest]


def zeros(size: int) -> bytes:
    """So many bytes, made once."""
    if size not in _ZEROS:
        _ZEROS[size] = bytes(size)
    return _ZEROS[size]


def costs_of(profile: str, num_slices: int) -> CostModel:
    """A shipped cost profile, cut into so many equal slices."""
    whole = load_profile(profile)
    return whole.regroup(range(0, whole.num_slices + 1, whole.num_slices // num_slices))


def make_device(case: Case, server: Any, first: Choice, plan: PlanConfig | None, error: float) -> EmulatedDevice:
    """The device of a case, on its link, not started. Called on the loop."""
    board = case.board()
    config = DeviceConfig(
        name=case.name,
        group=case.kind,
        model=case.model,
        cut=first.cut,
        codec=first.codec,
        profile=believed(board, error, case.name),
        plan=plan,
        alone=TAIL if case.alone else "",
        cache_directory="",
        cache_max_bytes=1,
        retry=Retry(budget_s=1e6),
    )
    link = EmulatedLink(**case.link, seed=case.name, clock=VirtualClock())
    return EmulatedDevice(config, LinkedServer(server, link), board, ENCODE_NS, case.name)


def believed(true: Profile, sigma: float, seed: str) -> Profile:
    """The profile with errors of its own for preprocessing and every slice: log-normal, of relative size `sigma`."""
    draw = random.Random(f"{seed}/believed")

    def wrong(spread: Any) -> Any:
        return replace_mean(spread, spread.mean_ms * math.exp(draw.gauss(0.0, sigma)))

    assert true.preprocess_ms is not None
    return true.model_copy(
        update={"preprocess_ms": wrong(true.preprocess_ms), "slices_ms": tuple(wrong(s) for s in true.slices_ms)}
    )


def replace_mean(spread: Any, mean_ms: float) -> Any:
    """The same relative spread around another mean."""
    return spread.model_copy(update={"mean": mean_ms, "std": (spread.std or 0.0) * mean_ms / spread.mean_ms})
