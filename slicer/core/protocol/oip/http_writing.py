"""Requests and responses to HTTP bodies, as `http_body` reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import BadRequestError
from ..messages import Refusal
from .http_body import ALL_BINARY, BINARY, MAX_REQUESTS, SIZE, Json
from .tensors import MAX_TEXT, MAX_VALUES, Buffer, InferRequest, InferResponse, Parameter, Tensor

_JSON = json.JSONEncoder(separators=(",", ":"))


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON where tensors follow it (else None).

    Args:
        request: what is answered; it says which outputs travel as bytes.
    """
    pieces: list[Buffer] = []
    _check_numbers(response, request, MAX_VALUES)
    text = _JSON.encode(_response_json(response, request, pieces)).encode()
    return (b"".join([text, *pieces]), len(text)) if pieces else (text, None)


def encode_responses(
    responses: Sequence[InferResponse | Refusal], requests: Sequence[InferRequest | Refusal]
) -> tuple[bytes, int | None]:
    """The body of the answer to a parcel, as `encode_response`; to what `decode_parcel` refused is a refusal."""
    pieces: list[Buffer] = []
    entries = []
    left = MAX_VALUES
    for response, request in zip(responses, requests, strict=True):
        if isinstance(response, Refusal):
            entries.append(refusal_json(response))
        else:
            assert isinstance(request, InferRequest), "what is refused is not answered"
            kept = len(pieces)
            try:
                left -= _check_numbers(response, request, left)
                entries.append(_response_json(response, request, pieces))
            except BadRequestError as error:  # it cannot be said in JSON; the others can
                del pieces[kept:]
                entries.append(refusal_json(Refusal(response.id, "bad_request", str(error))))
    text = _JSON.encode({"responses": entries}).encode()
    return (b"".join([text, *pieces]), len(text)) if pieces else (text, None)


def refusal_json(refusal: Refusal) -> Json:
    """``error`` is the protocol's; ``code`` is for programs, ``server`` the replica, ``id`` the request's."""
    found: Json = {"error": refusal.message[:MAX_TEXT], "code": refusal.code}
    if refusal.server:
        found["server"] = refusal.server
    if refusal.id:
        found["id"] = refusal.id
    return found


def refusal_text(refusal: Refusal) -> str:
    """`refusal_json` as an answer of a parcel has it."""
    return _JSON.encode(refusal_json(refusal))


def encode_request(request: InferRequest) -> tuple[bytes, int]:
    """A client's body with all tensors as bytes, and the length of its JSON."""
    pieces: list[Buffer] = []
    text = _JSON.encode(_request_json(request, pieces)).encode()
    return b"".join([text, *pieces]), len(text)


def encode_parcel(requests: Sequence[InferRequest]) -> tuple[bytes, int]:
    """As `encode_request`, of several. Raises BadRequestError: none, or more than `MAX_REQUESTS`."""
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise BadRequestError(f"{len(requests)} requests in one parcel; there are 1 to {MAX_REQUESTS}")
    pieces: list[Buffer] = []
    entries = [{"model_name": request.model, **_request_json(request, pieces)} for request in requests]
    text = _JSON.encode({"requests": entries}).encode()
    return b"".join([text, *pieces]), len(text)


def _request_json(request: InferRequest, pieces: list[Buffer]) -> Json:
    inputs = []
    for tensor in request.inputs:
        raw = tensor.raw()
        pieces.append(raw)
        inputs.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": dict(tensor.parameters, **{SIZE: len(raw)}),
            }
        )
    found: Json = {"inputs": inputs}
    if request.id:
        found["id"] = request.id
    if request.parameters:
        found["parameters"] = request.parameters
    if request.outputs:
        found["outputs"] = [
            {"name": output.name, **({"parameters": output.parameters} if output.parameters else {})}
            for output in request.outputs
        ]
    return found


def _as_bytes(response: InferResponse, request: InferRequest) -> list[Parameter]:
    """Of each output, whether it shall travel as bytes."""
    every = request.parameters.get(ALL_BINARY, False)
    return [output.parameters.get(BINARY, every) for output in request.outputs] or [every] * len(response.outputs)


def _check_numbers(response: InferResponse, request: InferRequest, left: int) -> int:
    """How many numbers it has in its JSON, which all are written at once. Raises BadRequestError: more than `left`."""
    pairs = zip(response.outputs, _as_bytes(response, request), strict=True)
    numbers = sum(math.prod(one.shape) for one, as_bytes in pairs if not as_bytes and one.datatype != "BYTES")
    if numbers > left:
        raise BadRequestError(
            f"{numbers} numbers as JSON; a body has at most {MAX_VALUES}, and {left} are left in this one: ask with "
            "binary_data: true"
        )
    return numbers


def _response_json(response: InferResponse, request: InferRequest, pieces: list[Buffer]) -> Json:
    outputs = []
    for tensor, as_bytes in zip(response.outputs, _as_bytes(response, request), strict=True):
        entry: Json = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters = dict(tensor.parameters)
        if as_bytes:
            raw = tensor.raw()
            parameters[SIZE] = len(raw)
            pieces.append(raw)
        elif tensor.datatype == "BYTES":
            entry["data"] = [bytes(one).decode("utf-8", "replace") for one in tensor.elements()]
        else:
            entry["data"] = _numbers(tensor)
        if parameters:
            entry["parameters"] = parameters
        outputs.append(entry)
    found: Json = {"model_name": response.model, "model_version": response.version, "outputs": outputs}
    if response.id:
        found["id"] = response.id
    if response.parameters:
        found["parameters"] = response.parameters
    return found


def _numbers(tensor: Tensor) -> list[Any]:
    """JSON knows neither NaN nor infinity."""
    array = tensor.array()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequestError(
            f"output {tensor.name!r} is not finite, which JSON cannot say; ask with binary_data: true"
        )
    return list(array.ravel().tolist())
