"""Requests that come again: a row runs once, however often its device had to send it.

A device that lost an answer on the way sends the request again under its id, marked `Request.again`. If the row is
still in the engine, both callers get its outcome; if it has ended, the answer is given from here. Per replica, bounded,
and for a while only: what is not here any more simply runs again, which is harmless, since an answer depends on the
request alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from slicer.protocol.messages import Answer, Reply, Request

#: So many answers are kept at most, for so long; full logits only up to so many bytes each.
MOST = 4096
KEPT_S = 60.0
MOST_BYTES = 8192

Key = tuple[str, str, str, int]


class Answered:
    """Not thread-safe: use it from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replies: OrderedDict[Key, tuple[float, Reply]] = OrderedDict()
        self._running: dict[Key, list[asyncio.Future[Answer | None]]] = {}

    def begin(self, request: Request) -> Reply | asyncio.Future[Answer | None] | None:
        """This request is here: its earlier sending's answer, or None: it is at work from now on and `end` must follow.

        A future: its earlier sending is at work; it becomes that one's answer, or None where that ended without one.
        Looking and beginning are one step, so that of two sendings that come at once only one runs.
        """
        key = key_of(request)
        if request.again:
            if (waiting := self._running.get(key)) is not None:
                future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
                waiting.append(future)
                return future
            found = self._replies.get(key)
            if found is not None and self._clock() - found[0] < KEPT_S:
                return found[1]
        self._running.setdefault(key, [])
        return None

    def end(self, request: Request, answer: Answer | None) -> None:
        """It has ended; None: without an answer, since its caller left."""
        key = key_of(request)
        for future in self._running.pop(key, ()):
            if not future.done():
                future.set_result(answer)
        if isinstance(answer, Reply) and len(answer.logits) <= MOST_BYTES:
            self._replies[key] = (self._clock(), answer)
            self._replies.move_to_end(key)
            while len(self._replies) > MOST:
                self._replies.popitem(last=False)


def key_of(request: Request) -> Key:
    """What two requests have in common that are one."""
    return request.id, request.model, request.manifest, request.cut
