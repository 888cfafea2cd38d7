"""When a server is left alone, and when it is asked again."""

from __future__ import annotations

import random

from slicer.core.device.health.circuit_breaker import CircuitBreaker


def away(seed: int = 0) -> CircuitBreaker:
    return CircuitBreaker(0.25, 2.0, random.Random(seed))


def test_a_server_that_is_there_is_asked_by_everyone() -> None:
    one = away()
    assert one.closed
    assert all(one.may_try(0.0) for _ in range(5))


def test_after_a_failure_nobody_asks_for_a_pause_then_one_does() -> None:
    one = away()
    one.failed(10.0)
    assert not one.closed
    assert not one.may_try(10.1)  # at least half of 0.25 s
    assert one.may_try(10.4)
    assert not one.may_try(10.4)  # the probe is on its way
    one.answered()
    assert one.closed
    assert one.may_try(10.4)


def test_pauses_double_up_to_their_limit() -> None:
    one, now_s, pauses = away(), 0.0, []
    one.failed(now_s)
    for _ in range(6):
        began_s = now_s
        while not one.may_try(now_s):
            now_s += 0.001
        pauses.append(now_s - began_s)
        one.failed(now_s, probe=True)
    assert all(
        0.5 * want <= got <= 1.5 * want + 0.002 for got, want in zip(pauses, (0.25, 0.5, 1, 2, 2, 2), strict=True)
    )


def test_requests_that_were_on_their_way_when_it_went_are_no_news() -> None:
    one = away()
    for _ in range(20):
        one.failed(0.0)
    assert one.may_try(0.4)  # still the first pause


def test_a_probe_without_news_lets_the_next_one_ask() -> None:
    one = away()
    one.failed(0.0)
    assert one.may_try(1.0)
    one.said_nothing()
    assert one.may_try(1.0)


def test_a_fleet_does_not_come_back_at_one_moment() -> None:
    fleet = [away(seed) for seed in range(100)]
    for one in fleet:
        one.failed(0.0)
        one.failed(0.0, probe=True)
    back = [next(ms for ms in range(2000) if one.may_try(ms / 1e3)) for one in fleet]
    assert max(back.count(ms) for ms in set(back)) <= 4
