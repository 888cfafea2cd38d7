"""One server by HTTP: all is sent once; what comes back is the server's own answer, or an error that says whose.

A response that lacks the server's own header is not the server's: while a replica is replaced, HAProxy answers 404 and
500 for itself; a gateway or a captive portal may stand on the way. Nothing here tries again: `client.retries`
does for applications, and devices have budgets of their own.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from ..common.addresses import application_url, bearer_token
from ..errors import BadRequestError, ServerError
from ..protocol import packet
from ..protocol.endpoints import BINARY, Endpoint
from ..protocol.messages import Answer, Refusal, Request
from ..protocol.oip import http_body, http_writing, one_row
from ..protocol.oip.responses import refusal_of
from ..protocol.oip.status import CODES
from ..protocol.oip.tensors import InferRequest, InferResponse

#: What is read of a response that is not the server's own, and for how long: enough for a message.
FOREIGN_BYTES = 4096
_FOREIGN_S = 2.0

#: aiohttp warns of bytes objects above this size, which it writes in one go; a file object it writes in parts.
_LARGE_BYTES = 1 << 20

#: Names that stand in a path as they are and cannot be taken for a part of it. Others travel in the body of a parcel.
_IN_PATH = re.compile(r"(?!\.)[A-Za-z0-9_.@-]{1,200}", re.ASCII)

_INFER = {"Content-Type": BINARY, **packet.UNWATCHED}

T = TypeVar("T")


class ComeAgain(ServerError):
    """What lies before the server has none to ask at the moment, or lost it: the same request may work soon."""


class Unreachable(ServerError):
    """Nobody takes the connection: the address is wrong, or the server is not up."""


class _Response(NamedTuple):
    """Of the server itself. `json_bytes`: the header that says how much of the body is JSON."""

    status: int
    body: bytes
    json_bytes: str | None


class Connection:
    """To one application. Made anywhere, used on one event loop; calls may overlap.

    Args:
        url: of the application, such as ``http://10.0.0.7:8000/headtail``.
        token: what the server wants as bearer token; default: HEADTAIL_TOKEN of this process.

    Attributes:
        url: without a slash at its end.
        answered: the server has answered here before.

    Raises:
        ConfigError: url or token cannot be used.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = application_url(url)
        if token is None:
            self._token = bearer_token(os.environ.get("HEADTAIL_TOKEN", ""), "HEADTAIL_TOKEN")
        else:
            self._token = bearer_token(token, f"the token for {self.url}")
        self.answered = False
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the session
        self._parcel = URL(f"{self.url}/v2/parcel", encoded=True)
        self._models: dict[str, URL] = {}

    async def infer_requests(self, requests: Sequence[Request]) -> list[Answer]:
        """Rows of devices, in one body; all answers come when the last one has.

        Returns:
            One answer per request, in their order; each is answered or refused for itself.

        Raises:
            ComeAgain, ServerError: the server vanished, is another one, or refused the body as a whole.
        """
        if len(requests) == 1 and _IN_PATH.fullmatch((request := requests[0]).model):
            body, json_bytes = one_row.encode_request(request)
            response = await self._infer(self._of_model(request.model), body, json_bytes)
            if response.status != 200:
                return [self._refusal(response, request.id)]
            try:
                return [one_row.decode_answer(response.body, response.json_bytes, request)]
            except BadRequestError as error:
                raise self._foreign_body(error) from error
        body, json_bytes = one_row.encode_parcel(requests)
        response = await self._infer(self._parcel, body, json_bytes)
        self._check(response)
        try:
            answers = one_row.decode_answers(response.body, response.json_bytes, requests)
        except BadRequestError as error:
            raise self._foreign_body(error) from error
        return self._all(answers, requests)

    async def infer(self, requests: Sequence[InferRequest]) -> list[InferResponse | Refusal]:
        """Any requests of the protocol, in one body, as `infer_requests`."""
        if len(requests) == 1 and _IN_PATH.fullmatch((request := requests[0]).model):
            body, json_bytes = http_writing.encode_request(request)
            response = await self._infer(self._of_model(request.model), body, json_bytes)
            if response.status != 200:
                return [self._refusal(response, request.id)]
            try:
                return [http_body.decode_response(response.body, response.json_bytes)]
            except BadRequestError as error:
                raise self._foreign_body(error) from error
        body, json_bytes = http_writing.encode_parcel(requests)
        response = await self._infer(self._parcel, body, json_bytes)
        self._check(response)
        try:
            answers = [
                refusal_of(one, str(one.get("id", ""))) if isinstance(one, dict) else one
                for one in http_body.decode_responses(response.body, response.json_bytes)
            ]
        except BadRequestError as error:
            raise self._foreign_body(error) from error
        return self._all(answers, requests)

    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        """The answer to any of `protocol.endpoints`.

        Raises:
            HeadTailError: `endpoint.error` where the server refuses.
            ComeAgain, ServerError: as `infer_requests`.
        """
        path, params = endpoint.url(arguments)
        response = await self._send("GET", self.url + path, params=params)
        if response.status == 404 or _refused(response.body):
            raise endpoint.refusal(arguments, self.url, text_of(response.body))
        self._check(response)
        try:
            return endpoint.decode(response.body)
        except ValueError as error:
            raise self._foreign_body(error) from error

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and document of what is JSON under the application's address. Raises as `infer_requests`."""
        response = await self._send("GET", self.url + path)
        try:
            return response.status, json.loads(response.body)
        except (ValueError, RecursionError) as error:
            raise self._foreign_body(error) from error

    async def close(self) -> None:
        """Give back the connections; a later call opens new ones."""
        session, self._session, self._loop = self._session, None, None
        if session is not None:
            await session.close()

    def _of_model(self, model: str) -> URL:
        if (url := self._models.get(model)) is None:
            url = self._models[model] = URL(f"{self.url}/v2/models/{quote(model)}/infer", encoded=True)
        return url

    async def _infer(self, url: URL, body: bytes, json_bytes: int) -> _Response:
        headers = {**_INFER, http_body.LENGTH_HEADER: str(json_bytes)}
        data = io.BytesIO(body) if len(body) > _LARGE_BYTES else body
        return await self._send("POST", url, data=data, headers=headers)

    async def _send(self, method: str, url: str | URL, **options: Any) -> _Response:
        """A response of the server itself.

        Raises:
            ComeAgain: HAProxy or another proxy answered that it has no server now, or the connection broke.
            ServerError: the server cannot be reached, or something else answers at its address; or this is another
                event loop than that of earlier calls.
        """
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is not loop:
            raise ServerError(
                f"the client of {self.url} was used on another event loop before; make one in each asyncio.run(), or "
                "use Client"
            )
        if self._session is None:
            self._loop = loop
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            # No limit of connections, and no time-out: a request that waits in the server holds its connection.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), headers=headers
            )
        try:
            # No redirect is followed: the server sends none, and the token is for nobody else.
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                if packet.SERVER_HEADER in response.headers:
                    body = await response.read()
                    self.answered = True
                    return _Response(response.status, body, response.headers.get(http_body.LENGTH_HEADER))
                raise await self._foreign(response)
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"{self.url} cannot be reached: {type(error).__name__}: {error}") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
            raise ComeAgain(f"{self.url} broke off: {type(error).__name__}: {error}") from error
        except ConnectionResetError as error:
            raise ComeAgain(f"{self.url} broke off: {type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(f"{self.url} cannot be reached: {type(error).__name__}: {error}") from error

    async def _foreign(self, response: aiohttp.ClientResponse) -> ServerError:
        """What a response without the server's header means."""
        try:
            body = await asyncio.wait_for(response.content.read(FOREIGN_BYTES), _FOREIGN_S)
        except asyncio.TimeoutError:
            body = b""
        response.close()  # the rest may be long
        status, text = response.status, one_line(response.headers.get("Location", "")) or text_of(body)
        if status in (404, 408, 425, 429) or status >= 500:
            return ComeAgain(
                f"{self.url} has no replica to ask, or is not HeadTail (its proxy answered {status}: {text})"
            )
        return ServerError(f"{self.url} is no HeadTail server of this release; {status} was answered: {text}")

    def _foreign_body(self, error: Exception) -> ServerError:
        return ServerError(f"{self.url} is no HeadTail server of this release: {error}")

    def _refusal(self, response: _Response, request_id: str) -> Refusal:
        """Of the one request that was sent. Raises ServerError: something else is wrong, such as the token."""
        if (document := _refused(response.body)) is not None:
            return refusal_of(document, request_id)
        raise self._wrong(response)

    def _check(self, response: _Response) -> None:
        if response.status != 200:
            raise self._wrong(response)

    def _wrong(self, response: _Response) -> ServerError:
        return ServerError(f"{self.url} answered {response.status}: {text_of(response.body)}")

    def _all(self, answers: list[T], requests: Sequence[Any]) -> list[T]:
        if len(answers) != len(requests):
            raise ServerError(
                f"{self.url} answered {len(answers)} of {len(requests)} requests; it is of another release"
            )
        return answers


def _refused(body: bytes) -> dict[str, Any] | None:
    """The document of a refusal; None: it is none."""
    try:
        document = json.loads(body)
        return document if document["code"] in CODES and isinstance(document["error"], str) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def text_of(body: bytes) -> str:
    """What the body of an error says."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):  # proxies answer in plain text or HTML
        return one_line(body[:FOREIGN_BYTES].decode("utf-8", "replace")) or "an empty body"


def one_line(text: str) -> str:
    """Of a foreign text: printable, and short enough for a message."""
    words = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:200]
