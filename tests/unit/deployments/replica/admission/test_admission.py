"""The way to the accelerator: what is handed over together, who waits for whom, and what becomes of who leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from deployments.engine.engine import Outcome
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.row_sink import RowBatch, RowSink
from deployments.replica.admission.admission import INLINE_BYTES, Admission
from deployments.replica.admission.calls import CheckedRequest
from slicer.core.codecs.activations import ordinary
from slicer.core.protocol.messages import Refusal, Request
from slicer.errors import CodecError

pytestmark = pytest.mark.usefixtures("replica_context")


#: A payload that no codec has.
BAD = 255


class Hosted:
    """A model whose rows are the first byte of their payload."""

    name = "m"
    shapes: ClassVar[dict[int, tuple[int, ...]]] = {0: (1,)}

    def decode(self, codec: str, payloads: Sequence[bytes], cut: int, *_: Any) -> Any:
        if any(payload[0] == BAD for payload in payloads):
            raise CodecError("bad")
        return np.array([[payload[0]] for payload in payloads], np.float32)


class Inbox:
    """A sink that keeps what it is handed, and answers nothing; `fails`: it does not take number 1."""

    alive = True
    receiving = staticmethod(ordinary)

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.cancelled: list[int] = []
        self.fails = False

    def submit(self, batch: RowBatch) -> list[int]:
        keys = [int(row[0]) for row in batch.rows]
        if self.fails and keys == [1]:
            raise ValueError("no")
        self.calls.append(keys)
        return keys

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)


def admission_to(engine: Inbox) -> Admission[RowSink]:
    return Admission(lambda deliver: cast(RowSink, engine), most=8, threads=1)


def outcome(key: int) -> Outcome:
    return Outcome(key, np.zeros(1, np.float32))


def checked(number: int, codec: str = "fp32", size: int = 1) -> CheckedRequest:
    payload = bytes([number]) * size
    return CheckedRequest(cast(HostedModel, Hosted()), Request(str(number), "m", "", 0, codec, (1,), payload), 0.0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""

    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(turn(), 10)


async def quiet(*calls: asyncio.Future[Any]) -> None:
    """End them."""
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


def admit(*turns: Sequence[CheckedRequest]) -> list[list[int]]:
    """What the engine is handed when each comes in a call of its own, those of one turn of the loop together."""
    engine = Inbox()

    async def work() -> None:
        admission, calls = admission_to(engine), []
        for turn in turns:
            calls += [asyncio.ensure_future(admission.infer([one])) for one in turn]
            await asyncio.sleep(0)
        await until(lambda: sum(map(len, engine.calls)) == len(calls))
        await quiet(*calls)

    asyncio.run(work())
    return engine.calls


def test_what_comes_in_one_turn_of_the_loop_is_handed_over_together() -> None:
    assert admit([checked(n) for n in (1, 2, 3, 4)]) == [[1, 2, 3, 4]]


def test_but_no_more_than_so_many_rows_at_once() -> None:
    assert admit([checked(n) for n in range(1, 12)]) == [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]


def test_nobody_waits_for_the_next_turn() -> None:
    assert admit([checked(1)], [checked(2), checked(3)], [checked(4)]) == [[1], [2, 3], [4]]


def test_who_comes_alone_is_admitted_two_turns_later() -> None:
    engine = Inbox()

    async def work() -> None:
        admission = admission_to(engine)
        call = asyncio.ensure_future(admission.infer([checked(1), checked(2)]))
        await asyncio.sleep(0)  # its own turn
        await asyncio.sleep(0)  # the one after; the handler of `serve.batch` needs several more
        assert engine.calls == [[1, 2]]
        await quiet(call)

    asyncio.run(work())


def test_each_codec_is_decoded_and_handed_over_for_itself() -> None:
    assert admit([checked(1), checked(2, "fp16"), checked(3), checked(4, "fp16")]) == [[1, 3], [2, 4]]


@pytest.mark.parametrize(("codec", "size"), [("png", 1), ("fp32", INLINE_BYTES + 1)])
def test_nobody_waits_behind_what_takes_long_to_decode(codec: str, size: int) -> None:
    assert admit([checked(1, codec, size), checked(2)], [checked(3)]) == [[2], [3], [1]]


def test_a_call_returns_when_its_last_row_has_ended_and_with_its_own_rows() -> None:
    engine = Inbox()

    async def work() -> None:
        admission = admission_to(engine)
        one, two = (asyncio.ensure_future(admission.infer(a)) for a in ([checked(1), checked(2)], [checked(3)]))
        await until(lambda: bool(engine.calls))
        admission.deliver([outcome(2), outcome(3)])
        assert [result[0].key for result in cast(Any, await two)] == [3]
        assert not one.done()
        admission.deliver([outcome(1), outcome(1)])  # the second time, nobody waits for it
        assert [result[0].key for result in cast(Any, await one)] == [1, 2]

    asyncio.run(work())


@pytest.mark.parametrize("codec", ["fp32", "png"])
def test_one_that_cannot_be_decoded_is_refused_and_its_neighbours_are_not(codec: str) -> None:
    engine = Inbox()

    async def work() -> None:
        admission = admission_to(engine)
        requests = [checked(1, codec), checked(BAD, codec), checked(2, codec)]
        call = asyncio.ensure_future(admission.infer(requests))
        await until(lambda: sum(map(len, engine.calls)) == 2)
        # An image is handed over as soon as it is decoded: the next one takes as long as its whole way does.
        assert engine.calls == ([[1], [2]] if codec == "png" else [[1, 2]])
        admission.deliver([outcome(2), outcome(1)])
        first, refused, last = await call
        assert isinstance(refused, Refusal)
        assert refused.code == "bad_codec"
        assert [cast(Any, result)[0].key for result in (first, last)] == [1, 2]

    asyncio.run(work())


@pytest.mark.parametrize("codec", ["fp32", "png"])
def test_what_the_engine_does_not_take_fails_its_own_call_alone(codec: str) -> None:
    engine = Inbox()

    async def work() -> None:
        admission = admission_to(engine)
        engine.fails = True
        bad = asyncio.ensure_future(admission.infer([checked(1, "fp16"), checked(2, codec)]))
        good = asyncio.ensure_future(admission.infer([checked(3, codec)]))
        with pytest.raises(ValueError, match="no"):
            await bad
        decoded = [3] if codec == "png" else [2, 3]  # nobody waits for 2 any more, so its image is not even decoded
        await until(lambda: [key for keys in engine.calls for key in keys] == decoded)
        await until(lambda: engine.cancelled == decoded[:-1])
        admission.deliver([outcome(3)])
        assert len(await good) == 1

    asyncio.run(work())


@pytest.mark.parametrize("codec", ["fp32", "png"])
def test_who_leaves_before_it_is_admitted_is_not(codec: str) -> None:
    engine = Inbox()

    async def work() -> None:
        admission = admission_to(engine)
        calls = [asyncio.ensure_future(admission.infer([checked(n, codec)])) for n in (1, 2)]
        await asyncio.sleep(0)
        calls[0].cancel()
        await until(lambda: bool(engine.calls))
        assert engine.calls == [[2]]
        await quiet(*calls)

    asyncio.run(work())


def test_who_leaves_while_it_is_decoded_leaves_the_engine_at_once() -> None:
    engine, decoding, go_on = Inbox(), threading.Event(), threading.Event()

    class Slow(Hosted):
        def decode(self, codec: str, payloads: Sequence[bytes], cut: int, *_: Any) -> Any:
            decoding.set()
            assert go_on.wait(10)
            return super().decode(codec, payloads, cut)

    async def work() -> None:
        admission = admission_to(engine)
        one = replace(checked(1, "png"), model=cast(HostedModel, Slow()))
        call = asyncio.ensure_future(admission.infer([one]))
        await until(decoding.is_set)
        await quiet(call)
        go_on.set()
        await until(lambda: bool(engine.calls))
        await until(lambda: engine.cancelled == [1])

    asyncio.run(work())


def test_who_leaves_later_takes_its_rows_with_it() -> None:
    engine = Inbox()

    async def work() -> None:
        admission = admission_to(engine)
        call = asyncio.ensure_future(admission.infer([checked(1), checked(2)]))
        await until(lambda: bool(engine.calls))
        await quiet(call)
        assert engine.cancelled == [1, 2]
        admission.deliver([outcome(1), outcome(2)])  # into nothing
        await asyncio.sleep(0)

    asyncio.run(work())


def test_a_call_of_nothing_has_ended() -> None:
    async def work() -> None:
        assert await admission_to(Inbox()).infer([]) == []

    asyncio.run(work())
