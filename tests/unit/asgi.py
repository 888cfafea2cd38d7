"""An ASGI application on the loopback interface, for tests of a client against it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

from aiohttp import web

from deployments.replica.ingress.http_ingress import Ingress


@contextlib.asynccontextmanager
async def served(app: Ingress) -> AsyncIterator[str]:
    """The URL of `app` while it runs."""

    async def handle(http: web.Request) -> web.Response:
        body = await http.read()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": http.method,
            "path": http.path,
            "root_path": "/headtail",
            "query_string": http.rel_url.raw_query_string.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in http.headers.items()],
        }
        await app(scope, receive, send)
        start, content = sent
        headers = [(name.decode(), value.decode()) for name, value in start["headers"]]
        return web.Response(status=start["status"], headers=headers, body=content["body"])

    server = web.Application(client_max_size=64 << 20)
    server.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/headtail"
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def served_in_a_thread(app: Ingress) -> Iterator[str]:
    """As `served`, for code that blocks."""
    ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        enough = asyncio.Event()
        async with served(app) as url:
            ready.set_result((url, asyncio.get_running_loop(), enough))
            await enough.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    url, loop, enough = ready.result(30)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(enough.set)
        thread.join()
