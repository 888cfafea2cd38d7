"""How a device's requests reach the server by HTTP: the client's own connection, with a device's patience.

A device that is a Ray actor learns the address from the server (`ServedModel.url`); one outside Ray is told it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
from typing_extensions import override

from ..client.connection import FOREIGN_BYTES, ComeAgain, Connection, one_line
from ..client.retries import patiently
from ..common.addresses import application_url
from ..errors import ServerError
from ..protocol.endpoints import Endpoint
from ..protocol.messages import Answer, Request
from .server import CONTROL_TIMEOUT_S, Server

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
            body = await response.content.read(FOREIGN_BYTES) if response.status == 200 else b""
        routes = json.loads(body)
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, RecursionError):
        return
    if not isinstance(routes, dict) or not routes or f"/{name}" in routes:
        return
    there = ", ".join(one_line(f"{above}{route}") for route in sorted(routes))
    what = f"no application {name!r} at {above}" if name else f"{above} is the address of no application"
    raise ServerError(f"{what}; there are {there}: give one of these, or start it with headtail serve --name NAME")


class HttpTransport(Server):
    """`Server` over HTTP; one session. Made anywhere, used on one event loop.

    What is not the server's own answer (`client.connection`) makes infer() raise ServerError, and its caller
    sends again within its budget; ask() tries again for `patience_s` and then says what it saw.

    Args:
        url, token: as of `Connection`.
        patience_s: how long ask() may take, all attempts together.

    Raises:
        ConfigError: url or token cannot be used.
    """

    def __init__(self, url: str, token: str | None = None, *, patience_s: float = CONTROL_TIMEOUT_S) -> None:
        self.connection = Connection(url, token)
        self._patience_s = patience_s

    @override
    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        return await patiently(
            lambda left_s: self.connection.ask(endpoint, *arguments),
            within_s=self._patience_s,
            again=lambda error: isinstance(error, ComeAgain),
            who=f"{self.connection.url}{endpoint.url(arguments)[0]}",
        )

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        return await self.connection.infer_requests(requests)

    @override
    async def close(self) -> None:
        await self.connection.close()
