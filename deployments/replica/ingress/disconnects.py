"""Who still waits for an answer: the work for a client that has left is cancelled, at next to no cost for the others.

Ray Serve watches every connection itself, with two tasks a request. Who sends `packet.UNWATCHED` asks it not to, and
is watched from here: a request that is answered soon costs two entries in a set, and only one that takes longer than
`LOOK_AFTER_S` a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

#: A request that takes so long, or at most twice so long, is watched.
LOOK_AFTER_S = 0.05

T = TypeVar("T")


class Disconnected(Exception):
    """The client left; nobody waits for an answer."""


@dataclass(eq=False, slots=True)
class _Open:
    """A request at work: the task that serves it, and where word comes from that its client has left."""

    task: asyncio.Task[Any]
    receive: Receive
    watch: asyncio.Task[None] | None = None
    left: bool = False

    async def until_left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self.task.cancel()


class Connections:
    """Of one ASGI application. Use it from one event loop only."""

    def __init__(self) -> None:
        self._new: set[_Open] = set()  # since the last look
        self._old: set[_Open] = set()  # since the one before
        self._timer: asyncio.TimerHandle | None = None

    async def while_there(self, receive: Receive, work: Awaitable[T]) -> T:
        """What `work` gives. It is cancelled when the client leaves.

        Args:
            receive: of the ASGI connection; the request's body has been read from it.

        Raises:
            Disconnected: the client has left.
        """
        task = asyncio.current_task()
        assert task is not None, "an ASGI application runs in a task"
        one = _Open(task, receive)
        self._new.add(one)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._look)
        try:
            return await work
        except asyncio.CancelledError:
            if one.left:
                raise Disconnected from None
            raise
        finally:
            self._new.discard(one)
            self._old.discard(one)
            if one.watch is not None:
                one.watch.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self._old:
            one.watch = loop.create_task(one.until_left())
        self._old, self._new = self._new, set()
        self._timer = loop.call_later(LOOK_AFTER_S, self._look) if self._old else None
