"""The link between a device and the server: what it costs a payload to cross it.

`DirectLink` adds nothing: the network under the transport is the link. Another link (`actors.network.emulated_link`,
or an own class, ``link: package.module:Class`` in the fleet file) is asked on every crossing and returns when the bytes
would have arrived, so that its time falls into a record's `network_ms`. An own link that emulates something says so in
`emulated`; the word then stands beside every figure that it had a part in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from actors.network.emulated_link import EmulatedLink
from slicer.common.plugins import load_object
from slicer.errors import ConfigError
from slicer.protocol.messages import Answer, Request, ServedModel

#: What a request or an answer weighs beside its payload (id, digest, shape, timings), in bytes: a round figure.
ENVELOPE_BYTES = 300


@runtime_checkable
class Link(Protocol):
    """One device's way to the server and back.

    Each device has a link object of its own; all calls come from the device's event loop, and may overlap. A link that
    loses a request raises `slicer.errors.ServerError`, which the device treats like a vanished server: it tries again.
    One that has a method ``begin(seed)`` is told of the beginning of every run.
    """

    @property
    def emulated(self) -> str:
        """What of this link is emulated, in a few words; empty when nothing is."""

    async def send(self, size_bytes: int) -> None:
        """Return when so many bytes, sent now, have reached the server."""

    async def receive(self, size_bytes: int) -> None:
        """Return when so many bytes, sent by the server now, have reached the device."""


class DirectLink:
    """Nothing emulated: the bytes are the transport's business alone."""

    emulated = ""

    async def send(self, size_bytes: int) -> None:
        """Return at once."""

    async def receive(self, size_bytes: int) -> None:
        """Return at once."""


class Server(Protocol):
    """How a device reaches the server's application. All calls come from the device's event loop, and may overlap."""

    async def describe(self, model: str) -> ServedModel:
        """What the application says of `model`. Raises ModelError (unknown there) or ServerError (not reachable)."""

    async def infer(self, request: Request) -> Answer:
        """Send one request and wait for its answer, however long it queues.

        Raises:
            ServerError: the server vanished, before or after it got the request.
        """

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a shard, fewer at its end. Raises ServerError or ShardError."""

    async def close(self) -> None:
        """Give back what the transport holds. No call may follow."""


class Kept:
    """A server that several devices share: none of them closes it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.describe = server.describe
        self.infer = server.infer
        self.shard = server.shard

    async def close(self) -> None:
        """Nothing: who made the server closes it."""


class LinkedServer:
    """A server behind a link: every payload crosses the link on its way there and back."""

    def __init__(self, server: Server, link: Link) -> None:
        self._server = server
        self._link = link

    def begin(self, seed: str) -> None:
        """A run begins; a link that changes over time does so from here on."""
        if (begin := getattr(self._link, "begin", None)) is not None:
            begin(seed)

    async def describe(self, model: str) -> ServedModel:
        """See `Server`."""
        await self._link.send(ENVELOPE_BYTES)
        served = await self._server.describe(model)
        await self._link.receive(len(served.manifest_json) + ENVELOPE_BYTES)
        return served

    async def infer(self, request: Request) -> Answer:
        """See `Server`."""
        await self._link.send(len(request.payload) + ENVELOPE_BYTES)
        answer = await self._server.infer(request)
        await self._link.receive(len(getattr(answer, "logits", b"")) + ENVELOPE_BYTES)
        return answer

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """See `Server`."""
        await self._link.send(ENVELOPE_BYTES)
        chunk = await self._server.shard(sha256, offset, length)
        await self._link.receive(len(chunk) + ENVELOPE_BYTES)
        return chunk

    async def close(self) -> None:
        """See `Server`."""
        await self._server.close()


def make_link(name: str, options: Mapping[str, Any]) -> Link:
    """``direct``, ``emulated``, or an own class ``package.module:Class``; `options` are its keyword arguments.

    Raises:
        ConfigError: the name is unknown, the class cannot be imported or made, or what it makes is no link.
    """
    if ":" not in name:
        if name == "emulated":
            return EmulatedLink(**options)
        if name != "direct":
            raise ConfigError(
                f"unknown link {name!r}; this build has: direct, emulated; an own link is package.module:Class"
            )
        if options:
            raise ConfigError(f"the direct link takes no options, but got {', '.join(sorted(options))}; remove them")
        return DirectLink()
    try:
        link = load_object(name, "link")(**options)
    except TypeError as error:
        raise ConfigError(f"link {name}: cannot be made with the options {dict(options)}: {error}") from error
    if not isinstance(link, Link):
        raise ConfigError(f"link {name}: a link has `emulated`, `async send(bytes)` and `async receive(bytes)`")
    return link
