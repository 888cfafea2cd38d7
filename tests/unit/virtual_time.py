"""An event loop whose clock jumps to the next timer when nothing is left to do: hours pass in no time, exactly."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from actors.clock import Clock

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Only for code without threads and sockets: a thread's result would not be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        timers = [handle for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, min(handle.when() for handle in timers))
        super()._run_once()  # type: ignore[misc]


class VirtualClock(Clock):
    """The clock of the loop that runs."""

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def until(self, due_s: float) -> None:
        await asyncio.sleep(due_s - self.now_s())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
