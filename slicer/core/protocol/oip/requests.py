"""An inference request of the protocol to requests of the engine's side, one per row, and back.

| input      | datatype and shape                  | what it is                                                     |
|------------|-------------------------------------|----------------------------------------------------------------|
| IMAGE      | BYTES [B]                           | image files, as they are; in JSON as base64                    |
| IMAGE      | UINT8 [B, H, W, C] or [H, W, C]     | pixels as they were taken, of any size                         |
| ACTIVATION | FP32, FP16, BF16 [B, ...]           | activations at the cut, by the codec of the datatype's name    |
| ACTIVATION | UINT8 [B, bytes]                    | payloads of the codec that parameter `codec` names             |

Parameters stand at the input or at the request; those of the input win.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...errors import BadRequestError
from ..messages import MAX_PRIORITY, Request
from ..outputs import LOGITS, Output
from .http_body import MAX_REQUESTS, from_base64
from .tensors import Buffer, InferRequest, Parameter, Tensor, WantedOutput, names, wrong

IMAGE, ACTIVATION = "IMAGE", "ACTIVATION"
TOP_K = "top_k"

#: The most likely class at each place of a dense output [classes, ...].
CLASS_MAP = "class_map"

#: Outputs of floats with more values than this travel as FP16, where nobody says otherwise.
LARGE = 1 << 14

#: Codecs whose payload is a plain tensor -> its datatype. Payloads of all others are opaque: UINT8 [B, bytes].
TENSOR_CODECS: Mapping[str, str] = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}

#: Codec of pixels as they were taken: height, width and channels before them.
PIXELS = "pixels"
PIXELS_HEADER = struct.Struct("<III")

#: How image files begin -> their codec.
_BEGINS: Mapping[bytes, str] = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png"}

#: Parameters that a request may have, and what each must be.
PARAMETERS: Mapping[str, str] = {
    "cut": "how many slices have run already; without it 0",
    "codec": "of the activation; without it fp32, fp16 or bf16 by the datatype",
    "manifest": "digest of the manifest that the head belongs to; needed from cut 1 on",
    "timeout": "microseconds until the answer is worthless; 0: none",
    "priority": f"1 (first) to {MAX_PRIORITY}; 0: the default",
    "idempotency_key": "what all sendings of this request, and no others, have in common",
    "load": "true: the answer says how busy the server is",
}

#: What may stand there; `binary_data_output` is a matter of the transport.
_TAKEN = PARAMETERS.keys() | {"binary_data_output"}

_MOST_US = 1 << 53


class ModelFacts(Protocol):
    """What must be known of a model to read a request for it."""

    @property
    def name(self) -> str:
        """In the application."""

    @property
    def digest(self) -> str:
        """Of its manifest."""

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Of one row, at every cut from 0 to the number of slices."""

    @property
    def outputs(self) -> Sequence[Output]:
        """What a row that has run holds."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of its classes, in order; empty: none are known."""


def rows_of(
    infer: InferRequest, model: ModelFacts, *, outputs: tuple[str, ...] = (), limit: int = MAX_REQUESTS
) -> list[Request]:
    """One request per row; each asks for all logits, of which `responses.response_of` makes what was asked for.

    Their payloads are views into the tensors. What can only be said of a row itself (its cut, its shape) is not checked
    here: `HostedModel.check` does that for every way in.

    Args:
        outputs: of the model that the rows shall return whole, where that is more than its logits.
        limit: rows of one request.

    Raises:
        BadRequestError: no such input, output or parameter, or a value of the wrong kind.
    """
    if len(infer.inputs) != 1 or infer.inputs[0].name not in (IMAGE, ACTIVATION):
        given = names(repr(tensor.name[:80]) for tensor in infer.inputs) or "none"
        raise BadRequestError(f"inputs: {given}; give one, {IMAGE} or {ACTIVATION}")
    tensor = infer.inputs[0]
    parameters = {**infer.parameters, **tensor.parameters} if tensor.parameters else infer.parameters
    if not parameters.keys() <= _TAKEN:
        unknown = next(name for name in parameters if name not in _TAKEN)
        raise BadRequestError(f"unknown parameter {unknown[:80]!r}; there are {names(PARAMETERS)}")
    _check_rows(tensor, limit)
    rows = _images(tensor, parameters) if tensor.name == IMAGE else _activations(tensor, parameters, model)
    cut = _whole(parameters, "cut", 1 << 31)
    manifest = _text(parameters, "manifest")
    if not manifest:
        if cut:
            raise BadRequestError(
                f"an activation at cut {cut} without parameter manifest; it says which weights made the activation: "
                f"give the digest of the model's metadata ({model.digest[:12]}... here)"
            )
        manifest = model.digest
    timeout_us = _whole(parameters, "timeout", _MOST_US)
    key = _text(parameters, "idempotency_key")
    load = _flag(parameters, "load")
    priority = _whole(parameters, "priority", MAX_PRIORITY + 1)
    several = len(rows) > 1
    return [
        Request(
            id=f"{infer.id}/{number}" if several else infer.id,
            model=model.name,
            manifest=manifest,
            cut=cut,
            codec=codec,
            shape=shape or model.shapes[cut] if cut < len(model.shapes) else shape,
            payload=payload,
            deadline_ms=timeout_us / 1e3 if timeout_us else None,
            wants_load=load,
            key=f"{key}/{number}" if key and several else key,
            priority=priority,
            outputs=outputs,
        )
        for number, (codec, shape, payload) in enumerate(rows)
    ]


def _check_rows(tensor: Tensor, limit: int) -> None:
    """Before any row is made: a shape with a 0 in it says billions of rows of no bytes."""
    alone = tensor.name == IMAGE and tensor.datatype == "UINT8" and len(tensor.shape) == 3
    count = 1 if alone else tensor.shape[0] if tensor.shape else 1  # a shape without dimensions is refused later
    if not 1 <= count <= limit:
        raise BadRequestError(
            f"{count} rows in one request; a body has 1 to {MAX_REQUESTS}, and {limit} are left in this one"
        )


#: A row: codec, shape (empty: as the model has it at the cut), payload.
_Row = tuple[str, tuple[int, ...], "bytes | memoryview"]


def _images(tensor: Tensor, parameters: Mapping[str, Parameter]) -> list[_Row]:
    for name in ("cut", "codec"):
        if parameters.get(name) not in (None, 0):
            raise BadRequestError(
                f"parameter {name}={str(parameters[name])[:80]} with input {IMAGE}; an image enters at cut 0 as it is: "
                f"send {ACTIVATION} instead"
            )
    shape = tensor.shape
    if tensor.datatype == "BYTES":
        if len(shape) != 1 and shape[1:] != (1,):
            raise wrong(f"the shape of input {IMAGE}", list(shape), "[B] or [B, 1] for image files")
        return [_file_row(element) for element in tensor.elements()]
    if tensor.datatype != "UINT8" or len(shape) not in (3, 4):
        raise BadRequestError(
            f"input {IMAGE} has datatype {tensor.datatype} and shape {list(shape)}; it must be BYTES [B] (files), or "
            "UINT8 [B, height, width, channels] (pixels)"
        )
    count, (height, width, channels) = (1, shape) if len(shape) == 3 else (shape[0], shape[1:])
    size = height * width * channels
    if not size:
        raise wrong(f"the shape of input {IMAGE}", list(shape), "without a 0")
    head = PIXELS_HEADER.pack(height, width, channels)
    pixels = memoryview(tensor.data)  # type: ignore[arg-type]
    return [(PIXELS, (), b"".join((head, pixels[at * size : (at + 1) * size]))) for at in range(count)]


def _file_row(element: Buffer) -> _Row:
    codec, data = image_file(element)
    return codec, (), data


def image_file(data: Buffer) -> tuple[str, bytes | memoryview]:
    """Codec and bytes of an image file, or of one in base64.

    Raises:
        BadRequestError: it is neither JPEG nor PNG.
    """
    if codec := codec_of(data):
        return codec, memoryview(data)
    what = f"an image of {len(data)} bytes that begins with {bytes(data[:8])!r}"
    begin = from_base64(what, data[:8])  # tells before all of it is read
    if codec := codec_of(begin):
        return codec, from_base64(what, data)
    raise BadRequestError(f"an image that begins with {begin!r} is neither JPEG nor PNG; convert it")


def is_image_file(data: Buffer) -> bool:
    """Whether it begins as files do that may be sent as they are."""
    return bool(codec_of(data))


def codec_of(data: Buffer) -> str:
    """The codec that carries a file that begins so, as it is; empty: none."""
    return next((codec for begin, codec in _BEGINS.items() if bytes(data[: len(begin)]) == begin), "")


def _activations(tensor: Tensor, parameters: Mapping[str, Parameter], model: ModelFacts) -> list[_Row]:
    codec = _text(parameters, "codec") or tensor.datatype.lower()
    want = TENSOR_CODECS.get(codec, "UINT8")
    if tensor.datatype != want:
        raise BadRequestError(
            f"input {ACTIVATION} has datatype {tensor.datatype} with codec {codec[:80]!r}; that codec travels as {want}"
            + ("" if codec in TENSOR_CODECS else " of shape [B, bytes of a payload], and parameter codec names it")
        )
    if not tensor.shape:
        raise wrong(f"the shape of input {ACTIVATION}", [], "with the batch dimension first")
    count, shape = tensor.shape[0], tensor.shape[1:]
    if want == "UINT8":
        shape = ()
    data = memoryview(tensor.data)  # type: ignore[arg-type]
    size = len(data) // count
    return [(codec, shape, data[at * size : (at + 1) * size]) for at in range(count)]


def infer_request(request: Request) -> InferRequest:
    """What a client sends for one row: its outputs, or logits as they are, or the best of these by the classification
    extension."""
    datatype = TENSOR_CODECS.get(request.codec, "UINT8")
    shape = (1, *request.shape) if datatype != "UINT8" else (1, len(request.payload))
    parameters: dict[str, Parameter] = {"cut": request.cut, "codec": request.codec, "manifest": request.manifest}
    if request.deadline_ms is not None:
        parameters["timeout"] = max(int(request.deadline_ms * 1e3), 1)
    if request.key:
        parameters["idempotency_key"] = request.key
    if request.priority:
        parameters["priority"] = request.priority
    if request.wants_load:
        parameters["load"] = True
    whole: dict[str, Parameter] = {"binary_data": True, "datatype": "FP32"}
    outputs = [WantedOutput(name, dict(whole)) for name in request.outputs]
    if not outputs:
        outputs = [WantedOutput(LOGITS, whole if request.top_k is None else {"classification": request.top_k})]
    return InferRequest(
        request.model,
        [Tensor(ACTIVATION, datatype, shape, request.payload)],
        outputs,
        request.id,
        "",
        parameters,
    )


def _text(parameters: Mapping[str, Parameter], name: str) -> str:
    value: Any = parameters.get(name, "")
    if not isinstance(value, str):
        raise wrong(f"parameter {name}", value, "text")
    return value


def _whole(parameters: Mapping[str, Parameter], name: str, limit: int) -> int:
    value: Any = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < limit:
        raise wrong(f"parameter {name}", value, f"a whole number from 0 to {limit - 1}")
    return value


def _flag(parameters: Mapping[str, Parameter], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise wrong(f"parameter {name}", value, "true or false")
    return value
