"""The gRPC way in: what a replica answers to each RPC of the Open Inference Protocol.

`GrpcMethods` gives a class the methods that Serve calls by the RPC's name; each takes the message's bytes and returns a
message. `GrpcIngress` does the work. A call that is refused gets a status, our message as its details, and the code in
the trailing metadata `CODE_KEY`; the message that it returns beside that never reaches the client. (Serve would
write a traceback into the log for an exception, and drop the metadata.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import grpc
from google.protobuf.json_format import ParseDict

from deployments.replica.ingress.bearer import has_token
from deployments.replica.ingress.grpc_service import remaining_s
from deployments.replica.ingress.open_inference import OpenInference, Refused, Server
from slicer.core.protocol.messages import Refusal
from slicer.core.protocol.oip import metadata
from slicer.core.protocol.oip.grpc.conversion import decode_request, encode_response, parsed
from slicer.core.protocol.oip.grpc.messages import Message, message_class
from slicer.core.protocol.oip.status import grpc_status
from slicer.core.protocol.oip.tensors import InferRequest
from slicer.errors import BadRequestError

#: Trailing metadata of a refusal: its code, and the replica that refused.
CODE_KEY, SERVER_KEY = "headtail-code", "headtail-server"

#: Letters of a status' details: HTTP/2 headers have room for little.
MAX_DETAILS = 2000

#: Answered without a token: a probe has none.
_OPEN = ("ServerLive", "ServerReady")

_LOCAL = ("ipv4:127.", "ipv6:%5B::1%5D:", "ipv6:[::1]:", "unix:")


class Context(Protocol):
    """What Serve tells of a call, and lets set."""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """What the client sent beside the message."""

    def peer(self) -> str:
        """Who is at the other end of the connection; behind HAProxy, that."""

    def set_code(self, code: Any) -> None:
        """A ``grpc.StatusCode``."""

    def set_details(self, details: str) -> None:
        """Words to it."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """More to it."""


class _Denied(Exception):
    """Not answered, for another reason than a refusal has; internal to this module."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class GrpcIngress:
    """Of one replica. All methods run on its event loop.

    Args:
        server: what answers.
        token: what the metadata ``authorization: Bearer`` must hold; empty: everyone may ask.
        local_only: calls from other machines are refused. Serve binds a replica's own gRPC port to all interfaces,
            whatever address HTTP has.
    """

    def __init__(self, server: Server, *, token: str = "", local_only: bool = False) -> None:
        self._inference = OpenInference(server)
        self._secret = token.encode()
        self._local_only = local_only

    async def answer(self, method: str, request: bytes, context: Context) -> Message:
        """The response of an RPC, with its status in `context`.

        Args:
            method: the RPC's name.
            request: its message, serialized.
        """
        try:
            self._authorise(method, context)
            if method == "ModelInfer":
                return await self._infer(request)
            return await self._tell(method, parsed(message_class(f"{method}Request"), request))
        except Refused as problem:
            _refuse(context, problem.refusal)
        except BadRequestError as error:
            _refuse(context, Refusal("", "bad_request", str(error)))
        except _Denied as problem:
            context.set_code(problem.code)
            context.set_details(str(problem))
        return message_class(f"{method}Response")()

    def _authorise(self, method: str, context: Context) -> None:
        if self._local_only and not context.peer().startswith(_LOCAL):
            raise _Denied(grpc.StatusCode.PERMISSION_DENIED, "only this machine may ask here (http.host)")
        if self._secret and method not in _OPEN:
            given = next((value for key, value in context.invocation_metadata() if key == "authorization"), "")
            if not has_token(given.encode() if isinstance(given, str) else given, self._secret):
                raise _Denied(
                    grpc.StatusCode.UNAUTHENTICATED,
                    "a missing or wrong token; send metadata `authorization: Bearer <HEADTAIL_TOKEN of the server>`",
                )

    async def _infer(self, data: bytes) -> Message:
        (response,) = await self._inference.infer([_within_deadline(decode_request(data))])
        if isinstance(response, Refusal):
            raise Refused(response)
        return encode_response(response)

    async def _tell(self, method: str, asked: Message) -> Message:
        """Whatever is answered with what is known already."""
        inference = self._inference
        if method == "ServerLive":
            found: dict[str, Any] = {"live": inference.live()}
        elif method == "ServerReady":
            found = {"ready": await inference.ready()}
        elif method == "ModelReady":
            found = {"ready": inference.model_ready(asked.name, asked.version)}
        elif method == "ServerMetadata":
            found = metadata.server_metadata()
        elif method == "ModelMetadata":
            found = inference.metadata(asked.name, asked.version)
        elif method == "ModelConfig":
            found = {"config": inference.config(asked.name, asked.version)}
        else:
            assert method == "RepositoryIndex", method
            found = {"models": inference.index()}
        # What this protocol has no field for is left out: of metadata the parameters of tensors, which HTTP tells.
        return ParseDict(found, message_class(f"{method}Response")(), ignore_unknown_fields=True)


def _within_deadline(request: InferRequest) -> InferRequest:
    """Without a timeout of its own, a request has that of its call."""
    left_s = remaining_s.get()
    if left_s is None or any(
        "timeout" in of for of in (request.parameters, *(one.parameters for one in request.inputs))
    ):
        return request
    return replace(request, parameters={**request.parameters, "timeout": max(int(left_s * 1e6), 1)})


def _refuse(context: Context, refusal: Refusal) -> None:
    context.set_code(getattr(grpc.StatusCode, grpc_status(refusal.code)))
    context.set_details(_details(refusal.message))
    trailing: list[tuple[str, str]] = [(CODE_KEY, refusal.code)]
    if refusal.server:
        trailing.append((SERVER_KEY, refusal.server))
    context.set_trailing_metadata(trailing)


def _details(message: str) -> str:
    """In ASCII: any other letter takes up to twelve on the wire."""
    return message.encode("ascii", "backslashreplace").decode()[:MAX_DETAILS]


class GrpcMethods:
    """Methods by the names of the RPCs. Each takes a message as bytes, and gives a message back; none raises for a bad
    request."""

    _grpc: GrpcIngress

    async def ServerLive(self, request: bytes, grpc_context: Context) -> Message:
        """Whether the process answers."""
        return await self._grpc.answer("ServerLive", request, grpc_context)

    async def ServerReady(self, request: bytes, grpc_context: Context) -> Message:
        """Whether requests have a chance."""
        return await self._grpc.answer("ServerReady", request, grpc_context)

    async def ModelReady(self, request: bytes, grpc_context: Context) -> Message:
        """Whether requests for a model have one."""
        return await self._grpc.answer("ModelReady", request, grpc_context)

    async def ServerMetadata(self, request: bytes, grpc_context: Context) -> Message:
        """Name, version, extensions."""
        return await self._grpc.answer("ServerMetadata", request, grpc_context)

    async def ModelMetadata(self, request: bytes, grpc_context: Context) -> Message:
        """Inputs and outputs of a model."""
        return await self._grpc.answer("ModelMetadata", request, grpc_context)

    async def ModelConfig(self, request: bytes, grpc_context: Context) -> Message:
        """Triton's form of them."""
        return await self._grpc.answer("ModelConfig", request, grpc_context)

    async def RepositoryIndex(self, request: bytes, grpc_context: Context) -> Message:
        """All models."""
        return await self._grpc.answer("RepositoryIndex", request, grpc_context)

    async def ModelInfer(self, request: bytes, grpc_context: Context) -> Message:
        """Rows to their outputs. Cancelled with its call, and its rows with it."""
        return await self._grpc.answer("ModelInfer", request, grpc_context)
