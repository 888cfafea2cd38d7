"""How requests reach the server from inside Ray: through the application's Serve handle, by its gRPC transport.

By reference, each call would put its payload into Ray's object store first, which costs about twice the server CPU at
activation sizes; `_by_reference=False` sends it straight to the replica. Serve reads its RAY_SERVE_* settings when
it is imported, once per process, so a device actor gets `DEVICE_ENV` through its runtime environment.

`slicer.core.network.http_transport` is the other way in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from typing_extensions import override

from slicer.common.ray_serve_env import environment
from slicer.core.common.error_text import first_line, named_line
from slicer.core.network.server import CONTROL_TIMEOUT_S, Server
from slicer.core.protocol.endpoints import Endpoint
from slicer.core.protocol.messages import Answer, Refusal, Request
from slicer.errors import ServerError

#: The environment of every device actor. One thread for torch's pools, since a node holds many devices; the others are
#: of `slicer.common.ray_serve_env`.
DEVICE_ENV: dict[str, str] = {**environment("device"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

T = TypeVar("T")


def running_applications() -> str:
    """The names of the applications on this Ray, for a message; empty where none runs. Blocking."""
    from ray import serve

    try:
        return ", ".join(sorted(serve.status().applications))
    except Exception:  # no Serve at all
        return ""


class ServeTransport(Server):
    """`Server` through a Serve handle. Made and used on one event loop, inside a Ray process."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._handle: Any = None

    @override
    async def ask(self, endpoint: Endpoint[T], *arguments: str | int) -> T:
        try:
            answer = await asyncio.wait_for(self._call(endpoint.name, *arguments), CONTROL_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise ServerError(
                f"the application {self._app!r} did not answer {endpoint.name}() within {CONTROL_TIMEOUT_S:g} s; "
                "look at its replicas with `serve status`"
            ) from None
        if isinstance(answer, Refusal):
            raise endpoint.refusal(arguments, f"the application {self._app!r}", answer.message)
        return self._expect(answer, endpoint.answer, endpoint.name)

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        answers: list[Answer] = self._expect(await self._call("infer_parcel", list(requests)), list, "infer_parcel")
        return answers

    @override
    async def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None and handle.is_initialized:
            await handle.shutdown_async()

    async def _call(self, method: str, *args: Any) -> Any:
        response = None
        try:
            handle = await self._connect()
            response = getattr(handle, method).remote(*args)
            return await response
        except asyncio.CancelledError:
            if response is not None:
                response.cancel()  # the row leaves the server's queue, too
            raise
        except ServerError:
            raise
        except Exception as error:  # Ray, Serve and gRPC each have their own way to say that the other side is gone
            raise ServerError(f"the application {self._app!r} failed in {method}(): {named_line(error)}") from error

    async def _connect(self) -> Any:
        if self._handle is None:
            from ray import serve
            from ray.serve.exceptions import RayServeException

            try:  # asks the controller and blocks, so not on this loop
                handle = await asyncio.get_running_loop().run_in_executor(None, serve.get_app_handle, self._app)
            except RayServeException as error:
                running = await asyncio.get_running_loop().run_in_executor(None, running_applications)
                raise ServerError(
                    f"no application {self._app!r} runs here (running: {running or first_line(error)}); "
                    "give the name of one that runs, or start it with `headtail serve`"
                ) from error
            self._handle = handle.options(_by_reference=False)
        return self._handle

    def _expect(self, answer: Any, kind: type[T], method: str) -> T:
        if not isinstance(answer, kind):
            raise ServerError(
                f"the application {self._app!r} answered {method}() with {type(answer).__name__}; "
                "it is no HeadTail server"
            )
        return answer
