"""`Alarm`: a moment on the monotonic clock, to better than the event loop's own milliseconds."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from slicer.core.common.clock import Clock
from slicer.core.common.timerfd import Alarm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


def test_waits_end_in_the_order_of_their_moments_and_never_early() -> None:
    async def scenario() -> list[int]:
        alarm, ended = Alarm(asyncio.get_running_loop()), []
        began_s = time.monotonic()

        async def wait(number: int, after_s: float) -> None:
            await alarm.until(began_s + after_s)
            assert time.monotonic() >= began_s + after_s
            ended.append(number)

        # The second is set while the first waits and rings before it; the fourth is over already.
        await asyncio.gather(wait(0, 0.02), wait(1, 0.005), wait(2, 0.0053), wait(3, -1.0))
        return ended

    assert asyncio.run(scenario()) == [3, 1, 2, 0]


def test_a_wait_that_is_cancelled_holds_up_nobody() -> None:
    async def scenario() -> None:
        alarm = Alarm(asyncio.get_running_loop())
        now_s = time.monotonic()
        first = asyncio.ensure_future(alarm.until(now_s + 0.002))
        second = asyncio.ensure_future(alarm.until(now_s + 0.004))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(second, 5)
        assert first.cancelled()

    asyncio.run(scenario())


def test_a_clock_serves_one_loop_after_another() -> None:
    clock = Clock()
    for _ in range(2):
        due_s = clock.now_s() + 0.002
        asyncio.run(clock.until(due_s))
        assert clock.now_s() >= due_s


def test_without_a_timerfd_the_loops_own_timers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slicer.core.common.timerfd._LIBC", None)
    clock = Clock()
    due_s = clock.now_s() + 0.003
    asyncio.run(clock.until(due_s))
    assert clock.now_s() >= due_s
