"""A device's clock. Not the event loop's own time: uvloop, which Ray's actors run on, counts it in whole milliseconds.

Its timers are whole milliseconds as well, so waits go by an `Alarm` where the system has one. (Letting a thread sleep
the last stretch was tried before and was no better than the loop's timers, at twice the CPU.)
"""

from __future__ import annotations

import asyncio
import time

from .timerfd import Alarm


class Clock:
    """This host's monotonic clock. `until` is called on an event loop; `now_s` anywhere."""

    def __init__(self) -> None:
        self._alarm: Alarm | None = None

    def now_s(self) -> float:
        """Seconds since some moment; differences only."""
        return time.monotonic()

    async def until(self, due_s: float) -> None:
        """Return at `due_s` or soon after it, never before; at once when it has passed."""
        if due_s <= self.now_s():
            return
        loop = asyncio.get_running_loop()
        if self._alarm is None or self._alarm.loop is not loop:
            try:
                self._alarm = Alarm(loop)
            except (OSError, NotImplementedError):  # no timerfd, or a loop that watches no descriptors
                self._alarm = None
        if self._alarm is not None:
            await self._alarm.until(due_s)
        while (left_s := due_s - self.now_s()) > 0:
            await asyncio.sleep(left_s)
