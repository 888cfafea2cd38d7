"""A gateway: requests of many devices of one process in few calls.

The first request waits a moment for others, and all of them go in one call. All answers of a parcel come when its last
one has, so a slow row delays its neighbours: parcels are for throughput.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from actors.network.client import Server
from slicer.protocol.messages import Answer, Request, ServedModel


class ParcelServer(Server, Protocol):
    """A server that takes several requests in one call."""

    async def infer_many(self, requests: list[Request]) -> list[Answer]:
        """Each answered for itself, in order. Raises ServerError as `infer`."""


class Gateway:
    """`actors.network.client.Server` for all devices of one process. Used on one event loop.

    Args:
        server: where the parcels go.
        gather_s: how long the first of a parcel waits for others.
        most: requests of a parcel.
    """

    def __init__(self, server: ParcelServer, *, gather_s: float = 0.002, most: int = 32) -> None:
        self._server = server
        self._gather_s, self._most = gather_s, most
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def infer(self, request: Request) -> Answer:
        """See `Server`. A caller that leaves before its parcel does takes its request with it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((request, future))
        if len(self._waiting) >= self._most:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._gather_s, self._send)
        return await future

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
            answers = await self._server.infer_many([request for request, _ in parcel])
        except Exception as error:  # each of them has lost its server
            for _, future in parcel:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(parcel, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def describe(self, model: str) -> ServedModel:
        """See `Server`."""
        return await self._server.describe(model)

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """See `Server`."""
        return await self._server.shard(sha256, offset, length)

    async def close(self) -> None:
        """See `Server`."""
        await self._server.close()
