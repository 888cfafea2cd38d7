"""The HTTP way in: a small ASGI application over the same methods that the Serve handle calls.

::

    POST /<app>/infer                            a packet of one or several requests -> a packet of their answers
    GET  /<app>/describe?model=NAME              what a device learns when it joins, as JSON
    GET  /<app>/shard/<sha256>?offset=&length=   a piece of a shard
    GET  /<app>/health                           200 while the replica can serve; needs no token

`describe`, `shard` and others that devices ask are declared in `slicer.protocol.endpoints`; nothing here names them.

Behind HAProxy each replica answers these itself. Raw ASGI, because a framework's request and response objects would be
most of the cost of a request. The body is joined once; payloads are views into it until a row is decoded in place. A
client that leaves takes its rows with it (`deployments.replica.disconnects`).
Bad input is answered with 4xx and ``{"error": ...}`` and touches no other request. Every response has the header
`packet.SERVER_HEADER`, by which clients tell it from what a proxy on the way says.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs

from deployments.replica.disconnects import Connections, Disconnected, Receive
from slicer.errors import CodecError
from slicer.protocol import packet
from slicer.protocol.endpoints import ENDPOINTS, JSON, Endpoint
from slicer.protocol.messages import Answer, Refusal, Request

Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_JSON = JSON.encode()
_MOST_FIELDS = 10
_PACKET = packet.CONTENT_TYPE.encode()
_OURS = (packet.SERVER_HEADER.encode(), b"%d" % packet.VERSION)


class Inference(Protocol):
    """What the ingress needs of a server; `TailServer` is one. All methods run on the ingress's event loop.

    Beside these, a method for each of `ENDPOINTS`, with its name and arguments.
    """

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        """Every request answered for itself, in order."""

    async def check_health(self) -> None:
        """Raises if the replica cannot serve."""


class Problem(Exception):
    """A request that is answered with an HTTP error; internal to this module."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Ingress:
    """The ASGI application.

    Args:
        server: what answers.
        token: what ``Authorization: Bearer`` must hold; empty: everyone may ask.
        max_body_bytes: longer bodies are refused with 413 before they are read, where they say how long they are.
    """

    def __init__(self, server: Inference, *, token: str = "", max_body_bytes: int = 64 << 20) -> None:
        self._server = server
        self._secret = f"Bearer {token}".encode() if token else b""
        self._max_body_bytes = max_body_bytes
        self._connections = Connections()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                status, kind, body = await self._answer(scope, receive)
            except Problem as problem:
                status, kind, body = problem.status, _JSON, json.dumps({"error": str(problem)}).encode()
            except Disconnected:
                return
            headers = [_OURS, (b"content-type", kind), (b"content-length", b"%d" % len(body))]
            if status == 413:
                headers.append((b"connection", b"close"))  # the rest of that body is of no use to anyone
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        name, _, rest = path.lstrip("/").partition("/")
        method = scope["method"]
        if name == "health" and not rest:
            _expect(method, "GET")
            return await self._health()
        headers = dict(scope["headers"])
        self._authorise(headers.get(b"authorization", b""))
        if name == "infer" and not rest:
            _expect(method, "POST")
            return await self._infer(await self._body(headers, receive), receive)
        for endpoint in ENDPOINTS:
            if name == endpoint.name and bool(rest) == bool(endpoint.in_path):
                _expect(method, "GET")
                return await self._ask(endpoint, rest, bytes(scope.get("query_string", b"")))
        there = ", ".join(["/infer", *(endpoint.route for endpoint in ENDPOINTS)])
        raise Problem(404, f"nothing at {path[:200]!r}; there are {there} and /health")

    def _authorise(self, given: bytes) -> None:
        if self._secret and not hmac.compare_digest(given, self._secret):
            raise Problem(401, "a missing or wrong token; send `Authorization: Bearer <HEADTAIL_TOKEN of the server>`")

    async def _infer(self, body: bytes, receive: Receive) -> tuple[int, bytes, bytes]:
        try:
            requests = packet.decode_requests(body)
        except CodecError as error:
            raise Problem(400, str(error)) from None
        answers = await self._connections.while_there(receive, self._server.infer_parcel(requests))
        return 200, _PACKET, packet.encode_answers(answers)

    async def _ask(self, endpoint: Endpoint[Any], rest: str, text: bytes) -> tuple[int, bytes, bytes]:
        arguments = _arguments(endpoint, rest, text)
        try:
            answer = await endpoint.method_of(self._server)(*arguments)
        except tuple(endpoint.raises) as error:
            status = next(status for kind, status in endpoint.raises.items() if isinstance(error, kind))
            # str() of a KeyError is the repr of what was not found
            raise Problem(status, str(error.args[0] if isinstance(error, KeyError) else error)) from None
        if isinstance(answer, Refusal):
            raise Problem(404, answer.message)
        return 200, endpoint.content_type.encode(), endpoint.encode(answer)

    async def _health(self) -> tuple[int, bytes, bytes]:
        try:
            await self._server.check_health()
        except Exception as error:  # whatever it is, it is why this replica cannot serve
            raise Problem(503, str(error)) from error
        return 200, _JSON, b'{"status": "ok"}'

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        said = headers.get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > self._max_body_bytes):
            raise self._too_long(said[:20].decode())
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                raise self._too_long(f"more than {self._max_body_bytes}")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_long(self, size: str) -> Problem:
        return Problem(413, f"a body of {size} bytes; at most {self._max_body_bytes} (http.max_body_bytes)")


def _expect(method: str, want: str) -> None:
    if method != want:
        raise Problem(405, f"method {method[:20]}; use {want} here")


def _arguments(endpoint: Endpoint[Any], rest: str, text: bytes) -> list[str | int]:
    """Those of the path and the query, in the method's order."""
    try:
        query = parse_qs(text.decode("latin-1"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        known = ", ".join(name for name in endpoint.arguments if name != endpoint.in_path)
        raise Problem(400, f"a query of more than {_MOST_FIELDS} fields; there are: {known}") from None
    if endpoint.in_path:
        query[endpoint.in_path] = [rest]
    return [
        _whole(query, name) if kind is int else query.get(name, [""])[0] for name, kind in endpoint.arguments.items()
    ]


def _whole(query: Mapping[str, list[str]], key: str) -> int:
    text = query.get(key, ["0"])[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Problem(400, f"{key}={text[:40]!r}; it must be a whole number")
    return int(text)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
