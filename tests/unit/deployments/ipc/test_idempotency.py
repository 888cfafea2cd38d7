"""A request that comes again is answered once, from what there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployments.engine.ledger import Outcome
from deployments.ipc import idempotency
from deployments.ipc.idempotency import Answered, key_of
from slicer.core.protocol.messages import Request

REQUEST = Request("r1", "m", "digest", 1, "fp32", (1,), b"\0\0\0\0", key="k1")
KEY = key_of(REQUEST)
ANSWER = Outcome(1, np.zeros(3, np.float32))


def test_an_answer_that_was_given_is_given_again() -> None:
    book: Answered[str] = Answered()
    assert book.begin(KEY, "a") is True
    assert book.end(KEY, ANSWER) == []
    assert book.begin(KEY, "b") is ANSWER


def test_who_sends_again_what_is_at_work_waits_for_it() -> None:
    book: Answered[str] = Answered()
    assert book.begin(KEY, "a") is True
    assert [book.begin(KEY, name) for name in "bcd"] == [False] * 3
    assert book.end(KEY, ANSWER) == ["b", "c", "d"]


def test_what_ended_without_an_answer_is_not_kept() -> None:
    book: Answered[str] = Answered()
    book.begin(KEY, "a")
    book.end(KEY, Outcome(1, None, "overloaded", "full"))
    assert book.begin(KEY, "b") is True


def test_what_is_kept_is_bounded_in_number_size_and_time() -> None:
    now_s = 0.0
    book: Answered[str] = Answered(lambda: now_s)
    for number in range(idempotency.MOST + 10):
        book.end(str(number).encode(), ANSWER)
    assert book.begin(b"5", "a") is True
    assert book.begin(b"15", "a") is ANSWER
    book.end(b"large", Outcome(1, np.zeros(idempotency.MOST_BYTES // 4 + 1, np.float32)))
    assert book.begin(b"large", "a") is True
    now_s = idempotency.KEPT_S + 1
    assert book.begin(b"15", "b") is True


def test_a_key_is_of_all_that_decides_the_answer_and_not_of_the_sending() -> None:
    again = replace(REQUEST, id="r2", deadline_ms=5.0, priority=3, payload=memoryview(REQUEST.payload))
    assert key_of(again) == KEY
    others = [
        replace(REQUEST, key="k2"),
        replace(REQUEST, model="n"),
        replace(REQUEST, manifest="new"),
        replace(REQUEST, cut=2),
        replace(REQUEST, codec="int8"),
        replace(REQUEST, payload=b"\0\0\0\1"),
    ]
    assert len({KEY, *map(key_of, others)}) == 7


def test_a_request_without_a_key_has_none() -> None:
    assert key_of(replace(REQUEST, key="")) == b""


def test_a_key_that_utf_8_cannot_say_is_one_like_others() -> None:
    keys = {key_of(replace(REQUEST, key=key)) for key in ("\ud800", "\ud801", "?", "k\0")}
    assert len(keys) == 4 and b"" not in keys


@pytest.mark.parametrize("size", [1, 8191, 8192, 16384, 16385, 38_000, 151_000])
def test_payloads_that_differ_all_over_have_other_keys(size: int) -> None:
    random = np.random.default_rng(0)
    payloads = [random.integers(0, 256, size, np.uint8).tobytes() for _ in range(2)]
    first, other = (key_of(replace(REQUEST, payload=payload)) for payload in payloads)
    assert first != other
    assert key_of(replace(REQUEST, payload=memoryview(payloads[0]))) == first
