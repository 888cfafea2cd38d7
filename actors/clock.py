"""A device's clock. Not the event loop's own time: uvloop, which Ray's actors run on, counts it in whole milliseconds.

Its timers are whole milliseconds as well and may be early, so `until` looks again. Letting a thread sleep the last
stretch was tried and was no better there (p50 0.3 instead of 0.2 ms late, twice the CPU), so it is not done.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """This host's monotonic clock. `until` is called on an event loop; `now_s` anywhere."""

    def now_s(self) -> float:
        """Seconds since some moment; differences only."""
        return time.monotonic()

    async def until(self, due_s: float) -> None:
        """Return at `due_s` or soon after it, never before; at once when it has passed."""
        while (left_s := due_s - self.now_s()) > 0:
            await asyncio.sleep(left_s)
