"""What the server says of how busy it is."""

from __future__ import annotations

import pytest

from deployments.replica.load_report import LoadReport


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_entries_that_were_used_say_what_was_seen_and_others_follow_from_them() -> None:
    clock = Clock()
    load = LoadReport((0, 1, 2, 3), 4, clock)
    assert load.report() == ()
    clock.now_s = 1.0
    load.observe(1, 3.0, 9.0)
    clock.now_s = 1.2
    assert load.report() == ((0, 3.0, 12.0), (1, 3.0, 9.0), (2, 3.0, 6.0), (3, 3.0, 3.0))


def test_what_is_said_follows_the_last_second() -> None:
    clock = Clock()
    load = LoadReport((0,), 1, clock)
    for tick in range(50):
        clock.now_s = tick * 0.1
        load.observe(0, 10.0, 5.0)
    for tick in range(50, 80):
        clock.now_s = tick * 0.1
        load.observe(0, 100.0, 50.0)
    ((_, wait_ms, execution_ms),) = load.report()
    assert wait_ms == pytest.approx(100.0, rel=0.2)
    assert execution_ms == pytest.approx(50.0, rel=0.2)


def test_what_is_too_old_is_not_said() -> None:
    clock = Clock()
    load = LoadReport((0, 1), 2, clock)
    load.observe(0, 1.0, 1.0)
    assert load.report()
    clock.now_s = 60.0
    assert load.report() == ()
