"""Waking an event loop at a moment to some 0.1 ms, by Linux's timerfd.

Neither asyncio nor uvloop can: their own timers count whole milliseconds. A loop sees the descriptor become readable
like any socket, so nothing spins and no thread sleeps.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
import weakref

_CLOCK_MONOTONIC = 1  # that of time.monotonic()
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.timerfd_create, libc.timerfd_settime  # noqa: B018  # both are there
    except (OSError, AttributeError, TypeError):  # another system than Linux
        return None
    return libc


_LIBC = _libc()


class Alarm:
    """Waits on one event loop; use it from that loop only.

    Raises:
        OSError: this system has no timerfd, or no descriptor is left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if _LIBC is None:
            raise OSError("no timerfd on this system")
        self._libc = _LIBC
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = loop
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []  # heap, the earliest first
        self._number = itertools.count()
        loop.add_reader(self._fd, self._ring)
        weakref.finalize(self, os.close, self._fd)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it was made for."""
        return self._loop

    async def until(self, due_s: float) -> None:
        """Return at `due_s` of `time.monotonic` or soon after it, never before."""
        future = self._loop.create_future()
        heapq.heappush(self._waiting, (due_s, next(self._number), future))
        if self._waiting[0][2] is future:
            self._set(due_s)
        await future

    def _set(self, due_s: float) -> None:
        nanoseconds = max(int(due_s * 1e9) + 1, 1)  # 0 would disarm it
        value = _Timespec(*divmod(nanoseconds, 1_000_000_000))
        spec = _Itimerspec(_Timespec(0, 0), value)
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), f"timerfd_settime failed for {due_s}")

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # set anew since it rang
        now_s = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now_s:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():  # its waiter may have been cancelled
                future.set_result(None)
        if self._waiting:
            self._set(self._waiting[0][0])
