"""What a device asks of a server, however it reaches it: the protocol `Server`, and wrappers of one.

The transports that implement it: `serve_transport`, `http_transport`, and `auto_transport`, which chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from typing_extensions import override

from actors.network.link import ChangingLink, Link
from slicer.errors import ServerError
from slicer.protocol.endpoints import DESCRIBE, SHARD, Endpoint
from slicer.protocol.messages import Answer, Request, ServedModel

#: What a request or an answer weighs beside its payload (id, digest, shape, timings), in bytes: a round figure.
ENVELOPE_BYTES = 300

T = TypeVar("T")


class Server(Protocol):
    """How a device reaches the server's application. All calls come from the device's event loop, and may overlap.

    A transport implements `ask` and `infer`. The methods for the endpoints stand here once and ask; a stand-in, or a
    transport that has more to do, overrides the method instead.
    """

    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        """The answer to any of `slicer.protocol.endpoints`.

        Raises:
            HeadTailError: `endpoint.error` where the server refuses; ServerError: it cannot be reached.
        """
        raise ServerError(f"{type(self).__name__} has no endpoint {endpoint.name!r}; give it a method of that name")

    async def describe(self, model: str) -> ServedModel:
        """What the application says of `model`. Raises ModelError (unknown there) or ServerError (not reachable)."""
        return await self.ask(DESCRIBE, model)

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a shard, fewer at its end. Raises ServerError or ShardError."""
        return await self.ask(SHARD, sha256, offset, length)

    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests in one call, a parcel, and wait for all answers, however long they queue.

        Returns:
            One answer per request, in their order; each is answered or refused for itself.

        Raises:
            ServerError: the server vanished, before or after it got the requests, or refused the parcel as a whole.
        """

    def begin(self, seed: str) -> None:
        """A run begins: what is emulated on the way changes and draws as in every run of this seed.

        Nothing is, in a transport.
        """
        return

    async def close(self) -> None:
        """Give back what the transport holds. No call may follow."""


class ServerWrapper(Server):
    """Hands every call on to the server within; a class derived from it overrides what it does otherwise."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @override
    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        answer: T = await endpoint.method_of(self._server)(*arguments)
        return answer

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        return await self._server.infer(requests)

    @override
    def begin(self, seed: str) -> None:
        self._server.begin(seed)

    @override
    async def close(self) -> None:
        await self._server.close()


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
        await self._link.receive(sum(len(getattr(answer, "logits", b"")) + ENVELOPE_BYTES for answer in answers))
        return answers
