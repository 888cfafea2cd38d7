"""A request that comes again is answered once, from what there is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from deployments.replica import idempotency
from deployments.replica.idempotency import Answered
from slicer.protocol.messages import Refusal, Reply, Request, Timings

FIRST = Request("r1", "m", "digest", 1, "fp32", (1,), b"\0\0\0\0")
AGAIN = replace(FIRST, again=True)
REPLY = Reply("r1", Timings(0, 0, 0, 0, ()), ((3, 1.0),))


def test_an_answer_that_was_given_is_given_again_and_only_for_the_same_request() -> None:
    book = Answered()
    assert book.begin(FIRST) is None
    book.end(FIRST, REPLY)
    assert book.begin(AGAIN) is REPLY
    for other in (replace(AGAIN, id="r2"), replace(AGAIN, manifest="new"), replace(AGAIN, cut=2)):
        assert book.begin(other) is None


def test_a_request_that_is_not_marked_always_runs() -> None:
    book = Answered()
    assert book.begin(FIRST) is None
    assert book.begin(FIRST) is None
    book.end(FIRST, REPLY)
    assert book.begin(FIRST) is None


@pytest.mark.parametrize("first", [FIRST, AGAIN], ids=["first", "only ever seen as a retry"])
def test_a_request_that_is_still_at_work_is_waited_for(first: Request) -> None:
    async def scenario() -> None:
        book = Answered()
        assert book.begin(first) is None
        waiting = [book.begin(AGAIN) for _ in range(3)]
        assert all(isinstance(future, asyncio.Future) and not future.done() for future in waiting)
        book.end(first, REPLY)
        assert await asyncio.gather(*waiting) == [REPLY] * 3  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_what_ended_without_an_answer_runs_again() -> None:
    async def scenario() -> None:
        book = Answered()
        for end in (None, Refusal("r1", "overloaded", "full")):
            assert book.begin(FIRST) is None
            waiting = book.begin(AGAIN)
            assert isinstance(waiting, asyncio.Future)
            book.end(FIRST, end)
            assert await waiting is end
            assert book.begin(AGAIN) is None
            book.end(AGAIN, None)

    asyncio.run(scenario())


def test_what_is_kept_is_bounded_in_number_size_and_time() -> None:
    now_s = 0.0
    book = Answered(lambda: now_s)
    for number in range(idempotency.MOST + 10):
        book.end(replace(FIRST, id=str(number)), REPLY)
    assert book.begin(replace(AGAIN, id="5")) is None
    assert book.begin(replace(AGAIN, id="15")) is REPLY
    book.end(replace(FIRST, id="large"), replace(REPLY, logits=bytes(idempotency.MOST_BYTES + 1)))
    assert book.begin(replace(AGAIN, id="large")) is None
    now_s = idempotency.KEPT_S + 1
    assert book.begin(replace(AGAIN, id="15")) is None
