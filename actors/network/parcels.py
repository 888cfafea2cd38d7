"""A gateway: requests of many devices of one process in few calls.

The first request waits a moment for others, and all of them go in one call. All answers of a parcel come when its last
one has, so a slow row delays its neighbours: parcels are for throughput.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from typing_extensions import override

from slicer.core.network.server import Server, ServerWrapper
from slicer.core.protocol.messages import Answer, Request


class Parcels(ServerWrapper):
    """The server for all devices of one process, in few calls. Used on one event loop.

    Args:
        server: where the parcels go.
        gather_s: how long the first of a parcel waits for others.
        most: requests of a parcel.
    """

    def __init__(self, server: Server, *, gather_s: float = 0.002, most: int = 32) -> None:
        super().__init__(server)
        self._gather_s, self._most = gather_s, most
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        # A caller that leaves before its parcel does takes its requests with it: gather() cancels them.
        return await asyncio.gather(*map(self._queued, requests))

    def _queued(self, request: Request) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((request, future))
        if len(self._waiting) >= self._most:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._gather_s, self._send)
        return future

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        parcel = [(request, future) for request, future in self._waiting if not future.done()]
        self._waiting = []
        if parcel:
            call = asyncio.get_running_loop().create_task(self._call(parcel))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, parcel: list[tuple[Request, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._server.infer([request for request, _ in parcel])
        except Exception as error:  # each of them has lost its server
            for _, future in parcel:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(parcel, answers, strict=True):
            if not future.done():
                future.set_result(answer)
