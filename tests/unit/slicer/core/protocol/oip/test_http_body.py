"""Bodies of the Open Inference Protocol: what goes in comes out, and nothing of a peer is trusted."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer.core.protocol.messages import Refusal
from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.tensors import (
    DATATYPES,
    InferRequest,
    InferResponse,
    Tensor,
    WantedOutput,
    tensor_of_array,
)
from slicer.errors import BadRequestError

TEXT = st.text(max_size=20)
PARAMETERS = st.dictionaries(
    st.text(min_size=1, max_size=10).filter(lambda name: not name.startswith("binary_data")),
    st.one_of(st.booleans(), st.integers(-(1 << 53), 1 << 53), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    max_size=4,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = int(np.prod(shape))
    name, parameters = draw(TEXT), draw(PARAMETERS)
    if draw(st.booleans()):
        return Tensor(name, "BYTES", shape, [draw(st.binary(max_size=9)) for _ in range(count)], parameters)
    kind = draw(st.sampled_from(sorted(DATATYPES.values())))
    raw = draw(st.binary(min_size=count * np.dtype(kind).itemsize, max_size=count * np.dtype(kind).itemsize))
    datatype = next(name for name, one in DATATYPES.items() if one == kind)
    return Tensor(name, datatype, shape, raw, parameters)


@st.composite
def requests(draw: st.DrawFn) -> InferRequest:
    outputs = [WantedOutput(draw(TEXT), draw(PARAMETERS)) for _ in range(draw(st.integers(0, 2)))]
    inputs = draw(st.lists(tensors(), max_size=3))
    return InferRequest(draw(TEXT), inputs, outputs, draw(TEXT), "", draw(PARAMETERS))


def plain(tensor: Tensor) -> tuple[Any, ...]:
    """What a tensor holds, whatever keeps it."""
    data = [bytes(one) for one in tensor.data] if tensor.datatype == "BYTES" else bytes(tensor.raw())
    return tensor.name, tensor.datatype, tuple(tensor.shape), data, dict(tensor.parameters)


def same(one: InferRequest, other: InferRequest) -> None:
    assert [plain(tensor) for tensor in one.inputs] == [plain(tensor) for tensor in other.inputs]
    assert (one.model, one.id, one.version) == (other.model, other.id, other.version)
    assert dict(one.parameters) == dict(other.parameters)
    assert [(o.name, dict(o.parameters)) for o in one.outputs] == [(o.name, dict(o.parameters)) for o in other.outputs]


@given(request=requests())
def test_a_request_arrives_as_it_was_sent(request: InferRequest) -> None:
    body, length = http_writing.encode_request(request)
    same(http_body.decode_request(body, str(length), request.model), request)


@given(several=st.lists(requests(), min_size=1, max_size=4))
def test_a_parcel_arrives_as_it_was_sent(several: list[InferRequest]) -> None:
    body, length = http_writing.encode_parcel(several)
    for one, other in zip(http_body.decode_parcel(body, str(length)), several, strict=True):
        same(one, other)


@pytest.mark.parametrize("binary", [False, True])
def test_a_response_arrives_as_it_was_sent(binary: bool) -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3) / 3
    response = InferResponse(
        "m",
        [tensor_of_array("logits", logits), Tensor("top_k", "BYTES", (2, 1), ["é:1".encode(), b"2"])],
        "id",
        "v",
        {"total_ms": 1.5},
    )
    request = InferRequest("m", [], [WantedOutput("logits", {"binary_data": binary}), WantedOutput("top_k")])
    body, length = http_writing.encode_response(response, request)
    assert (length is not None) is binary
    got = http_body.decode_response(body, None if length is None else str(length))
    assert [plain(tensor) for tensor in got.outputs] == [plain(tensor) for tensor in response.outputs]
    assert (got.id, got.version, dict(got.parameters)) == ("id", "v", {"total_ms": 1.5})


def test_all_outputs_as_bytes_where_the_request_says_so_for_all() -> None:
    response = InferResponse("m", [tensor_of_array("logits", np.zeros((1, 3), np.float32))])
    request = InferRequest("m", [], [], parameters={"binary_data_output": True})
    body, length = http_writing.encode_response(response, request)
    assert length is not None and len(body) - length == 12


def test_null_is_what_is_not_there() -> None:
    """So do clients write whose classes have all members."""
    nothing = {"id": None, "parameters": None, "outputs": None}
    document = json.loads(of({"data": [1, 2], "parameters": None}))
    assert http_body.decode_request(
        json.dumps({**document, **nothing}).encode(), None, "m"
    ) == http_body.decode_request(of({"data": [1, 2]}), None, "m")


def test_one_output_in_two_ways_each_as_it_was_asked_for() -> None:
    classes = Tensor("logits", "BYTES", (1, 1), [b"0.5:1"])
    response = InferResponse("m", [classes, tensor_of_array("logits", np.zeros((1, 3), np.float32))])
    wanted = [WantedOutput("logits", {"classification": 1}), WantedOutput("logits", {"binary_data": True})]
    body, length = http_writing.encode_response(response, InferRequest("m", [], wanted))
    assert length is not None
    first, second = json.loads(body[:length])["outputs"]
    assert first["data"] == ["0.5:1"] and second["parameters"]["binary_data_size"] == 12 == len(body) - length


def test_answers_to_a_parcel_each_for_itself() -> None:
    asked = [InferRequest("m", [], [WantedOutput("logits", {"binary_data": True})]) for _ in range(3)]
    good = InferResponse("m", [tensor_of_array("logits", np.ones((1, 2), np.float32))], "a")
    body, length = http_writing.encode_responses([good, Refusal("b", "overloaded", "full", "srv"), good], asked)
    first, refused, last = http_body.decode_responses(body, str(length))
    assert isinstance(first, InferResponse) and isinstance(last, InferResponse)
    assert refused == {"error": "full", "code": "overloaded", "server": "srv", "id": "b"}
    assert first.outputs[0].array().tolist() == last.outputs[0].array().tolist() == [[1.0, 1.0]]


def of(entry: dict[str, Any], **request: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], **entry}], **request}).encode()


@pytest.mark.parametrize("data", [[1, 2.5], [[1], [2.5]], [[[1, 2.5]]]])
def test_numbers_in_json_flat_or_nested(data: Any) -> None:
    request = http_body.decode_request(of({"data": data}), None, "m")
    assert request.inputs[0].array().tolist() == [1.0, 2.5]


BAD = {
    "empty": b"",
    "no JSON": b"garbage",
    "a list": b"[]",
    "no inputs": b"{}",
    "inputs of another kind": b'{"inputs": {}}',
    "an input of another kind": b'{"inputs": [1]}',
    "no name": b'{"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]}',
    "deep": b'{"inputs":' + b"[" * 100 + b"]" * 100 + b"}",
    "deeper than Python": b'{"inputs":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "too many lists": b'{"inputs":[' + b"[]," * 70_000 + b"[]]}",
    "a negative dimension": of({"shape": [-2], "data": [1, 2]}),
    "a dimension that is no whole number": of({"shape": [2.0], "data": [1, 2]}),
    "a dimension that is true": of({"shape": [True, 2], "data": [1, 2]}),
    "a huge dimension": of({"shape": [1 << 40], "data": [1, 2]}),
    "a shape whose product overflows 64 bits": of({"shape": [(1 << 31) - 1] * 8, "data": [1, 2]}),
    "a shape whose bytes overflow 64 bits": of({"shape": [1 << 30, 1 << 30], "parameters": {"binary_data_size": 0}}),
    "too many dimensions": of({"shape": [1] * 9, "data": [1]}),
    "an unknown datatype": of({"datatype": "FP8", "data": [1, 2]}),
    "a datatype of another kind": of({"datatype": 4, "data": [1, 2]}),
    "too few values": of({"data": [1]}),
    "ragged values": of({"data": [1, [2]]}),
    "text for numbers": of({"data": ["1", "2"]}),
    "null for numbers": of({"data": [None, 2]}),
    "truth for numbers": of({"data": [True, 2]}),
    "objects for numbers": of({"data": [{}, 2]}),
    "a fraction for a whole number": of({"datatype": "INT32", "data": [1, 2.5]}),
    "a number out of range": of({"datatype": "UINT8", "data": [1, 256]}),
    "a number of 10,000 digits": b'{"inputs": [{"name":"x","datatype":"INT64","shape":[1],"data":['
    + b"9" * 10_000
    + b"]}]}",
    "no data": of({}),
    "data and bytes": of({"data": [1, 2], "parameters": {"binary_data_size": 0}}),
    "bytes that are not there": of({"parameters": {"binary_data_size": 8}}),
    "a negative number of bytes": of({"parameters": {"binary_data_size": -8}}),
    "a number of bytes that is text": of({"parameters": {"binary_data_size": "8"}}),
    "BF16 in JSON": of({"datatype": "BF16", "data": [1, 2]}),
    "BYTES nested deeper than Python": b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":'
    + b"[" * 600
    + b"]" * 600
    + b"}]}",
    "BYTES that are no text": of({"datatype": "BYTES", "data": [1, 2]}),
    "parameters of another kind": of({"data": [1, 2]}, parameters=[1]),
    "a parameter of another kind": of({"data": [1, 2]}, parameters={"cut": [1]}),
    "too many parameters": of({"data": [1, 2]}, parameters={str(n): n for n in range(100)}),
    "an id of another kind": of({"data": [1, 2]}, id={}),
    "a long id": of({"data": [1, 2]}, id="x" * 5000),
    "outputs of another kind": of({"data": [1, 2]}, outputs=1),
    "too many inputs": json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [0], "data": []}] * 17}
    ).encode(),
    "not UTF-8": b'{"inputs": "\xff"}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_whatever_is_wrong_with_a_body_is_said(body: bytes) -> None:
    with pytest.raises(BadRequestError, match=r".{10}"):
        http_body.decode_request(body, None, "m")


GOOD = of({"parameters": {"binary_data_size": 8}})


@pytest.mark.parametrize(
    "length", ["", "-1", "99999999999", "9" * 5000, "1e3", "٣", str(len(GOOD) + 9), str(len(GOOD) - 1), "0", "0x10"]
)
def test_a_length_of_the_json_that_cannot_be(length: str) -> None:
    with pytest.raises(BadRequestError):
        http_body.decode_request(GOOD + bytes(8), length, "m")
    http_body.decode_request(GOOD + bytes(8), str(len(GOOD)), "m")


@pytest.mark.parametrize("size", [0, 7, 9])
def test_bytes_that_do_not_add_up(size: int) -> None:
    with pytest.raises(BadRequestError):
        http_body.decode_request(GOOD + bytes(size), str(len(GOOD)), "m")


@pytest.mark.parametrize(
    "raw", [b"\x05\x00\x00\x00ab", b"\x01\x00\x00", b"\x01\x00\x00\x00a", b"\xff\xff\xff\xff", b"", bytes(12)]
)
def test_elements_of_bytes_that_do_not_fit(raw: bytes) -> None:
    body = of({"datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}})
    with pytest.raises(BadRequestError):
        http_body.decode_request(body + raw, str(len(body)), "m")


@settings(deadline=None, max_examples=300)
@given(body=st.binary(max_size=200), length=st.one_of(st.none(), st.integers(0, 220).map(str), st.text(max_size=8)))
def test_any_bytes_are_read_or_refused(body: bytes, length: str | None) -> None:
    for read in (lambda: http_body.decode_request(body, length, "m"), lambda: http_body.decode_parcel(body, length)):
        with contextlib.suppress(BadRequestError):
            read()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "id", "binary_data_size"]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=25,
)


@settings(deadline=None, max_examples=300)
@given(document=JSON)
def test_any_json_is_read_or_refused(document: Any) -> None:
    body = json.dumps(document).encode()
    for read in (http_body.decode_parcel, lambda b, n: http_body.decode_request(b, n, "m")):
        for length in (None, str(len(body))):
            with contextlib.suppress(BadRequestError):
                read(body, length)


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[' + b"{}," * 60_000 + b"{}]}",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[' + b"1.5," * 1_000_000 + b"1.5]}]}",
        b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":[' + b'"",' * 1_000_000 + b'""]}]}',
    ],
    ids=["objects", "numbers", "texts"],
)
def test_memory_for_a_hostile_body_is_a_small_multiple_of_it(text: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError):
            http_body.decode_request(text, None, "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(text) + (8 << 20)


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[1],"data":[' + b"1," * (1 << 20) + b"1]}]}",
        b'{"inputs":[],"parameters":{' + b",".join(b'"%x":1' % n for n in range(70_000)) + b"}}",
    ],
    ids=["values", "members"],
)
def test_more_than_the_event_loop_has_time_for_is_refused_before_it_is_read(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("it was read"))
    with pytest.raises(BadRequestError, match=r"more than .* as bytes"):
        http_body.decode_request(text, None, "m")


@pytest.mark.parametrize(
    "entry",
    [{"shape": [1] * 500_000}, {"shape": [1], "data": {str(n): n for n in range(100_000)}}, {"datatype": "x" * 10**7}],
    ids=["shape", "data", "datatype"],
)
def test_what_is_shown_of_a_wrong_value_costs_nothing(entry: dict[str, Any]) -> None:
    document = json.loads(of(entry))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError) as caught:
            http_body._request(document, http_body._Rest(memoryview(b"")), "m", "")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 18 and len(str(caught.value)) < 400
