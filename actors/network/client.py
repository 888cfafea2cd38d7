"""A server seen through what stands between it and a device: shared by several, or behind a link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from typing_extensions import override

from actors.network.link import ChangingLink, Link
from slicer.core.network.server import ENVELOPE_BYTES, Server, ServerWrapper
from slicer.core.protocol.endpoints import Endpoint
from slicer.core.protocol.messages import Answer, Request, answer_bytes

T = TypeVar("T")


class Kept(ServerWrapper):
    """A server that several devices share: none of them closes it, or tells it of its own run; who made it does."""

    @override
    def begin(self, seed: str) -> None:
        pass

    @override
    async def close(self) -> None:
        pass


class LinkedServer(ServerWrapper):
    """A server behind a link: every payload crosses the link on its way there and back."""

    def __init__(self, server: Server, link: Link) -> None:
        super().__init__(server)
        self._link = link

    @override
    def begin(self, seed: str) -> None:
        if isinstance(self._link, ChangingLink):
            self._link.begin(seed)
        super().begin(seed)

    @override
    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        await self._link.send(ENVELOPE_BYTES)
        answer = await super().ask(endpoint, *arguments)
        await self._link.receive(endpoint.payload_bytes(answer) + ENVELOPE_BYTES)
        return answer

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        await self._link.send(sum(len(request.payload) + ENVELOPE_BYTES for request in requests))
        answers = await super().infer(requests)
        await self._link.receive(sum(answer_bytes(answer) + ENVELOPE_BYTES for answer in answers))
        return answers
