"""Waiting for gRPC ends when it answers, and is given up with a word."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from deployments.config import HttpAddress
from deployments.placing import grpc_reachable
from slicer.core.protocol.oip.grpc.messages import SERVICE


class NotYet:
    """Serves `ServerLive` from the third call on, and notes who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def live(self, request: bytes, context: Any) -> bytes:
        self.asked.append(dict(context.invocation_metadata())["application"])
        if len(self.asked) < 3:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such application")
        return b""


@pytest.fixture
def served() -> Iterator[tuple[NotYet, int]]:
    service = NotYet()
    server = grpc.server(ThreadPoolExecutor(1))
    handler = {"ServerLive": grpc.unary_unary_rpc_method_handler(service.live)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handler),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, port
    server.stop(None)


def test_it_is_asked_until_it_knows_the_application(served: tuple[NotYet, int]) -> None:
    service, port = served
    grpc_reachable.wait_reachable(HttpAddress("127.0.0.1", 1, grpc_port=port), "cams", "127.0.0.1")
    assert service.asked == ["cams"] * 3


def test_it_is_given_up_with_a_word(
    served: tuple[NotYet, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, port = served
    monkeypatch.setattr(grpc_reachable, "_REACHABLE_WITHIN_S", 0.0)
    with caplog.at_level(logging.WARNING):
        grpc_reachable.wait_reachable(HttpAddress("127.0.0.1", 1, grpc_port=port), "cams", "127.0.0.1")
    assert len(service.asked) == 1
    assert f"127.0.0.1:{port} does not answer by gRPC" in caplog.text


def test_where_there_is_none_nobody_waits() -> None:
    grpc_reachable.wait_reachable(HttpAddress("127.0.0.1", 1), "cams", "127.0.0.1")
