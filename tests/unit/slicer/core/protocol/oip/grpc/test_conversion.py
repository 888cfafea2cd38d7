"""gRPC's messages to requests and back: the same as by HTTP, and no message is answered with anything but a refusal."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer.core.protocol.oip import http_body, http_writing
from slicer.core.protocol.oip.grpc import conversion
from slicer.core.protocol.oip.grpc.conversion import decode_request, decode_response, encode_request, encode_response
from slicer.core.protocol.oip.grpc.messages import Message, ModelInferRequest
from slicer.core.protocol.oip.tensors import (
    DATATYPES,
    ITEM_BYTES,
    InferRequest,
    InferResponse,
    Tensor,
    WantedOutput,
    tensor_of_array,
)
from slicer.errors import BadRequestError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PARAMETERS = st.dictionaries(
    TEXT, st.one_of(st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), TEXT), max_size=4
)
DIMS = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw: Any) -> Tensor:
    datatype, shape = draw(st.sampled_from([*ITEM_BYTES, "BYTES"])), tuple(draw(DIMS))
    count = math.prod(shape)
    if datatype == "BYTES":
        data: Any = draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count))
    else:
        data = draw(st.binary(min_size=count * ITEM_BYTES[datatype], max_size=count * ITEM_BYTES[datatype]))
    return Tensor(draw(TEXT), datatype, shape, data, draw(PARAMETERS))


REQUESTS = st.builds(
    InferRequest,
    TEXT,
    st.lists(tensors(), max_size=3),
    st.lists(st.builds(WantedOutput, TEXT, PARAMETERS), max_size=2),
    TEXT,
    TEXT,
    PARAMETERS,
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS)
def test_a_request_comes_as_it_was_sent(request: InferRequest) -> None:
    assert decode_request(encode_request(request).SerializeToString()) == request


@settings(max_examples=60, deadline=None)
@given(st.builds(InferResponse, TEXT, st.lists(tensors(), max_size=3), TEXT, TEXT, PARAMETERS))
def test_a_response_comes_as_it_was_sent(response: InferResponse) -> None:
    assert decode_response(encode_response(response).SerializeToString()) == response


def test_the_same_request_by_http_is_the_same() -> None:
    data = np.arange(6, dtype="<f4").tobytes()
    sent = InferRequest("m", [Tensor("ACTIVATION", "FP32", (1, 6), data, {"cut": 2})], [WantedOutput("logits")], "7")
    body, json_bytes = http_writing.encode_request(sent)
    assert http_body.decode_request(body, str(json_bytes), "m") == decode_request(
        encode_request(sent).SerializeToString()
    )


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_are_refused(data: bytes) -> None:
    for decode in (decode_request, decode_response):
        with contextlib.suppress(BadRequestError):
            decode(data)


@st.composite
def odd_messages(draw: Any) -> Message:
    """Whatever the message's own types allow."""
    message = ModelInferRequest(model_name=draw(TEXT), id=draw(TEXT))
    whole = st.integers(-(1 << 31), (1 << 31) - 1)
    fields = {
        "bool_contents": st.booleans(),
        "int_contents": whole,
        "int64_contents": whole,
        "uint_contents": st.integers(0, (1 << 32) - 1),
        "uint64_contents": st.integers(0, (1 << 64) - 1),
        "fp32_contents": st.floats(width=32),
        "fp64_contents": st.floats(),
        "bytes_contents": st.binary(max_size=3),
    }
    for _ in range(draw(st.integers(0, 2))):
        datatype = draw(st.one_of(st.sampled_from([*ITEM_BYTES, "BYTES"]), TEXT))
        shape = draw(st.lists(st.one_of(st.integers(-1, 3), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=9))
        entry = message.inputs.add(name=draw(TEXT), datatype=datatype, shape=shape)
        for field in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
            getattr(entry.contents, field).extend(draw(st.lists(fields[field], max_size=4)))
        if draw(st.booleans()):
            entry.parameters[draw(TEXT)].SetInParent()
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=9), max_size=3)))
    return message


@settings(max_examples=200, deadline=None)
@given(odd_messages())
def test_any_message_is_a_request_or_is_refused(message: Message) -> None:
    try:
        request = decode_request(message.SerializeToString())
    except BadRequestError:
        return
    for tensor in request.inputs:
        if tensor.datatype != "BYTES":
            assert len(tensor.raw()) == math.prod(tensor.shape) * ITEM_BYTES[tensor.datatype]
        else:
            assert len(tensor.elements()) == math.prod(tensor.shape)


def one_input(datatype: str, shape: list[int], **contents: Any) -> Message:
    message = ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(entry.contents, field).extend(values)
    return message


FIELDS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{name: f"{name.lower()}_contents" for name in ("BOOL", "INT64", "UINT64", "FP32", "FP64")},
    "UINT64": "uint64_contents",
    "INT64": "int64_contents",
}


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"FP16"}))
def test_typed_contents_are_the_same_as_raw_ones(datatype: str) -> None:
    kind = np.dtype(DATATYPES[datatype])
    whole = kind.kind in "iu"
    array = np.array([0, 1, np.iinfo(kind).max if whole else 1, np.iinfo(kind).min if whole else 0], kind)
    message = one_input(datatype, [2, 2], **{FIELDS[datatype]: array.tolist()})
    (tensor,) = decode_request(message.SerializeToString()).inputs
    assert tensor == tensor_of_array("x", array.reshape(2, 2))


def test_typed_elements_of_bytes() -> None:
    message = one_input("BYTES", [2], bytes_contents=[b"ab", b""])
    (tensor,) = decode_request(message.SerializeToString()).inputs
    assert tensor.elements() == [b"ab", b""]


def both_ways() -> Message:
    message = one_input("FP32", [1], fp32_contents=[1.0])
    message.raw_input_contents.append(bytes(4))
    return message


def too_few_raw() -> Message:
    message = one_input("FP32", [1])
    message.inputs.add(name="y", datatype="FP32", shape=[1])
    message.raw_input_contents.append(bytes(4))
    return message


def many_inputs() -> Message:
    message = ModelInferRequest()
    for _ in range(17):
        message.inputs.add()
    return message


def many_parameters() -> Message:
    message = ModelInferRequest()
    for number in range(65):
        message.parameters[str(number)].bool_param = True
    return message


def empty_parameter() -> Message:
    message = ModelInferRequest()
    message.parameters["cut"].SetInParent()
    return message


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (both_ways, "input 'x' has contents, and the request raw_input_contents; leave out one"),
        (too_few_raw, "1 raw_input_contents for 2 inputs"),
        (many_inputs, "17 inputs in one request; at most 16"),
        (many_parameters, "65 parameters of the request; at most 64"),
        (empty_parameter, "parameter 'cut' of the request has no value"),
        (lambda: one_input("FP32", [2], fp32_contents=[1.0]), r"has 1 values in fp32_contents; shape \[2\] has 2"),
        (lambda: one_input("FP32", [1], int_contents=[1]), "values of datatype FP32 go into fp32_contents"),
        (lambda: one_input("FP16", [1], fp32_contents=[1.0]), "FP16 has no raw_input_contents; it travels by these"),
        (lambda: one_input("UINT8", [2], uint_contents=[255, 256]), "is 256; it must be in the range of UINT8"),
        (lambda: one_input("INT8", [1], int_contents=[-129]), "is -129; it must be in the range of INT8"),
        (lambda: one_input("FP32", [-1], fp32_contents=[1.0]), "whole numbers from 0"),
        (lambda: one_input("BYTES", [1 << 30]), "1073741824 elements of BYTES; at most"),
        (lambda: one_input("FP128", [1]), "the datatype of input 'x' is 'FP128'"),
    ],
)
def test_what_is_wrong_is_said(make: Callable[[], Message], says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        decode_request(make().SerializeToString())


def test_what_kserves_client_says_of_http_is_left_out() -> None:
    message = one_input("FP32", [1])
    message.inputs[0].parameters["binary_data_size"].int64_param = 4
    message.inputs[0].parameters["cut"].int64_param = 1
    message.raw_input_contents.append(bytes(4))
    (tensor,) = decode_request(message.SerializeToString()).inputs
    assert tensor == Tensor("x", "FP32", (1,), bytes(4), {"cut": 1})


def test_many_values_have_to_come_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "MAX_VALUES", 3)
    with pytest.raises(BadRequestError, match="send more than 3 as raw_input_contents"):
        decode_request(one_input("FP32", [4], fp32_contents=[1.0] * 4).SerializeToString())


@pytest.mark.parametrize("tag", [0x22, 0x2A, 0x32, 0x3A], ids=["parameters", "inputs", "outputs", "raw"])
def test_many_empty_fields_are_refused_before_they_are_read(tag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "parsed", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BadRequestError, match="256 fields"):
        decode_request(bytes([tag, 0]) * 100_000)


def test_as_many_fields_as_there_may_be() -> None:
    tensor = Tensor("x", "UINT8", (300,), bytes(300))
    parameters = {f"parameter {n}": n for n in range(64)}
    request = InferRequest("m" * 300, [tensor] * 16, [WantedOutput("y")] * 16, "i", "v", parameters)
    assert decode_request(encode_request(request).SerializeToString()) == request


def test_other_clients_messages_live_beside_ours_and_are_understood() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2")
    sent = theirs.ModelInferRequest(model_name="m", id="7", raw_input_contents=[bytes(8)])
    entry = sent.inputs.add(name="IMAGE", datatype="FP32", shape=[1, 2])
    entry.parameters["cut"].int64_param = 1
    request = decode_request(sent.SerializeToString())
    assert request == InferRequest("m", [Tensor("IMAGE", "FP32", (1, 2), bytes(8), {"cut": 1})], [], "7")
    answer = InferResponse("m", [Tensor("logits", "FP32", (1, 2), bytes(8))], "7", "v", {"queue_ms": 1.5})
    read = theirs.ModelInferResponse.FromString(encode_response(answer).SerializeToString())
    assert (read.id, list(read.outputs[0].shape), read.parameters["queue_ms"].double_param) == ("7", [1, 2], 1.5)
