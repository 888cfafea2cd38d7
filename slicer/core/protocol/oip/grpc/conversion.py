"""Requests and responses as gRPC's messages.

Nothing of a peer is trusted: whatever is wrong with a message is a BadRequestError. Inputs come as raw bytes
(``raw_input_contents``, the fast way) or as typed contents, never as both; outputs always go as raw bytes, as the
protocol allows and Triton does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ....errors import BadRequestError
from ..tensors import (
    DATATYPES,
    MAX_DIMS,
    MAX_ELEMENTS,
    MAX_PARAMETERS,
    MAX_TENSORS,
    MAX_VALUES,
    InferRequest,
    InferResponse,
    Parameter,
    Tensor,
    WantedOutput,
    checked_datatype,
    checked_parameters,
    checked_shape,
    checked_text,
    tensor_of_raw,
    wrong,
)
from .messages import Message, ModelInferRequest, ModelInferResponse

#: Most fields of a request, those in its fields apart. An empty one takes two bytes of the wire and 80 of memory.
MAX_FIELDS = 256

#: Wire types of protobuf that have a length of their own, bytes.
_FIXED = {1: 8, 5: 4}

#: Of HTTP; KServe's client sets it by gRPC as well, where the bytes say it.
_TRANSPORT = frozenset({"binary_data_size"})

#: Datatype -> the field of typed contents that has its values, and the numbers that this field can hold. The 16-bit
#: floats have none.
_CONTENTS: Mapping[str, tuple[str, str]] = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "<i4"),
    "INT16": ("int_contents", "<i4"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "<u4"),
    "UINT16": ("uint_contents", "<u4"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    "BYTES": ("bytes_contents", ""),
}


def decode_request(data: bytes) -> InferRequest:
    """The request that a ``ModelInferRequest`` holds.

    Args:
        data: the message, serialized.

    Raises:
        BadRequestError: it is no such message, or a field has the wrong type or range.
    """
    _check_fields(data)
    message = parsed(ModelInferRequest, data)
    _few("inputs", message.inputs)
    _few("outputs", message.outputs)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadRequestError(f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs; there is one for each")
    inputs = [_input(entry, raw[at] if raw else None) for at, entry in enumerate(message.inputs)]
    outputs = []
    for entry in message.outputs:
        name = checked_text("the name of an output", entry.name)
        outputs.append(WantedOutput(name, _parameters(f"output {name[:80]!r}", entry.parameters)))
    return InferRequest(
        checked_text("model_name", message.model_name),
        inputs,
        outputs,
        checked_text("id", message.id),
        checked_text("model_version", message.model_version),
        _parameters("the request", message.parameters),
    )


def encode_response(response: InferResponse) -> Message:
    """A ``ModelInferResponse``; its outputs are copied."""
    message = ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    _set_parameters(message.parameters, response.parameters)
    for tensor in response.outputs:
        entry = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _set_parameters(entry.parameters, tensor.parameters)
        message.raw_output_contents.append(bytes(tensor.raw()))
    return message


def encode_request(request: InferRequest) -> Message:
    """A client's ``ModelInferRequest`` with raw inputs, which are copied."""
    message = ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    _set_parameters(message.parameters, request.parameters)
    for tensor in request.inputs:
        entry = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _set_parameters(entry.parameters, tensor.parameters)
        message.raw_input_contents.append(bytes(tensor.raw()))
    for output in request.outputs:
        _set_parameters(message.outputs.add(name=output.name).parameters, output.parameters)
    return message


def decode_response(data: bytes) -> InferResponse:
    """A server's ``ModelInferResponse`` with raw outputs. Raises BadRequestError: it is none."""
    message = parsed(ModelInferResponse, data)
    raw = message.raw_output_contents
    if len(raw) != len(message.outputs):
        raise BadRequestError(f"{len(raw)} raw_output_contents for {len(message.outputs)} outputs")
    outputs = [_tensor(entry, "output", data) for entry, data in zip(message.outputs, raw, strict=True)]
    return InferResponse(
        message.model_name,
        outputs,
        message.id,
        message.model_version,
        _parameters("the response", message.parameters),
    )


def parsed(kind: Message, data: bytes) -> Message:
    """A message of a class. Raises BadRequestError: the bytes are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadRequestError(f"the message is no {kind.DESCRIPTOR.name} ({str(error)[:200]})") from None


def _check_fields(data: bytes) -> None:
    """Before anything is made of it: no message becomes many times as long. What is no message is left to `parsed`."""
    at = 0
    for _ in range(MAX_FIELDS):
        tag, at = _number(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _number(data, at)
        elif kind == 2:
            size, at = _number(data, at)
            at += size
        else:
            at += _FIXED.get(kind, 0)
        if at >= len(data):
            return
    raise BadRequestError(f"more than {MAX_FIELDS} fields in one request; send fewer inputs, outputs and parameters")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Of up to ten bytes at `at`, and where it ends."""
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    return number, len(data)


def _few(what: str, entries: Any) -> None:
    if len(entries) > MAX_TENSORS:
        raise BadRequestError(f"{len(entries)} {what} in one request; at most {MAX_TENSORS}")


def _input(entry: Message, raw: bytes | None) -> Tensor:
    fields = {field.name for field, _ in entry.contents.ListFields()}
    if raw is None:
        return _tensor(entry, "input", fields)
    if fields:
        raise BadRequestError(
            f"input {entry.name[:80]!r} has contents, and the request raw_input_contents; leave out one of the two"
        )
    return _tensor(entry, "input", raw)


def _tensor(entry: Message, kind: str, data: bytes | set[str]) -> Tensor:
    """With its raw bytes, or with the typed contents that are there."""
    name = checked_text(f"the name of an {kind}", entry.name)
    what = f"{kind} {name[:80]!r}"
    datatype = checked_datatype(what, entry.datatype)
    shape = checked_shape(what, list(entry.shape[: MAX_DIMS + 1]))
    parameters = {name: value for name, value in _parameters(what, entry.parameters).items() if name not in _TRANSPORT}
    count = math.prod(shape)
    if datatype == "BYTES" and count > MAX_ELEMENTS:
        raise BadRequestError(f"{what} has {count} elements of BYTES; at most {MAX_ELEMENTS}")
    if isinstance(data, bytes):
        return tensor_of_raw(name, datatype, shape, data, parameters)
    if datatype not in _CONTENTS:
        raise BadRequestError(f"{what} of datatype {datatype} has no raw_input_contents; it travels by these only")
    field, numbers = _CONTENTS[datatype]
    if odd := sorted(data - {field}):
        raise BadRequestError(f"{what} has {odd[0]}; values of datatype {datatype} go into {field}")
    values = getattr(entry.contents, field)
    if len(values) != count:
        raise BadRequestError(f"{what} has {len(values)} values in {field}; shape {list(shape)} has {count}")
    if count > MAX_VALUES:
        raise BadRequestError(
            f"{what} has {count} values in {field}; send more than {MAX_VALUES} as raw_input_contents"
        )
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, list(values), parameters)
    wide = np.fromiter(values, np.dtype(numbers), count)
    array = wide.astype(np.dtype(DATATYPES[datatype]))
    if wide.dtype.kind in "iu" and not np.array_equal(wide, array):
        odd_value = int(wide[np.argmax(wide != array)])
        raise wrong(f"a value of {what}", odd_value, f"in the range of {datatype}")
    return Tensor(name, datatype, shape, array.tobytes(), parameters)


def _parameters(what: str, given: Any) -> Mapping[str, Parameter]:
    if len(given) > MAX_PARAMETERS:
        raise BadRequestError(f"{len(given)} parameters of {what}; at most {MAX_PARAMETERS}")
    found = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise BadRequestError(f"parameter {name[:80]!r} of {what} has no value")
        found[name] = getattr(value, kind)
    return checked_parameters(what, found)


def _set_parameters(into: Any, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            into[name].bool_param = value
        elif isinstance(value, int):
            if value < 1 << 63:
                into[name].int64_param = value
            else:
                into[name].uint64_param = value
        elif isinstance(value, float):
            into[name].double_param = value
        else:
            into[name].string_param = value
