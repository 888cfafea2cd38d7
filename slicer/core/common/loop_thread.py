"""An event loop in a thread of its own, for those whose calls block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ServerError

T = TypeVar("T")


class LoopThread:
    """Runs coroutines; the thread starts with the first. Thread-safe.

    A forked process makes its own: the thread stays with the parent, and calls of one that was used before the fork
    raise ServerError.

    Args:
        what: it belongs to, for messages.
        end: awaited on the loop when it closes.
    """

    def __init__(self, what: str, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._what, self._end = what, end
        self._lock = threading.Lock()  # of what follows
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0  # where the thread runs; 0: none has been started
        self._closed = False

    def close(self) -> None:
        """End the thread; calling it again is harmless. Calls that wait raise ServerError."""
        if self._elsewhere():
            return
        with self._lock:
            loop, thread = self._loop, self._thread
            self._closed, self._loop, self._thread = True, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine returns or raises. Raises ServerError: closed, or of another process."""
        if self._elsewhere():
            raise ServerError(f"this {self._what} was used before a fork; make another one in this process")
        with self._lock:
            if self._closed:
                raise ServerError(f"this {self._what} is closed; make another one")
            if self._loop is None:
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name=f"headtail {self._what}", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ServerError(f"this {self._what} was closed while a call waited for its answer") from None
        except BaseException:  # of the call, or of this thread while it waits: Ctrl-C
            future.cancel()
            raise

    def _elsewhere(self) -> bool:
        """Whether the thread is that of the process that this one was forked from."""
        return self._process not in (0, os.getpid())

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread, until `close` stops the loop."""
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(self._end())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
