"""Hostile requests over real connections, in the manner of Triton's own suite: each is refused, and harms nobody.

After each of them the server is live, and gives the next good request its right answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deployments.replica.ingress.openapi import openapi
from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.tensors import InferRequest, WantedOutput, tensor_of_array
from tests.unit.deployments.replica.ingress.conftest import MODEL, MOST_BYTES, PREFIX, Running

INFER = f"{PREFIX}/v2/models/{MODEL}/infer"
LENGTH = http_body.LENGTH_HEADER


def exchange(running: Running, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of a POST; a body that is an iterator travels in chunks."""
    connection = http.client.HTTPConnection(running.address, timeout=60)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
            connection.request("POST", path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
        try:
            answer = connection.getresponse()
        except (ConnectionResetError, http.client.ResponseNotReady, http.client.RemoteDisconnected):
            return 413, {}
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def good(running: Running) -> None:
    """The server is live, and answers rightly."""
    connection = http.client.HTTPConnection(running.address, timeout=30)
    connection.request("GET", f"{PREFIX}/v2/health/live")
    assert connection.getresponse().status == 200
    connection.close()
    tensor = tensor_of_array("ACTIVATION", running.activation(2))
    parameters = {"cut": 2, "manifest": running.digest}
    request = InferRequest(MODEL, [tensor], [WantedOutput("logits")], "", "", parameters)
    body, length = http_writing.encode_request(request)
    status, answer = exchange(running, INFER, body, {LENGTH: str(length)})
    assert status == 200
    np.testing.assert_allclose(answer["outputs"][0]["data"], running.logits()[0], rtol=0, atol=1e-5)


def tensor_json(**fields: Any) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "ACTIVATION", "datatype": "FP32", "shape": [1], "data": [1], **fields}]}
    ).encode()


HOSTILE: dict[str, tuple[bytes, dict[str, str]]] = {
    "nested 100 deep": (b'{"inputs":' + b"[" * 100 + b"]" * 100 + b"}", {}),
    "nested 100,000 deep": (b"[" * 100_000, {}),
    "a JSON longer than the body": (b"{}", {LENGTH: "99999999999"}),
    "a JSON of a negative length": (b"{}", {LENGTH: "-1"}),
    "a length of 5,000 digits": (b"{}", {LENGTH: "9" * 5000}),
    "a length that is no number": (b"{}", {LENGTH: "0x2"}),
    "negative dimensions": (tensor_json(shape=[-1, -1]), {}),
    "dimensions whose product overflows": (tensor_json(shape=[2**31 - 1] * 8), {}),
    "dimensions times bytes that overflow": (
        tensor_json(shape=[2**30, 2**30, 4], data=None, parameters={"binary_data_size": 0}),
        {LENGTH: str(len(tensor_json(shape=[2**30, 2**30, 4], data=None, parameters={"binary_data_size": 0})))},
    ),
    "a size of bytes beyond the body": (tensor_json(data=None, parameters={"binary_data_size": 2**62}), {}),
    "a million values for one": (tensor_json(data=[1.5] * 500_000), {}),
    "a million objects": (b'{"inputs":[' + b"{}," * 1_000_000 + b"{}]}", {}),
    "not UTF-8": (b'{"inputs":"\xff\xfe"}', {}),
    "a body that ends in the middle": (tensor_json()[:-3], {}),
    "ten thousand parameters": (
        json.dumps({"inputs": [], "parameters": {str(n): n for n in range(10_000)}}).encode(),
        {},
    ),
    "an id of a megabyte": (json.dumps({"inputs": [], "id": "x" * (1 << 20)}).encode(), {}),
    "NaN": (tensor_json(data=[float("nan")]), {}),
    "a number beyond all": (tensor_json(data=[1e400]), {}),
}


@pytest.mark.parametrize(("body", "headers"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_refused_and_the_next_request_is_answered(
    running: Running, body: bytes, headers: dict[str, str]
) -> None:
    for path in (INFER, f"{PREFIX}/v2/parcel"):
        status, answer = exchange(running, path, body, headers)
        assert status == 400 and len(answer["error"]) > 10
    good(running)


@pytest.mark.parametrize("path", [INFER, f"{PREFIX}/predict", f"{PREFIX}/v2/parcel", f"{PREFIX}/infer"])
@pytest.mark.parametrize(("more", "status"), [(-1, 400), (0, 400), (1, 413)])
def test_a_body_at_the_limit_and_one_byte_beside_it(running: Running, path: str, more: int, status: int) -> None:
    body = bytes(MOST_BYTES + more)
    assert exchange(running, path, body)[0] == status
    pieces = iter([body[: 1 << 20], body[1 << 20 : 3 << 20], body[3 << 20 :]])
    assert exchange(running, path, pieces)[0] == status
    good(running)


def test_a_body_in_more_than_65536_chunks(running: Running) -> None:
    document = tensor_json(data=[1.0] * 1000)
    text = document + b" " * (70_000 - len(document))
    status, answer = exchange(running, INFER, (text[at : at + 1] for at in range(len(text))))
    assert status == 400 and "1000 values" in answer["error"]
    good(running)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"a: " + b"b" * 200_000 + b"\r\n\r\n",
    ],
    ids=["zeros", "version", "negative length", "leaves early", "bad chunk", "long header"],
)
def test_what_is_no_http(running: Running, sent: bytes) -> None:
    host, _, port = running.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        try:
            first = connection.recv(4096)
        except ConnectionResetError:
            first = b""
    assert first[:12] in (b"", b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 431")
    good(running)


def test_memory_does_not_grow_with_hostile_requests(running: Running) -> None:
    """This process holds the server."""
    process = psutil.Process(os.getpid())
    large = tensor_json(data=[1.5] * 500_000)
    objects = b'{"inputs":[' + b"{}," * 1_000_000 + b"{}]}"

    def once() -> None:
        for body in (large, objects, bytes(MOST_BYTES)):
            assert exchange(running, INFER, body)[0] == 400

    for _ in range(3):
        once()
    before = process.memory_info().rss
    for _ in range(15):
        once()
    assert process.memory_info().rss - before < 40 << 20
    good(running)


CHECKS: list[Callable[..., Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


OPERATIONS = [(path, method) for path, methods in openapi(token=False)["paths"].items() for method in methods]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_description_holds_whatever_is_sent(running: Running, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_dict(openapi(token=False))
    schema.config.update(base_url=running.url)
    operation = schema[path][method]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def holds(case: Any) -> None:
        case.validate_response(case.call(timeout=30), checks=CHECKS)

    holds()
    good(running)
