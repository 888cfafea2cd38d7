"""The gRPC way in: its methods called directly, and by a client through a server like Serve's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve._private.grpc_util import gRPCGenericServer

from deployments.replica.ingress import grpc_methods
from deployments.replica.ingress.grpc_methods import CODE_KEY, SERVER_KEY, GrpcIngress, GrpcMethods
from deployments.replica.ingress.grpc_service import METHODS, add_to_server
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, ServedModel, Timings
from slicer.core.protocol.oip.grpc.conversion import decode_response, encode_request
from slicer.core.protocol.oip.grpc.messages import POOL, SERVICE, Message, message_class
from slicer.core.protocol.oip.tensors import InferRequest, Tensor, WantedOutput
from slicer.core.protocol.outputs import LOGITS, packed

DIGEST = "0123456789abcdef"
SERVED = ServedModel("m", DIGEST, "{}", 2, (0, 1), "per_slice", ("fp32",))
MODEL = SimpleNamespace(
    name="m",
    digest=DIGEST,
    shapes=[(3, 2, 2), (2,), (3,)],
    outputs=packed([(LOGITS, (3,))]),
    labels=["a", "b", "c"],
    takes_images=True,
    config=SimpleNamespace(max_batch=8, max_answer_bytes=1 << 20),
    describe=lambda emulated: SERVED,
)
ROW = Tensor("ACTIVATION", "FP32", (1, 2), np.array([1, 2], "<f4").tobytes(), {"cut": 1, "manifest": DIGEST})
INFER = InferRequest("m", [ROW], [WantedOutput("logits")], "7")


class Server:
    """Answers logits 0, 1, 2. `refuse`: what it says instead; `until`: when it answers."""

    emulated = ()

    def __init__(self) -> None:
        self.models: Mapping[str, Any] = {"m": MODEL}
        self.seen: list[Request] = []
        self.refuse: Refusal | None = None
        self.until: asyncio.Event | None = None
        self.arrived, self.cancelled = asyncio.Event(), asyncio.Event()
        self.alive = True

    def absent(self, request_id: str, model: str) -> Refusal:
        return Refusal(request_id, "unknown_model", f"no model {model!r}", "s")

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        self.seen += requests
        self.arrived.set()
        try:
            if self.until is not None:
                await self.until.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        logits = np.arange(3, dtype="<f4").tobytes()
        timings = Timings(1.0, 2.0, 3.0, 6.0, (4,))
        return [self.refuse or Reply(one.id, timings, (), logits, (3,), "s") for one in requests]

    async def check_health(self) -> None:
        if not self.alive:
            raise RuntimeError("dead")


@dataclass
class Context:
    """A call's, as Serve gives it."""

    metadata: list[tuple[str, str]] = field(default_factory=list)
    of: str = "ipv4:127.0.0.1:5000"
    code: Any = None
    details: str = ""
    trailing: list[tuple[str, str]] = field(default_factory=list)

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self.metadata

    def peer(self) -> str:
        return self.of

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        self.trailing = trailing_metadata


def ask(endpoint: GrpcIngress, method: str, context: Context | None = None, **fields: Any) -> tuple[Message, Context]:
    """One RPC's response and its context."""
    context = context or Context()
    request = message_class(f"{method}Request")(**fields).SerializeToString()
    return asyncio.run(endpoint.answer(method, request, context)), context


def infer(endpoint: GrpcIngress, request: InferRequest, context: Context | None = None) -> tuple[Message, Context]:
    context = context or Context()
    return asyncio.run(endpoint.answer("ModelInfer", encode_request(request).SerializeToString(), context)), context


def test_a_request_is_answered() -> None:
    response, context = infer(GrpcIngress(Server()), INFER)
    assert context.code is None and not context.trailing
    answer = decode_response(response.SerializeToString())
    assert (answer.model, answer.version, answer.id) == ("m", DIGEST[:12], "7")
    assert answer.outputs[0].array().tolist() == [[0, 1, 2]]
    assert answer.parameters["queue_ms"] == 2.0 and answer.parameters["rows_per_step"] == "4"


def test_without_a_word_about_outputs_the_classes_come_with_their_names() -> None:
    response, _ = infer(GrpcIngress(Server()), InferRequest("m", [ROW]))
    first, _ = decode_response(response.SerializeToString()).outputs
    assert (first.name, first.datatype, first.shape) == ("top_k", "BYTES", (1, 3))
    assert bytes(first.elements()[0]).endswith(b":2:c")


def test_what_is_told_of_the_server_and_its_models() -> None:
    server = Server()
    endpoint = GrpcIngress(server)
    assert ask(endpoint, "ServerLive")[0].live is True
    assert ask(endpoint, "ServerReady")[0].ready is True
    assert ask(endpoint, "ModelReady", name="m")[0].ready is True
    assert ask(endpoint, "ModelReady", name="m", version="another")[0].ready is False
    assert ask(endpoint, "ModelReady", name="n")[0].ready is False
    assert ask(endpoint, "ServerMetadata")[0].name == "headtail"
    told = ask(endpoint, "ModelMetadata", name="m")[0]
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [
        ("IMAGE", "BYTES", [-1]),
        ("ACTIVATION", "FP32", [-1, 3, 2, 2]),
    ]
    assert [one.name for one in told.outputs] == ["top_k", "logits"]
    config = ask(endpoint, "ModelConfig", name="m")[0].config
    types = POOL.FindEnumTypeByName("inference.DataType").values_by_number
    assert (config.max_batch_size, [types[one.data_type].name for one in config.input]) == (
        8,
        ["TYPE_STRING", "TYPE_FP32"],
    )
    assert [(one.name, one.state) for one in ask(endpoint, "RepositoryIndex")[0].models] == [("m", "READY")]
    server.alive = False
    assert ask(endpoint, "ServerReady")[0].ready is False
    assert ask(endpoint, "ServerLive")[0].live is True


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal("7", "overloaded", "the queue is full", "s"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Refusal("7", "too_late", "late", "s"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Refusal("7", "stale", "another manifest", "s"), grpc.StatusCode.FAILED_PRECONDITION),
        (Refusal("7", "failed", "ü\n" * 3000, ""), grpc.StatusCode.INTERNAL),
    ],
)
def test_a_refusal_has_a_status_our_words_and_its_code(refusal: Refusal, code: grpc.StatusCode) -> None:
    server = Server()
    server.refuse = refusal
    response, context = infer(GrpcIngress(server), INFER)
    assert not response.ByteSize() and context.code is code
    assert context.details.isascii() and context.details[:3] == refusal.message[:3].replace("ü\nü", "\\xf")
    assert len(context.details) <= grpc_methods.MAX_DETAILS
    assert context.trailing == [(CODE_KEY, refusal.code), *([(SERVER_KEY, "s")] if refusal.server else [])]


def test_an_unknown_model_is_refused_by_every_method_that_names_one() -> None:
    endpoint = GrpcIngress(Server())
    calls = [ask(endpoint, "ModelMetadata", name="n"), ask(endpoint, "ModelConfig", name="n")]
    for _, context in [*calls, infer(endpoint, InferRequest("n", [ROW]))]:
        assert (context.code, context.details) == (grpc.StatusCode.NOT_FOUND, "no model 'n'")
        assert context.trailing == [(CODE_KEY, "unknown_model"), (SERVER_KEY, "s")]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(METHODS), st.binary(max_size=40))
def test_any_bytes_are_answered_or_refused(method: str, data: bytes) -> None:
    context = Context()
    response = asyncio.run(GrpcIngress(Server()).answer(method, data, context))
    assert response.DESCRIPTOR.name == f"{method}Response"
    assert context.code in (None, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("given_", [[], [("authorization", "Bearer no")], [("authorization", "Bearer ü")]])
def test_without_the_token_only_probes_are_answered(given_: list[tuple[str, str]]) -> None:
    endpoint = GrpcIngress(Server(), token="secret")
    for method in METHODS:
        _, context = ask(endpoint, method, Context(given_))
        probe = method in ("ServerLive", "ServerReady")
        assert context.code is (None if probe else grpc.StatusCode.UNAUTHENTICATED), method
        assert probe or "authorization: Bearer" in context.details
    _, context = infer(endpoint, INFER, Context([("x", "y"), ("authorization", "Bearer secret")]))
    assert context.code is None


@pytest.mark.parametrize(
    ("peer", "fine"),
    [("ipv4:127.0.0.1:5000", True), ("ipv6:%5B::1%5D:5000", True), ("ipv4:10.0.0.2:5000", False), ("", False)],
)
def test_where_only_this_machine_may_ask_others_are_turned_away(peer: str, fine: bool) -> None:
    _, context = ask(GrpcIngress(Server(), local_only=True), "ServerLive", Context(of=peer))
    assert context.code is (None if fine else grpc.StatusCode.PERMISSION_DENIED)
    assert ask(GrpcIngress(Server()), "ServerLive", Context(of=peer))[1].code is None


class Ingress(GrpcMethods):
    """A class that Serve would call."""

    def __init__(self, server: Server) -> None:
        self._grpc = GrpcIngress(server)


def by_a_client(play: Callable[[grpc.aio.Channel, Server], Awaitable[None]]) -> None:
    """Serve's own kind of server, with handlers that call the method of the RPC's name, as a replica's do."""

    async def scene() -> None:
        server = Server()
        ingress = Ingress(server)

        def handler_of(service_method: str, streaming_type: object) -> Callable[..., Awaitable[bytes]]:
            async def handle(request: bytes, context: Any) -> bytes:
                told = Context(list(context.invocation_metadata() or ()), context.peer())
                answer = await getattr(ingress, service_method.split("/")[-1])(request, grpc_context=told)
                if told.code is not None:
                    context.set_code(told.code)
                    context.set_details(told.details)
                    context.set_trailing_metadata(told.trailing)
                return bytes(answer.SerializeToString())

            return handle

        listening = gRPCGenericServer(handler_of)
        add_to_server(None, listening)
        port = listening.add_insecure_port("127.0.0.1:0")
        await listening.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await asyncio.wait_for(play(channel, server), 20)
        finally:
            await listening.stop(0)

    asyncio.run(scene())


def test_a_client_is_answered_by_the_method_of_the_rpcs_name() -> None:
    async def play(channel: grpc.aio.Channel, server: Server) -> None:
        for method in METHODS:
            known = {"name": "m"} if method in ("ModelReady", "ModelMetadata", "ModelConfig") else {}
            request = INFER if method == "ModelInfer" else None
            data = (
                encode_request(request) if request else message_class(f"{method}Request")(**known)
            ).SerializeToString()
            assert await channel.unary_unary(f"/{SERVICE}/{method}")(data), method
        assert server.seen[0].deadline_ms is None  # the client has not said how long it waits
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\xff")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(refused.value.trailing_metadata())[CODE_KEY] == "bad_request"
        with pytest.raises(grpc.aio.AioRpcError) as absent:
            await channel.unary_unary(f"/{SERVICE}/ModelStatistics")(b"")
        assert absent.value.code() is grpc.StatusCode.UNIMPLEMENTED

    by_a_client(play)


@pytest.mark.parametrize(("parameters", "timeout_ms"), [({}, None), ({"timeout": 5000}, 5.0)])
def test_the_deadline_of_the_call_is_the_requests_unless_that_has_its_own(
    parameters: dict[str, int], timeout_ms: float | None
) -> None:
    async def play(channel: grpc.aio.Channel, server: Server) -> None:
        data = encode_request(InferRequest("m", [ROW], parameters=parameters)).SerializeToString()
        await channel.unary_unary(f"/{SERVICE}/ModelInfer")(data, timeout=1000.0)
        (row,) = server.seen
        assert row.deadline_ms is not None
        assert row.deadline_ms == timeout_ms if timeout_ms else 900e3 < row.deadline_ms <= 1100e3  # the wire rounds it

    by_a_client(play)


def test_a_call_that_is_cancelled_takes_its_rows_with_it() -> None:
    async def play(channel: grpc.aio.Channel, server: Server) -> None:
        server.until = asyncio.Event()
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")(encode_request(INFER).SerializeToString())
        await server.arrived.wait()
        call.cancel()
        await server.cancelled.wait()

    by_a_client(play)
