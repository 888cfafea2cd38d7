"""Requests and responses as HTTP bodies: JSON, or JSON and after it the tensors' bytes (extension binary_tensor_data).
Here they are read; `http_writing` makes them.

The length of the JSON is in the header `LENGTH_HEADER`; without it the whole body is JSON. A tensor with parameter
``binary_data_size`` has its bytes after the JSON, in order, without gaps. Decoding never copies these: it gives
memoryviews into the body, so keep it unchanged while they are in use. Nothing of a body is trusted: whatever is wrong
with it is a BadRequestError, and no input makes the decoder allocate more than a small multiple of its length.

A parcel is our extension for requests that are unlike, or that are answered or refused each for itself:
``{"requests": [...]}``, each with its ``model_name`` and otherwise as alone; the answer is ``{"responses": [...]}`` in
the same order, each a response or ``{"error": ..., "code": ...}``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from ...errors import BadRequestError
from ..messages import Refusal
from . import tensors
from .tensors import (
    MAX_DIMS,
    MAX_TENSORS,
    MAX_TEXT,
    MAX_VALUES,
    Buffer,
    InferRequest,
    InferResponse,
    Tensor,
    WantedOutput,
    checked_datatype,
    checked_parameters,
    checked_shape,
    checked_text,
    wrong,
)

#: A header of requests and responses: how many bytes of the body are JSON.
LENGTH_HEADER = "Inference-Header-Content-Length"

#: The most bytes of JSON before tensors, of JSON that holds the tensors itself, and the most lists and objects in it:
#: Python's own for each weigh some 60 bytes. As many members (``"name": value``) may these have in all.
MAX_HEADER_BYTES = 1 << 20
MAX_JSON_BYTES = 16 << 20
MAX_NODES = 1 << 16

#: Most requests in one parcel, and most rows in one request.
MAX_REQUESTS = 1024

#: Parameters: of a tensor how many bytes behind the JSON are its own; of an output whether it shall travel as such
#: bytes; of a request whether all outputs shall.
SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"

Json = dict[str, Any]


class _Rest:
    """The bytes behind the JSON, taken piece by piece."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def take(self, what: str, size: Any) -> memoryview:
        if type(size) is not int or size < 0:
            raise wrong(f"binary_data_size of {what}", size, "a whole number, at least 0")
        left = len(self._view) - self._at
        if size > left:
            raise BadRequestError(f"binary_data_size of {what} is {size}; {left} bytes are left in the body")
        self._at += size
        return self._view[self._at - size : self._at]

    def ended(self) -> None:
        if left := len(self._view) - self._at:
            raise BadRequestError(
                f"{left} bytes follow the last tensor; the values of binary_data_size must add up to what follows the "
                f"JSON, whose length is in the header {LENGTH_HEADER}"
            )


def decode_request(body: Buffer, json_bytes: str | None, model: str, version: str = "") -> InferRequest:
    """The request of a body.

    Args:
        json_bytes: value of `LENGTH_HEADER`; None: the whole body is JSON.
        model, version: from the path.

    Raises:
        BadRequestError: the body is malformed, truncated or too long, or a field has the wrong type or range.
    """
    document, view = document_of(body, json_bytes)
    rest = _Rest(view)
    request = _request(document, rest, model, version)
    rest.ended()
    return request


def decode_parcel(body: Buffer, json_bytes: str | None) -> list[InferRequest | Refusal]:
    """The requests of a parcel, in order; of one that is bad in itself its refusal, so that it harms no other.

    Raises:
        BadRequestError: the body itself is bad, or which bytes belong to which request cannot be told.
    """
    document, view = document_of(body, json_bytes)
    rest = _Rest(view)
    entries = _list(document, "requests", "the parcel")
    if not 1 <= len(entries) <= MAX_REQUESTS:
        raise BadRequestError(f"{len(entries)} requests in one parcel; there are 1 to {MAX_REQUESTS}")
    requests: list[InferRequest | Refusal] = []
    for entry in entries:
        entry = _mapping(entry, "a request of the parcel")
        own = _Rest(rest.take("a request of the parcel", _tensor_bytes(entry)))
        try:
            model = checked_text("model_name", entry.get("model_name"))
            request = _request(entry, own, model, checked_text("model_version", entry.get("model_version", "")))
            own.ended()
            requests.append(request)
        except BadRequestError as error:
            given = entry.get("id", "")
            requests.append(Refusal(given[:MAX_TEXT] if isinstance(given, str) else "", "bad_request", str(error)))
    rest.ended()
    return requests


def _tensor_bytes(entry: Mapping[str, Any]) -> int:
    """How many bytes behind the JSON belong to a request, whatever else is wrong with it."""
    total = 0
    inputs = entry.get("inputs")
    for one in inputs if isinstance(inputs, list) else ():
        parameters = one.get("parameters") if isinstance(one, dict) else None
        size = parameters.get(SIZE, 0) if isinstance(parameters, dict) else 0
        if type(size) is not int or size < 0:
            raise wrong("binary_data_size of a request of the parcel", size, "a whole number, at least 0")
        total += size
    return total


def decode_response(body: Buffer, json_bytes: str | None) -> InferResponse:
    """A server's response. Raises BadRequestError: it is none."""
    document, view = document_of(body, json_bytes, trusted=True)
    rest = _Rest(view)
    response = _response(document, rest)
    rest.ended()
    return response


def decode_responses(body: Buffer, json_bytes: str | None) -> list[InferResponse | Json]:
    """A server's answers to a parcel, of a refusal its JSON object. Raises BadRequestError: it is none."""
    document, view = document_of(body, json_bytes, trusted=True)
    rest = _Rest(view)
    found: list[InferResponse | Json] = []
    for entry in _list(document, "responses", "the answer"):
        entry = _mapping(entry, "an answer of the parcel")
        found.append(dict(entry) if "error" in entry else _response(entry, rest))
    rest.ended()
    return found


def document_of(body: Buffer, json_bytes: str | None, *, trusted: bool = False) -> tuple[Mapping[str, Any], memoryview]:
    """The JSON object of a body, and what follows it.

    Args:
        trusted: of a server that was asked; its JSON may be as long as it likes.

    Raises:
        BadRequestError: there is no such object, or it is too long.
    """
    view = memoryview(body)
    if json_bytes is None:
        end, most = len(view), MAX_JSON_BYTES
    elif json_bytes.isascii() and json_bytes.isdigit() and len(json_bytes) <= 18 and int(json_bytes) <= len(view):
        end = int(json_bytes)
        most = MAX_JSON_BYTES if end == len(view) else MAX_HEADER_BYTES
    else:
        raise wrong(LENGTH_HEADER, json_bytes, f"a whole number, at most the {len(view)} bytes of the body")
    if end > most and not trusted:
        raise BadRequestError(f"{end} bytes of JSON; at most {most}: send tensors as bytes (binary_tensor_data)")
    piece = view[:end]
    if end > MAX_NODES and not trusted:  # one node takes a byte at least: a shorter text cannot hold too many
        _check_nodes(bytes(piece))
    try:
        document = json.loads(str(piece, "utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of 10,000 digits, depth 10,000
        begin = bytes(piece[:8])
        if json_bytes is None and begin[:1] not in (b"{", b" ", b"\n", b"\r", b"\t"):
            raise BadRequestError(
                f"the body begins with {begin!r} and is no JSON; an image as it is goes to /predict, and where bytes "
                f"follow the JSON the header {LENGTH_HEADER} says how long the JSON is"
            ) from None
        raise BadRequestError(f"the JSON cannot be read ({type(error).__name__}): {str(error)[:200]}") from None
    return _mapping(document, "the body"), view[end:]


def _check_nodes(text: bytes) -> None:
    """Before it is read, which holds the event loop; what stands within strings counts as well."""
    if max(text.count(b"[") + text.count(b"{"), text.count(b":")) > MAX_NODES:
        raise BadRequestError(
            f"more than {MAX_NODES} lists and objects, or members of these, in the JSON; send tensors as bytes, or flat"
        )
    if text.count(b",") > MAX_VALUES:
        raise BadRequestError(f"more than {MAX_VALUES} values in the JSON; send tensors as bytes (binary_tensor_data)")


def _request(document: Mapping[str, Any], rest: _Rest, model: str, version: str) -> InferRequest:
    request_parameters = checked_parameters("the request", document.get("parameters"))
    inputs = []
    for entry in _list(document, "inputs", "the request"):
        inputs.append(_tensor(_mapping(entry, "an input"), rest, "input"))
    outputs = []
    for entry in _list(document, "outputs", "the request", optional=True):
        entry = _mapping(entry, "an output")
        name = checked_text("the name of an output", entry.get("name"))
        outputs.append(WantedOutput(name, checked_parameters(f"output {name[:80]!r}", entry.get("parameters"))))
    return InferRequest(
        model,
        inputs,
        outputs,
        checked_text("id", _text_of(document.get("id", ""))),
        version,
        request_parameters,
    )


def _text_of(value: Any) -> Any:
    """Clients send whole numbers as ids, too, and null where they have none."""
    if value is None:
        return ""
    return str(value) if type(value) is int and abs(value) < 1 << 63 else value


def _tensor(entry: Mapping[str, Any], rest: _Rest, kind: str) -> Tensor:
    name = checked_text(f"the name of an {kind}", entry.get("name"))
    what = f"{kind} {name[:80]!r}"
    datatype = checked_datatype(what, entry.get("datatype"))
    shape = checked_shape(what, entry.get("shape"))
    parameters = checked_parameters(what, entry.get("parameters"))
    parameters.pop(BINARY, None)
    size = parameters.pop(SIZE, None)
    if size is not None:
        data = rest.take(what, size)
        if "data" in entry:
            raise BadRequestError(f"{what} has both data and binary_data_size; leave out one of the two")
        return tensors.tensor_of_raw(name, datatype, shape, data, parameters)
    values = entry.get("data")
    if datatype == "BYTES":
        values = _bytes_of(what, values)
    return tensors.tensor_of_values(name, datatype, shape, values, parameters)


def _bytes_of(what: str, values: Any, depth: int = 0) -> Any:
    """JSON has no bytes: an element is text, base64 where it is no plain text of its own (`from_base64`).

    Lists that are nested too deep stay as they are: `tensor_of_values` refuses them.
    """
    if not isinstance(values, list) or depth > MAX_DIMS:
        return values
    return [_bytes_of(what, one, depth + 1) if isinstance(one, list) else _element(what, one) for one in values]


def _element(what: str, one: Any) -> bytes:
    if not isinstance(one, str):
        raise wrong(f"an element of {what}", one, "text, in base64 where it is an image")
    return one.encode("utf-8", "surrogatepass")


def from_base64(what: str, element: Buffer) -> bytes:
    """What an element of BYTES in JSON holds. Raises BadRequestError: it is no base64."""
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequestError(
            f"{what} is neither an image file nor one in base64 ({error}); in JSON send base64, else bytes"
        ) from None


def _response(document: Mapping[str, Any], rest: _Rest) -> InferResponse:
    outputs = [_tensor(_mapping(one, "an output"), rest, "output") for one in _list(document, "outputs", "the answer")]
    return InferResponse(
        checked_text("model_name", document.get("model_name")),
        outputs,
        checked_text("id", document.get("id", "")),
        checked_text("model_version", document.get("model_version", "")),
        checked_parameters("the answer", document.get("parameters")),
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequestError(f"{what} is a {type(value).__name__}, not a JSON object")
    return value


def _list(entry: Mapping[str, Any], key: str, what: str, *, optional: bool = False) -> list[Any]:
    value = entry.get(key)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise wrong(f"{key} of {what}", value, "a list")
    if key in ("inputs", "outputs") and len(value) > MAX_TENSORS:
        raise BadRequestError(f"{len(value)} {key} of {what}; at most {MAX_TENSORS}")
    return value
