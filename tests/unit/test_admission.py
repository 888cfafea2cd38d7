"""The way into the engine: who is admitted at once, who in a batch, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from deployments.admission import INLINE_BYTES, Admission, Arrival
from deployments.engine import Engine
from deployments.models import HostedModel
from slicer.wire import Request

pytestmark = pytest.mark.usefixtures("replica_context")


class Hosted:
    """A model whose rows are the first byte of their payload."""

    name = "m"

    def decode(self, codec: str, payloads: Sequence[bytes], cut: int) -> Any:
        return np.array([[payload[0]] for payload in payloads], np.float32)


class Inbox:
    """An engine that keeps what it is handed, and answers nothing; `fails`: it takes nothing."""

    alive = True

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.fails = False

    def submit(self, model: str, entry: int, rows: Any, *_: Any) -> list[int]:
        if self.fails:
            raise ValueError("no")
        self.calls.append([int(row[0]) for row in rows])
        return [int(row[0]) for row in rows]

    def cancel(self, key: int) -> None:
        """Nothing runs here."""


def arrival(number: int, codec: str = "fp32", size: int = 1) -> Arrival:
    payload = bytes([number]) * size
    return Arrival(cast(HostedModel, Hosted()), Request(str(number), "m", "", 0, codec, (1,), payload), 0.0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""

    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(turn(), 10)


def admit(*turns: Sequence[Arrival]) -> list[list[int]]:
    """What the engine is handed when each comes in a call of its own, those of one turn of the loop together."""
    engine = Inbox()

    async def work() -> None:
        admission, calls = Admission(cast(Engine, engine), max_batch=8, concurrency=1), []
        for turn in turns:
            calls += [asyncio.ensure_future(admission.infer([one])) for one in turn]
            await asyncio.sleep(0)
        await until(lambda: sum(map(len, engine.calls)) == len(calls))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(work())
    return engine.calls


def test_what_arrives_alone_is_admitted_before_its_caller_waits() -> None:
    engine = Inbox()

    async def work() -> None:
        admission = Admission(cast(Engine, engine), max_batch=8, concurrency=1)
        call = asyncio.ensure_future(admission.infer([arrival(1), arrival(2)]))
        await asyncio.sleep(0)  # one turn; the handler of `serve.batch` needs several
        assert engine.calls == [[1, 2]]
        call.cancel()

    asyncio.run(work())


def test_what_arrives_in_one_turn_is_a_batch_but_for_the_first() -> None:
    assert admit([arrival(n) for n in (1, 2, 3, 4)]) == [[1], [2, 3, 4]]


def test_one_that_comes_a_turn_later_is_alone_again() -> None:
    assert admit([arrival(1)], [arrival(2)], [arrival(3)]) == [[1], [2], [3]]


def test_nobody_overtakes_those_whom_the_handler_has() -> None:
    calls = admit([arrival(1), arrival(2)], [arrival(3)], [arrival(4)])
    assert [number for call in calls for number in call] == [1, 2, 3, 4]


@pytest.mark.parametrize(("codec", "size"), [("png", 1), ("fp32", INLINE_BYTES + 1)])
def test_others_wait_behind_what_takes_long_to_decode(codec: str, size: int) -> None:
    calls = admit([arrival(1, codec, size)], [arrival(2)])
    assert [number for call in calls for number in call] == [1, 2]


def test_after_a_batch_the_next_is_alone_again() -> None:
    engine = Inbox()

    async def work() -> None:
        admission = Admission(cast(Engine, engine), max_batch=8, concurrency=1)
        calls = [asyncio.ensure_future(admission.infer([arrival(n)])) for n in (1, 2)]
        await until(lambda: not admission._at_work and len(engine.calls) == 2)
        calls.append(asyncio.ensure_future(admission.infer([arrival(3)])))
        await asyncio.sleep(0)
        assert engine.calls == [[1], [2], [3]]
        for call in calls:
            call.cancel()

    asyncio.run(work())


def test_one_that_fails_leaves_the_way_free() -> None:
    engine = Inbox()

    async def work() -> None:
        admission = Admission(cast(Engine, engine), max_batch=8, concurrency=1)
        engine.fails = True
        with pytest.raises(ValueError, match="no"):
            await admission.infer([arrival(1)])
        engine.fails = False
        call = asyncio.ensure_future(admission.infer([arrival(2)]))
        await asyncio.sleep(0)
        assert engine.calls == [[2]]
        call.cancel()

    asyncio.run(work())
