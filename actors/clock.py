"""A device's clock, and waiting on it to a fraction of a millisecond.

Not the event loop's own time and timers: uvloop, which Ray's actors run on where it is installed, counts both in whole
milliseconds, and asyncio's selector waits in them. For an answer after 20 ms that would be a lag of 5 %.
"""

from __future__ import annotations

import asyncio
import time

#: The last stretch of a wait is slept by a thread, whose sleep the kernel ends to within about 0.1 ms.
FINE_S = 0.003


class Clock:
    """This host's monotonic clock. `until` is called on an event loop; `now_s` anywhere."""

    def now_s(self) -> float:
        """Seconds since some moment; differences only."""
        return time.monotonic()

    async def until(self, due_s: float) -> None:
        """Return at `due_s` or soon after it, never before; at once when it has passed."""
        while (left_s := due_s - self.now_s()) > 0:
            if left_s > FINE_S:
                await asyncio.sleep(left_s - FINE_S)
            else:
                await asyncio.get_running_loop().run_in_executor(None, time.sleep, left_s)
