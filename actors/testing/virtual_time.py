"""An event loop whose clock jumps to the next timer when nothing is left to do: hours pass in no time, exactly.

For tests, and for benchmarks of what depends on time alone: a device, its link and a scheduler run as they are, nothing
waits, and this machine's noise is in no figure.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from typing import Any, TypeVar

from slicer.core.common.clock import Clock

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Only for code without threads and sockets: a thread's result would not be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def _run_once(self) -> None:
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():  # as the loop itself does a moment later
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(timers)._scheduled = False
        if not self._ready and timers:  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, timers[0].when())
        super()._run_once()  # type: ignore[misc]


class VirtualClock(Clock):
    """The clock of the loop that runs."""

    def now_s(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    async def until(self, due_s: float) -> None:
        """Return at `due_s`; at once when it has passed."""
        await asyncio.sleep(due_s - self.now_s())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
