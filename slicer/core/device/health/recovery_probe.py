"""Finding out that the server is back, for a device that goes on without it: a copy of a request that failed is sent
now and then, for which nobody waits. No request's deadline depends on it, and it comes however rarely images do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ...common.clock import Clock
from ...errors import HeadTailError
from ...protocol.messages import RETRYABLE, Answer, Refusal, Request
from .circuit_breaker import CircuitBreaker

#: Refusals that a device can make up for by finishing alone; the others are about the request itself.
ALONE_CODES = RETRYABLE | {"too_late", "failed"}

Send = Callable[[Sequence[Request]], Awaitable[list[Answer]]]
Reload = Callable[[str], Awaitable[None]]


class RecoveryProbe:
    """One device's. Used on its event loop.

    Args:
        breaker: asked when to send, and told what came of it.
        reload: replaces the head of a manifest that the server does not serve any more.
    """

    def __init__(self, breaker: CircuitBreaker, clock: Clock, reload: Reload) -> None:
        self._breaker, self._clock, self._reload = breaker, clock, reload
        self._task: asyncio.Task[None] | None = None

    def begin(self, send: Send, request: Request, patience_s: float) -> None:
        """From now on until the server is back. One that runs already goes on.

        Args:
            send: to the server; its answer counts only if it comes within `patience_s`, as it would for a new image.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(send, request, patience_s))

    async def end(self) -> None:
        """The device closes, or turns to another server."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, send: Send, request: Request, patience_s: float) -> None:
        breaker, time = self._breaker, self._clock.now_s
        while not breaker.closed:
            await self._clock.until(time() + breaker.pause_left_s(time()))
            if breaker.closed or not breaker.may_try(time()):
                continue
            try:
                [answer] = await asyncio.wait_for(send([request]), patience_s)
                refusal = answer.code if isinstance(answer, Refusal) else ""
                if refusal == "stale":
                    await self._reload(request.manifest)
            except (asyncio.TimeoutError, HeadTailError):
                breaker.failed(time(), probe=True)
            except BaseException:
                breaker.said_nothing()
                raise
            else:
                if refusal in ALONE_CODES:
                    breaker.failed(time(), probe=True)
                else:
                    breaker.answered()
