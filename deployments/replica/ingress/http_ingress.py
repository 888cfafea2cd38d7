"""The HTTP way in: a small ASGI application over the same methods that the Serve handle calls.

::

    GET  /<app>/v2 ...                           the Open Inference Protocol (`open_inference_routes`)
    POST /<app>/predict?model=&top_k=            an image file -> its classes, as JSON
    GET  /<app>/openapi.json                     a description of all of this
    GET  /<app>/describe?model=NAME              what a device learns when it joins, as JSON
    GET  /<app>/shard/<sha256>?offset=&length=   a piece of a shard
    GET  /<app>/health                           200 while the replica can serve; needs no token
    GET  /<app>/device/                          the page that makes a browser a device (`web_page`); needs no token
    POST /<app>/infer                            deprecated: a packet of requests -> a packet of their answers

`describe`, `shard` and others that devices ask are declared in `slicer.core.protocol.endpoints`; nothing here
names them.

Behind HAProxy each replica answers these itself. Raw ASGI, because a framework's request and response objects would be
most of the cost of a request. The body is joined once; payloads are views into it until a row is decoded in place. A
client that leaves takes its rows with it (`disconnects`). Bad input is answered with 4xx and ``{"error": ...}`` and
touches no other request. Every response has the header `packet.SERVER_HEADER`, by which clients tell it from what a
proxy on the way says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from deployments.replica.ingress.bearer import has_token
from deployments.replica.ingress.cors import Cors
from deployments.replica.ingress.disconnects import Connections, Disconnected, Receive
from deployments.replica.ingress.open_inference import OpenInference, Refused, Server
from deployments.replica.ingress.openapi import openapi
from deployments.replica.ingress.web_page import WebPage
from slicer.core.protocol import packet
from slicer.core.protocol.endpoints import BINARY, ENDPOINTS, JSON, Endpoint
from slicer.core.protocol.messages import RETRYABLE, Refusal
from slicer.core.protocol.oip import fast_path, http_body, http_writing, metadata
from slicer.core.protocol.oip.status import http_status
from slicer.errors import BadRequestError, CodecError

logger = logging.getLogger("headtail.server")

Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

#: Status, headers (the type of the content among them), body.
Response = tuple[int, list[tuple[bytes, bytes]], bytes]

_MOST_FIELDS = 10
_OURS = (packet.SERVER_HEADER.encode(), b"%d" % packet.VERSION)
_LENGTH = http_body.LENGTH_HEADER.lower().encode()
_JSON = [(b"content-type", JSON.encode())]
_BINARY = [(b"content-type", BINARY.encode())]
_PACKET = [(b"content-type", packet.CONTENT_TYPE.encode()), (b"deprecation", b"true")]

#: Of these a length would be that of the body that is left out.
_WITHOUT_BODY = (204, 304)

#: What a client whose request cannot be had now may do: try again after so many seconds.
_COME_AGAIN = (b"retry-after", b"1")


class Problem(Exception):
    """A request that is answered with an HTTP error; internal to this module."""

    def __init__(self, status: int, message: str, refusal: Refusal | None = None) -> None:
        super().__init__(message)
        self.status, self.refusal = status, refusal

    def response(self) -> Response:
        """What the client gets."""
        body = {"error": str(self)} if self.refusal is None else http_writing.refusal_json(self.refusal)
        return self.status, [*_JSON, _COME_AGAIN] if self.status == 503 else _JSON, json.dumps(body).encode()


def refused(refusal: Refusal) -> Problem:
    """Of a refusal."""
    return Problem(http_status(refusal.code), refusal.message, refusal)


class Ingress:
    """The ASGI application.

    Args:
        server: what answers; beside the methods of `Server` it has one for each of `ENDPOINTS`, with its name and
            arguments.
        token: what ``Authorization: Bearer`` must hold; empty: everyone may ask.
        max_body_bytes: longer bodies are refused with 413 before they are read, where they say how long they are.
        page: what lies under ``/device/``; None: nothing does.
        cors: which pages of other origins may ask.
    """

    def __init__(
        self,
        server: Server,
        *,
        token: str = "",
        max_body_bytes: int = 64 << 20,
        page: WebPage | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._server = server
        self._inference = OpenInference(server)
        self._secret = token.encode()
        self._max_body_bytes = max_body_bytes
        self._page, self._cors = page, cors or Cors()
        self._connections = Connections()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                status, headers, body = await self._answer(scope, receive)
            except Problem as problem:
                status, headers, body = problem.response()
            except Refused as problem:
                status, headers, body = refused(problem.refusal).response()
            except BadRequestError as error:
                status, headers, body = refused(Refusal("", "bad_request", str(error))).response()
            except Disconnected:
                return
            headers = [_OURS, *headers, *self._cors.headers(scope["headers"])]
            if status not in _WITHOUT_BODY:
                headers.append((b"content-length", b"%d" % len(body)))
            if status == 413:
                headers.append((b"connection", b"close"))  # the rest of that body is of no use to anyone
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        name, _, rest = path.lstrip("/").partition("/")
        method = scope["method"]
        if name == "health" and not rest:
            _expect(method, "GET")
            return await self._health()
        if name == "v2" and (asked := rest.rstrip("/")) in ("health/live", "health/ready"):
            _expect(method, "GET")
            return await self._v2_health(asked)
        headers = dict(scope["headers"])
        if name == "device" and self._page is not None:
            _expect(method, "GET")
            return self._device(self._page, path, rest, headers)
        if (said := self._cors.preflight(method, headers)) is not None:
            return 204, said, b""
        self._authorise(headers.get(b"authorization", b""))
        if name == "v2":
            return await self._v2(method, rest.rstrip("/"), headers, receive)
        query = bytes(scope.get("query_string", b""))
        if name == "predict" and not rest:
            _expect(method, "POST")
            return await self._predict(headers, query, receive)
        if name == "openapi.json" and not rest:
            _expect(method, "GET")
            return _json(openapi(bool(self._secret)))
        if name == "infer" and not rest:
            _expect(method, "POST")
            return await self._packet(headers, receive)
        for endpoint in ENDPOINTS:
            if name == endpoint.name and bool(rest) == bool(endpoint.in_path):
                _expect(method, "GET")
                return await self._ask(endpoint, rest, query)
        there = ", ".join(["/v2", "/predict", *(endpoint.route for endpoint in ENDPOINTS)])
        raise Problem(404, f"nothing at {path[:200]!r}; there are {there}, /openapi.json and /health")

    def _device(self, page: WebPage, path: str, rest: str, headers: Mapping[bytes, bytes]) -> Response:
        if path.endswith("/device"):  # the page's own addresses begin at the folder
            return 307, [(b"location", b"device/"), (b"cache-control", b"no-cache")], b""
        answer = page.answer(rest, headers.get(b"if-none-match", b""))
        if answer is None:
            raise Problem(404, f"no file {rest[:200]!r} under /device/; the page itself is /device/")
        return answer

    def _authorise(self, given: bytes) -> None:
        if self._secret and not has_token(given, self._secret):
            raise Problem(401, "a missing or wrong token; send `Authorization: Bearer <HEADTAIL_TOKEN of the server>`")

    async def _v2(self, method: str, rest: str, headers: Mapping[bytes, bytes], receive: Receive) -> Response:
        """Whatever lies under /v2, but for what needs no token."""
        kind, _, of_kind = rest.partition("/")
        if not rest:
            _expect(method, "GET")
            return _json(metadata.server_metadata())
        if kind == "models" and of_kind:
            return await self._v2_model(method, of_kind, headers, receive)
        if kind == "models" or rest == "repository/index":
            _expect(method, "GET", "POST")
            return _json(self._inference.index())
        if rest == "parcel":
            _expect(method, "POST")
            body = await self._body(headers, receive)
            json_bytes = _header(headers, _LENGTH)
            if (rows := self._inference.own_rows(body, json_bytes)) is not None:
                work = self._server.infer_parcel([row.request for row in rows])
                return _inferred(*fast_path.encode_answers(rows, await self._connections.while_there(receive, work)))
            asked = http_body.decode_parcel(body, json_bytes)
            responses = await self._connections.while_there(receive, self._inference.infer(asked))
            return _inferred(*http_writing.encode_responses(responses, asked))
        raise Problem(
            404,
            f"nothing at {'/v2/' + rest[:200]!r}; there are /v2, /v2/health/live, /v2/health/ready, /v2/models, "
            "/v2/models/NAME (and under it /ready, /config, /infer, /versions/VERSION), /v2/parcel",
        )

    async def _v2_model(self, method: str, rest: str, headers: Mapping[bytes, bytes], receive: Receive) -> Response:
        model, version, action = _model_path(rest)
        if action == "infer":
            _expect(method, "POST")
            body = await self._body(headers, receive)
            json_bytes = _header(headers, _LENGTH)
            if not version and (row := self._inference.own_row(body, json_bytes, model)) is not None:
                (answer,) = await self._connections.while_there(receive, self._server.infer_parcel([row.request]))
                if isinstance(answer, Refusal):
                    raise refused(fast_path.refusal(row, answer))
                return _inferred(*fast_path.encode_answer(row, answer))
            asked = http_body.decode_request(body, json_bytes, model, version)
            (response,) = await self._connections.while_there(receive, self._inference.infer([asked]))
            if isinstance(response, Refusal):
                raise refused(response)
            return _inferred(*http_writing.encode_response(response, asked))
        _expect(method, "GET")
        if action == "ready":
            ready = self._inference.model_ready(model, version)
            return _json({"name": model, "ready": ready}, 200 if ready else 404)
        return _json(self._inference.config(model, version) if action else self._inference.metadata(model, version))

    async def _predict(self, headers: Mapping[bytes, bytes], query: bytes, receive: Receive) -> Response:
        kind = headers.get(b"content-type", b"").lower()
        if kind.startswith(b"multipart/"):
            raise Problem(415, "a form; send the image file itself as the body: curl --data-binary @photo.jpg")
        given = _query(query, "model, top_k")
        count = _whole(given, "top_k", 5)
        if not 1 <= count < 1 << 31:
            raise Problem(400, f"top_k={count}; it must be at least 1")
        body = await self._body(headers, receive)
        if not body:
            raise Problem(400, "an empty body; send an image file: curl --data-binary @photo.jpg")
        answer = self._inference.predict(body, model=given.get("model", [""])[0], count=count)
        return _json(await self._connections.while_there(receive, answer))

    async def _packet(self, headers: Mapping[bytes, bytes], receive: Receive) -> Response:
        """The way of devices of the release before this one."""
        try:
            requests = packet.decode_requests(await self._body(headers, receive))
        except CodecError as error:
            raise Problem(400, f"{error}; /v2 has the Open Inference Protocol, /predict takes an image") from None
        answers = await self._connections.while_there(receive, self._server.infer_parcel(requests))
        return 200, _PACKET, packet.encode_answers(answers)

    async def _ask(self, endpoint: Endpoint[Any], rest: str, text: bytes) -> Response:
        arguments = _arguments(endpoint, rest, text)
        try:
            answer = await endpoint.method_of(self._server)(*arguments)
        except tuple(endpoint.raises) as error:
            status = next(status for kind, status in endpoint.raises.items() if isinstance(error, kind))
            # str() of a KeyError is the repr of what was not found
            raise Problem(status, str(error.args[0] if isinstance(error, KeyError) else error)) from None
        if isinstance(answer, Refusal):
            raise Problem(503 if answer.code in RETRYABLE else 404, answer.message, answer)
        return 200, [(b"content-type", endpoint.content_type.encode())], endpoint.encode(answer)

    async def _health(self) -> Response:
        try:
            await self._server.check_health()
        except Exception as error:  # whatever it is, it is why this replica cannot serve
            raise Problem(503, str(error)) from error
        return _json({"status": "ok"})

    async def _v2_health(self, rest: str) -> Response:
        """Both keys in both answers: clients look at one or the other."""
        ready = await self._inference.ready()
        fine = ready or rest == "health/live"
        return _json({"live": True, "ready": ready}, 200 if fine else 503)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        said = headers.get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > self._max_body_bytes):
            raise self._too_long(said[:20].decode())
        coding = headers.get(b"content-encoding", b"identity")
        if coding.lower() != b"identity":
            raise Problem(415, f"content-encoding {coding[:40].decode('latin-1')!r}; send the body as it is")
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


def _json(document: Any, status: int = 200) -> Response:
    return status, _JSON, json.dumps(document).encode()


def _inferred(body: bytes, json_bytes: int | None) -> Response:
    if json_bytes is None:
        return 200, _JSON, body
    return 200, [*_BINARY, (_LENGTH, b"%d" % json_bytes)], body


def _header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _model_path(rest: str) -> tuple[str, str, str]:
    """Model, version and action (empty: its metadata) of what follows /v2/models/. A model's name may hold slashes."""
    before, _, last = rest.rpartition("/")
    action = last if before and last in ("infer", "ready", "config") else ""
    name = before if action else rest
    model, versions, version = name.rpartition("/versions/")
    return (model, version, action) if versions and "/" not in version else (name, "", action)


def _expect(method: str, *want: str) -> None:
    if method not in want and not (method == "HEAD" and "GET" in want):
        raise Problem(405, f"method {method[:20]}; use {' or '.join(want)} here")


def _query(text: bytes, known: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text.decode("latin-1"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Problem(400, f"a query of more than {_MOST_FIELDS} fields; there are: {known}") from None


def _arguments(endpoint: Endpoint[Any], rest: str, text: bytes) -> list[str | int]:
    """Those of the path and the query, in the method's order."""
    query = _query(text, ", ".join(name for name in endpoint.arguments if name != endpoint.in_path))
    if endpoint.in_path:
        query[endpoint.in_path] = [rest]
    return [
        _whole(query, name) if kind is int else query.get(name, [""])[0] for name, kind in endpoint.arguments.items()
    ]


def _whole(query: Mapping[str, list[str]], key: str, default: int = 0) -> int:
    text = query.get(key, [str(default)])[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Problem(400, f"{key}={text[:40]!r}; it must be a whole number")
    return int(text)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
