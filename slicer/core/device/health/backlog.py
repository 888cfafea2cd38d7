"""What waits for a server that is away, on a device that cannot go on alone, and in which order it is sent again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from ...common.clock import Clock
from ...errors import ServerError
from .circuit_breaker import CircuitBreaker

#: When the server is back, so many of the requests that waited for it are on their way at the same time.
AT_ONCE = 2


class Backlog:
    """The requests of a device that cannot go on alone, while its server is away. Used on one event loop.

    While the server is there they pass at once. Once it is away one at a time may try, as `CircuitBreaker` says. When
    it is back the others follow, the oldest first, AT_ONCE at the same time, so that what was kept back does not come
    in one wave. Silence counts as well: Serve's handle keeps what it is given while there is no replica, and lets it
    all go then.
    """

    def __init__(self, breaker: CircuitBreaker, clock: Clock) -> None:
        self._breaker, self._clock = breaker, clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._news = asyncio.Event()
        self._inside = 0
        self._heard_s = 0.0  # when an answer came, or else the first of those inside was sent

    @contextlib.asynccontextmanager
    async def passage(self, until_s: float, patience_s: float) -> AsyncIterator[bool]:
        """Enter when a request may be sent, and stay inside until it has ended; whether it is the probe.

        Args:
            until_s: how long to wait.
            patience_s: a server that answers none of those inside for so long is taken to be away.

        Raises:
            ServerError: the server was away until then.
        """
        now_s = self._clock.now_s()
        if self._inside and now_s - self._heard_s > patience_s:
            self._breaker.failed(now_s)
        if self._breaker.closed:
            with self._one_more():
                yield False
            return
        try:
            await asyncio.wait_for(self._places.acquire(), until_s - self._clock.now_s())
        except asyncio.TimeoutError:
            raise ServerError("the server stayed away") from None
        probe = False
        try:
            probe = await self._may_try(until_s)
            with self._one_more():
                yield probe
        finally:
            if probe and not self._breaker.closed:
                self._breaker.said_nothing()  # harmless after failed()
            self._places.release()
            self._tell()

    @contextlib.contextmanager
    def _one_more(self) -> Iterator[None]:
        if not self._inside:
            self._heard_s = self._clock.now_s()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def _may_try(self, until_s: float) -> bool:
        while not self._breaker.may_try(now_s := self._clock.now_s()):
            if now_s >= until_s:
                raise ServerError("the server stayed away")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(self._breaker.pause_left_s(now_s), until_s - now_s))
        return not self._breaker.closed

    def answered(self) -> None:
        """An answer came, whatever it says."""
        self._heard_s = self._clock.now_s()
        if not self._breaker.closed:
            self._breaker.answered()
            self._tell()

    def failed(self, *, probe: bool) -> None:
        """No answer came, or the server said that it stops."""
        self._breaker.failed(self._clock.now_s(), probe=probe)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
