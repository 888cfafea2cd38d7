"""When a replica's garbage is collected: all of it only while it has nothing to do.

A full collection walks every object that is alive, among them the answers that `deployments.answered` remembers: 4 to
6 ms every few seconds under load, in which nobody has the interpreter and the accelerator idles (docs/log.md,
2026-11-25). Young objects are collected as ever.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

#: Full collections are this far apart: while the replica is idle, and at most, however busy it is.
IDLE_S, MOST_S = 10.0, 600.0

#: How often it is looked whether the replica is idle.
_LOOK_S = 0.5

#: Of the oldest generation: never by itself. The two others are Python's own.
_THRESHOLD = (700, 10, 1_000_000_000)


class Garbage:
    """Full collections at good moments. Not thread-safe: use it from one event loop.

    Args:
        idle: whether nothing is at work now.
        clock, collect: for tests.
    """

    def __init__(
        self,
        idle: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._idle, self._clock, self._collect = idle, clock, collect
        self._last_s = clock()

    @staticmethod
    def take_over() -> None:
        """What is here now stays, and Python itself collects young objects only, from now on. For the whole process."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLD)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Collect if this is a moment for it; the event loop is held meanwhile."""
        since_s = self._clock() - self._last_s
        if since_s >= MOST_S or (since_s >= IDLE_S and self._idle()):
            self._collect()
            self._last_s = self._clock()
