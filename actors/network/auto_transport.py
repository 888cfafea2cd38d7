"""Which way requests take to the server: the Serve handle, HTTP, or whichever of the two works and is faster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal, TypeVar

from typing_extensions import override

from actors.network.serve_transport import ServeTransport
from slicer.core.network.http_transport import HttpTransport
from slicer.core.network.server import Server
from slicer.core.protocol.endpoints import Endpoint
from slicer.core.protocol.messages import Answer, Request, ServedModel
from slicer.errors import HeadTailError, ServerError

logger = logging.getLogger("headtail.network")

Way = Literal["auto", "handle", "http"]

#: How long an address that the server tells may take to answer before the handle is used instead.
_TRY_S = 5.0

T = TypeVar("T")


class AutoTransport(Server):
    """The faster way that works: HTTP where the server tells an address that answers from here, else the handle.

    The handle is asked for the description each time, so a server that is restarted elsewhere is found again; when a
    request fails by HTTP it is asked anew, beside the requests.
    """

    def __init__(self, app: str) -> None:
        self._handle = ServeTransport(app)
        self._http: HttpTransport | None = None
        self._tried = ("", "")  # address and token
        self._model = ""
        self._looking: asyncio.Task[None] | None = None

    @override
    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        return await (self._http or self._handle).ask(endpoint, *arguments)

    @override
    async def describe(self, model: str) -> ServedModel:
        served = await self._handle.describe(model)
        self._model = model
        if (served.url, served.token) != self._tried:
            await self._turn_to(served)
        return served

    async def _turn_to(self, served: ServedModel) -> None:
        """HTTP where it answers from here; a firewall between must not cost a request."""
        before, http = self._http, None
        if served.url:
            try:
                http = HttpTransport(served.url, served.token or None)
                await asyncio.wait_for(http.describe(served.name), _TRY_S)
            except (HeadTailError, asyncio.TimeoutError) as error:
                if http is not None:
                    await http.close()
                http = None
                why = str(error) or f"no answer within {_TRY_S:g} s"
                logger.warning("%s cannot be used from here (%s); requests go by the Serve handle", served.url, why)
        self._http, self._tried = http, (served.url, served.token)
        if before is not None:
            await before.close()

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        if self._http is None:
            return await self._handle.infer(requests)
        try:
            return await self._http.infer(requests)
        except ServerError:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_again())
            raise

    async def _look_again(self) -> None:
        """Where the server is now; requests that fail meanwhile are their devices' to repeat."""
        try:
            await self._turn_to(await self._handle.describe(self._model))
        except HeadTailError as error:
            logger.info("no server to turn to yet: %s", error)

    @override
    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
        await self._handle.close()


def make_transport(way: Way, app: str, url: str = "") -> Server:
    """What a device sends through. `url` is for `http` only. Raises ConfigError."""
    if way == "http":
        return HttpTransport(url)
    return AutoTransport(app) if way == "auto" else ServeTransport(app)
