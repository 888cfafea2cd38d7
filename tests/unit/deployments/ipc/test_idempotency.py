"""A request that comes again is answered once, from what there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployments.engine.ledger import Outcome
from deployments.ipc import idempotency
from deployments.ipc.idempotency import Answered, key_of
from slicer.protocol.messages import Request

REQUEST = Request("r1", "m", "digest", 1, "fp32", (1,), b"\0\0\0\0")
KEY = key_of(REQUEST)
ANSWER = Outcome(1, np.zeros(3, np.float32))


def test_an_answer_that_was_given_is_given_again() -> None:
    book: Answered[str] = Answered()
    assert book.begin(KEY, "a", again=False) is True
    assert book.end(KEY, ANSWER) == []
    assert book.begin(KEY, "b", again=True) is ANSWER


def test_a_row_that_was_not_sent_before_always_runs() -> None:
    book: Answered[str] = Answered()
    assert book.begin(KEY, "a", again=False) is True
    assert book.begin(KEY, "b", again=False) is True
    book.end(KEY, ANSWER)
    assert book.begin(KEY, "c", again=False) is True


@pytest.mark.parametrize("first", [False, True], ids=["first", "only ever seen as a retry"])
def test_who_sends_again_what_is_at_work_waits_for_it(first: bool) -> None:
    book: Answered[str] = Answered()
    assert book.begin(KEY, "a", again=first) is True
    assert [book.begin(KEY, name, again=True) for name in "bcd"] == [False] * 3
    assert book.end(KEY, ANSWER) == ["b", "c", "d"]


def test_what_ended_without_an_answer_is_not_kept() -> None:
    book: Answered[str] = Answered()
    book.begin(KEY, "a", again=False)
    book.end(KEY, Outcome(1, None, "overloaded", "full"))
    assert book.begin(KEY, "b", again=True) is True


def test_what_is_kept_is_bounded_in_number_size_and_time() -> None:
    now_s = 0.0
    book: Answered[str] = Answered(lambda: now_s)
    for number in range(idempotency.MOST + 10):
        book.end(str(number).encode(), ANSWER)
    assert book.begin(b"5", "a", again=True) is True
    assert book.begin(b"15", "a", again=True) is ANSWER
    book.end(b"large", Outcome(1, np.zeros(idempotency.MOST_BYTES // 4 + 1, np.float32)))
    assert book.begin(b"large", "a", again=True) is True
    now_s = idempotency.KEPT_S + 1
    assert book.begin(b"15", "b", again=True) is True


def test_a_key_is_of_all_that_decides_the_answer_and_not_of_the_sending() -> None:
    again = replace(REQUEST, again=True, deadline_ms=5.0, payload=memoryview(REQUEST.payload))
    assert key_of(again) == KEY
    others = [
        replace(REQUEST, id="r2"),
        replace(REQUEST, model="n"),
        replace(REQUEST, manifest="new"),
        replace(REQUEST, cut=2),
        replace(REQUEST, codec="int8"),
        replace(REQUEST, payload=b"\0\0\0\1"),
    ]
    assert len({KEY, *map(key_of, others)}) == 7


@pytest.mark.parametrize("size", [1, 8191, 8192, 16384, 16385, 38_000, 151_000])
def test_payloads_that_differ_all_over_have_other_keys(size: int) -> None:
    random = np.random.default_rng(0)
    payloads = [random.integers(0, 256, size, np.uint8).tobytes() for _ in range(2)]
    first, other = (key_of(replace(REQUEST, payload=payload)) for payload in payloads)
    assert first != other
    assert key_of(replace(REQUEST, payload=memoryview(payloads[0]))) == first
