"""How requests reach the server by HTTP: packets over kept-alive connections, from inside Ray or from outside.

A device that is a Ray actor learns the address from the server (`ServedModel.url`); one outside Ray is told it.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from typing_extensions import override

from actors.network.client import Server
from actors.network.serve_transport import CONTROL_TIMEOUT_S
from slicer.common.addresses import application_url, bearer_token
from slicer.errors import CodecError, ServerError
from slicer.protocol import packet
from slicer.protocol.endpoints import Endpoint
from slicer.protocol.messages import Answer, Request

#: The pauses between attempts at a server that has no replica at the moment: the first, and the longest.
_PAUSE_S, _MAX_PAUSE_S = 0.25, 2.0

#: What is read of a response that is not the server's own, and for how long: enough for a message.
_FOREIGN_BYTES, _FOREIGN_S = 4096, 2.0

#: aiohttp warns of bytes objects above this size, which it writes in one go; a file object it writes in parts.
_LARGE_BYTES = 1 << 20

_INFER = {"Content-Type": packet.CONTENT_TYPE, **packet.UNWATCHED}


#: How long a proxy may take to say which applications it has.
_ROUTES_S = 5.0

T = TypeVar("T")


async def check_application(url: str) -> None:
    """Refuse an address whose server has applications, but none of this name; at once, where ask() would be patient.

    Serve's proxy is asked for what it routes. Where it does not answer that, or has no application yet, nothing is
    known and nothing is refused. No token is sent.

    Args:
        url: of the application, as for `HttpTransport`.

    Raises:
        ConfigError: url cannot be used.
        ServerError: there are only applications of other names; the message has their addresses.
    """
    url = application_url(url)
    above, name = url, ""
    if urlsplit(url).path:
        above, _, name = url.rpartition("/")
    try:
        timeout = aiohttp.ClientTimeout(total=_ROUTES_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{above}/-/routes", allow_redirects=False) as response,
        ):
            body = await response.content.read(_FOREIGN_BYTES) if response.status == 200 else b""
        routes = json.loads(body)
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, RecursionError):
        return
    if not isinstance(routes, dict) or not routes or f"/{name}" in routes:
        return
    there = ", ".join(_one_line(f"{above}{route}") for route in sorted(routes))
    what = f"no application {name!r} at {above}" if name else f"{above} is the address of no application"
    raise ServerError(f"{what}; there are {there}: give one of these, or start it with headtail serve --name NAME")


class ComeAgain(ServerError):
    """What lies before the server has none to ask at the moment, or lost it: the same request may work soon."""


class HttpTransport(Server):
    """`Server` over HTTP; one session. Made anywhere, used on one event loop.

    A response that lacks the server's own header is not the server's: while a replica is replaced, HAProxy answers 404
    and 500 for itself. infer() raises ServerError then, and its caller sends again within its budget; ask() tries
    again for `patience_s` and then says what it saw.

    Args:
        url: of the application, such as ``http://10.0.0.7:8000/headtail``.
        token: what the server wants as bearer token; default: HEADTAIL_TOKEN of this process.
        patience_s: how long ask() may take, all attempts together.

    Raises:
        ConfigError: url or token cannot be used.
    """

    def __init__(self, url: str, token: str | None = None, *, patience_s: float = CONTROL_TIMEOUT_S) -> None:
        self._url = application_url(url)
        if token is None:
            self._token = bearer_token(os.environ.get("HEADTAIL_TOKEN", ""), "HEADTAIL_TOKEN")
        else:
            self._token = bearer_token(token, f"the token for {self._url}")
        self._patience_s = patience_s
        self._session: aiohttp.ClientSession | None = None

    @override
    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        status, body = await self._control(*endpoint.url(arguments))
        if status == 404:
            raise endpoint.refusal(arguments, self._url, _error(body))
        self._check(status, body)
        try:
            return endpoint.decode(body)
        except ValueError as error:
            raise ServerError(f"{self._url} is no HeadTail server of this release: {error}") from error

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        body = packet.encode_requests(requests)
        data = io.BytesIO(body) if len(body) > _LARGE_BYTES else body
        status, answered = await self._send("POST", "/infer", data=data, headers=_INFER)
        self._check(status, answered)
        try:
            answers = packet.decode_answers(answered)
        except CodecError as error:
            raise ServerError(f"{self._url} is no HeadTail server of this release: {error}") from error
        if len(answers) != len(requests):
            raise ServerError(
                f"{self._url} answered {len(answers)} of {len(requests)} requests; it is of another release"
            )
        return answers

    @override
    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _control(self, path: str, params: dict[str, str]) -> tuple[int, bytes]:
        seen: list[ComeAgain] = []

        async def ask() -> tuple[int, bytes]:
            pause_s = _PAUSE_S
            while True:
                try:
                    return await self._send("GET", path, params=params)
                except ComeAgain as error:
                    seen.append(error)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)

        try:
            return await asyncio.wait_for(ask(), self._patience_s)
        except asyncio.TimeoutError:
            if seen:
                raise ServerError(f"{seen[-1]}; gave up after {self._patience_s:g} s") from None
            raise ServerError(f"{self._url}{path} did not answer within {self._patience_s:g} s; is it up?") from None

    async def _send(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Status and body of a response of the server itself.

        Raises:
            ComeAgain: HAProxy or another proxy answered that it has no server now, or the connection broke.
            ServerError: the server cannot be reached, or something else answers at its address.
        """
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            # No limit of connections, and no time-out: a request that waits in the server holds its connection.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), headers=headers
            )
        try:
            # No redirect is followed: the server sends none, and the token is for nobody else.
            async with self._session.request(method, self._url + path, allow_redirects=False, **options) as response:
                if packet.SERVER_HEADER in response.headers:
                    return response.status, await response.read()
                raise await self._foreign(response)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionResetError) as error:
            raise ComeAgain(f"{self._url} broke off: {type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(f"{self._url} cannot be reached: {type(error).__name__}: {error}") from error

    async def _foreign(self, response: aiohttp.ClientResponse) -> ServerError:
        """What a response without the server's header means."""
        try:
            body = await asyncio.wait_for(response.content.read(_FOREIGN_BYTES), _FOREIGN_S)
        except asyncio.TimeoutError:
            body = b""
        response.close()  # the rest may be long
        status, text = response.status, _one_line(response.headers.get("Location", "")) or _error(body)
        if status in (404, 408, 425, 429) or status >= 500:
            return ComeAgain(
                f"{self._url} has no replica to ask, or is not HeadTail (its proxy answered {status}: {text})"
            )
        return ServerError(f"{self._url} is no HeadTail server of this release; {status} was answered: {text}")

    def _check(self, status: int, body: bytes) -> None:
        if status != 200:
            raise ServerError(f"{self._url} answered {status}: {_error(body)}")


def _error(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):  # proxies answer in plain text or HTML
        return _one_line(body[:_FOREIGN_BYTES].decode("utf-8", "replace")) or "an empty body"


def _one_line(text: str) -> str:
    """Of a foreign text: printable, and short enough for a message."""
    words = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:200]
