"""What waits to be decoded: bounded, no longer than it is of use, nobody behind who has left. No real time passes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from deployments.engine.engine import Outcome
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.row_sink import RowSink
from deployments.replica.admission.admission import Admission
from deployments.replica.admission.calls import CheckedRequest
from slicer.core.protocol.messages import Refusal, Request
from tests.unit.deployments.replica.admission.test_admission import Inbox, until

pytestmark = pytest.mark.usefixtures("replica_context")

DECODE_S = 0.1
BROKEN = 200


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Decoder:
    """A model whose decoding takes `DECODE_S` of the fake clock, and waits for leave where a gate is closed."""

    name = "m"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.decoded: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    shapes: dict[int, tuple[int, ...]] = {0: (1,)}  # noqa: RUF012

    def decode(self, codec: str, payloads: Sequence[bytes], cut: int, *_: Any) -> Any:
        self.begun.set()
        assert self.gate.wait(10)
        self.clock.now_s += DECODE_S
        if payloads[0][0] == BROKEN:
            raise MemoryError
        self.decoded += [payload[0] for payload in payloads]
        return np.array([[payload[0]] for payload in payloads], np.float32)


class World:
    """An admission to an engine that answers at once, when asked to."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.model = Decoder(self.clock)
        self.engine = Inbox()
        limits = {"max_rows": 100, "max_bytes": 1000, **limits}
        self.admission = Admission(
            lambda deliver: cast(RowSink, self.engine), most=8, threads=1, clock=self.clock, **limits
        )

    def call(self, *numbers: int, deadline_ms: float | None = None, size: int = 1) -> asyncio.Future[Any]:
        requests = [
            CheckedRequest(
                cast(HostedModel, self.model),
                Request(str(n), "m", "", 0, "png", (1,), bytes([n]) * size, deadline_ms=deadline_ms),
                self.clock(),
            )
            for n in numbers
        ]
        return asyncio.ensure_future(self.admission.infer(requests))

    def answer(self) -> None:
        keys = [key for keys in self.engine.calls for key in keys]
        self.engine.calls.clear()
        self.admission.deliver([Outcome(key, np.zeros(1, np.float32)) for key in keys])


def codes(results: Sequence[Any]) -> list[str]:
    return [result.code if isinstance(result, Refusal) else "answered" for result in results]


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_rows_that_wait_count_and_the_first_too_many_is_told_at_once() -> None:
    async def work() -> None:
        world = World(max_rows=3)
        world.model.gate.clear()
        first = world.call(1, 2, 3)
        await turns()
        assert codes(await world.call(4)) == ["overloaded"]
        assert codes(await world.call(5, 6)) == ["overloaded", "overloaded"]
        world.model.gate.set()
        await until(lambda: world.model.decoded == [1, 2, 3])
        assert codes(await world.call(7)) == ["overloaded"], "now they are in the engine"
        await until(lambda: sum(map(len, world.engine.calls)) == 3)
        world.answer()
        assert codes(await first) == ["answered"] * 3
        again = world.call(8)
        await until(lambda: world.model.decoded[-1] == 8)
        await until(lambda: bool(world.engine.calls))
        world.answer()
        assert codes(await again) == ["answered"]

    asyncio.run(work())


def test_bytes_that_wait_count_but_one_alone_is_always_taken() -> None:
    async def work() -> None:
        world = World(max_bytes=100)
        world.model.gate.clear()
        big = world.call(1, size=500)
        await turns()
        (refused,) = await world.call(2, size=1)
        assert refused.code == "overloaded"
        assert "500 bytes wait to be decoded (max_queue_bytes is 100)" in refused.message
        world.model.gate.set()
        await until(lambda: bool(world.engine.calls))
        world.answer()
        assert codes(await big) == ["answered"]

    asyncio.run(work())


def test_what_is_too_late_is_not_decoded() -> None:
    async def work() -> None:
        world = World()
        world.model.gate.clear()
        first = world.call(1)
        await until(world.model.begun.is_set)
        late = world.call(2, deadline_ms=50)  # nothing is known of times yet, so it waits
        await turns()
        assert not late.done()
        world.model.gate.set()
        assert codes(await late) == ["too_late"]
        await until(lambda: bool(world.engine.calls))
        world.answer()
        await first
        assert world.model.decoded == [1]

    asyncio.run(work())


def test_who_cannot_be_in_time_is_told_when_it_comes() -> None:
    async def work() -> None:
        world = World()
        known = world.call(1)
        await until(lambda: bool(world.engine.calls))
        world.answer()
        await known
        world.model.gate.clear()
        waiting = world.call(2, 3, 4, 5)
        await turns()
        (refused,) = await world.call(6, deadline_ms=450)  # four before it, and itself: 500 ms
        assert refused.code == "too_late"
        assert "450 ms are left, and decoding and running it takes about 500 ms" in refused.message
        in_time = world.call(7, deadline_ms=650)
        await turns()
        assert not in_time.done()
        world.model.gate.set()
        await until(lambda: 7 in world.model.decoded)
        await until(lambda: sum(map(len, world.engine.calls)) == 5)
        world.answer()
        assert codes(await in_time) == ["answered"]
        await waiting

    asyncio.run(work())


def test_times_that_were_long_once_lock_nobody_out() -> None:
    async def work() -> None:
        world = World()
        world.admission._decode_queue.decoding.observe(60.0)
        world.admission._decode_queue.running.observe(60.0)
        call = world.call(1, deadline_ms=150)
        await until(lambda: bool(world.engine.calls))
        world.answer()
        assert codes(await call) == ["answered"]

    asyncio.run(work())


def test_abandoned_parcels_delay_nobody() -> None:
    async def work() -> None:
        world = World()
        world.model.gate.clear()
        left = [world.call(*range(start, start + 8)) for start in range(0, 64, 8)]
        await until(world.model.begun.is_set)
        for call in left:
            call.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await turns()
        queue = world.admission._decode_queue
        assert (queue.rows, queue.bytes) == (0, 0), "who has left takes no room, although nothing was decoded yet"
        good = world.call(100)
        await turns()
        world.model.gate.set()
        await until(lambda: 100 in world.model.decoded)
        assert len(world.model.decoded) <= 2, "the one that was at work, and the good one"
        await until(lambda: [100] in world.engine.calls)
        world.answer()
        assert codes(await good) == ["answered"]
        assert (world.admission._decode_queue.rows, world.admission._decode_queue.bytes) == (0, 0)

    asyncio.run(work())


def test_a_parcel_and_a_single_image_take_turns() -> None:
    async def work() -> None:
        world = World()
        world.model.gate.clear()
        first = world.call(0)
        await until(world.model.begun.is_set)
        parcel, single = world.call(1, 2, 3, 4, 5, 6), world.call(50)
        await turns()
        world.model.gate.set()
        await until(lambda: sum(map(len, world.engine.calls)) == 8)
        assert world.model.decoded == [0, 1, 50, 2, 3, 4, 5, 6]
        world.answer()
        await asyncio.gather(first, parcel, single)

    asyncio.run(work())


def test_one_that_fails_in_an_unknown_way_fails_alone() -> None:
    async def work() -> None:
        world = World()
        call = world.call(1, BROKEN, 2)
        await until(lambda: sum(map(len, world.engine.calls)) == 2)
        world.answer()
        assert codes(await call) == ["answered", "failed", "answered"]
        assert world.admission._decode_queue.rows == 0

    asyncio.run(work())
