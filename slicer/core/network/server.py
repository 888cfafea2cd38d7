"""What a device asks of a server, however it reaches it: the protocol `Server`, and a wrapper of one.

The transports that implement it: `http_transport` beside this, and in `actors.network` the Serve handle, and one that
chooses between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from typing_extensions import override

from ..errors import ServerError
from ..protocol.endpoints import DESCRIBE, SHARD, Endpoint
from ..protocol.messages import Answer, Request, ServedModel

#: How long a control call (a description, a piece of a shard) may take.
CONTROL_TIMEOUT_S = 30.0

#: What a request or an answer weighs beside its payload (id, digest, shape, timings), in bytes: a round figure.
ENVELOPE_BYTES = 300

T = TypeVar("T")


class Server(Protocol):
    """How a device reaches the server's application. All calls come from the device's event loop, and may overlap.

    A transport implements `ask` and `infer`. The methods for the endpoints stand here once and ask; a stand-in, or a
    transport that has more to do, overrides the method instead.
    """

    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        """The answer to any of `protocol.endpoints`.

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
