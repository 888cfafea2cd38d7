"""What Ray Serve registers at the gRPC server of each replica: `add_to_server`, named in ``gRPCOptions``.

Serve puts itself in the place of every handler, and calls the ingress class's method of the RPC's name
(`grpc_methods.GrpcMethods`). Messages are handed on as bytes, which can be pickled and are read where a bad one can be
refused. Of the call's own context Serve tells a method little, so the client's deadline is kept here for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from slicer.core.protocol.oip.grpc.messages import SERVICE

#: RPCs that are answered; all others of the service are UNIMPLEMENTED. Those of the second line are Triton's.
METHODS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
    *("ModelConfig", "RepositoryIndex"),
)

#: Where Serve finds `add_to_server`.
IMPORT_PATH = f"{__name__}.add_to_server"

#: How long the client of the call at hand still waits, seconds; None: it has not said.
remaining_s: ContextVar[float | None] = ContextVar("remaining_s", default=None)

#: grpc says "for ever" by a number of years.
_FOR_EVER_S = 1e8

_Call = Callable[[Any, Any], Awaitable[Any]]


def add_to_server(servicer: object, server: Any) -> None:
    """Register the service.

    Args:
        servicer: not used: Serve calls the replica's class itself.
        server: a ``grpc.aio.Server`` of Serve's.
    """
    del servicer
    server.add_generic_rpc_handlers((_Service(),))


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Like ``grpc.method_handlers_generic_handler``, of which Serve replaces `_method_handlers`."""

    def __init__(self) -> None:
        handler = grpc.unary_unary_rpc_method_handler(_unreachable)  # without deserializer: bytes
        self._method_handlers = {f"/{SERVICE}/{name}": handler for name in METHODS}

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None: there is none."""
        handler = self._method_handlers.get(handler_call_details.method)
        return handler and handler._replace(unary_unary=_with_deadline(handler.unary_unary))


def _with_deadline(serve: _Call) -> _Call:
    async def answer(request: Any, context: Any) -> Any:
        left_s = context.time_remaining()
        remaining_s.set(left_s if left_s is not None and left_s < _FOR_EVER_S else None)
        return await serve(request, context)

    return answer


async def _unreachable(request: bytes, context: Any) -> bytes:
    raise AssertionError("Serve puts a handler of its own here")
