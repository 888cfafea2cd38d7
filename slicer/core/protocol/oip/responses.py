"""What became of a request's rows to its response, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...common.top_k import top_k
from ...errors import BadRequestError
from ..messages import Answer, Refusal, Reply, Request, Timings
from ..outputs import LOGITS, Output
from .requests import CLASS_MAP, LARGE, TOP_K, ModelFacts
from .status import CODES
from .tensors import (
    DATATYPES,
    Buffer,
    InferRequest,
    InferResponse,
    Parameter,
    Tensor,
    WantedOutput,
    names,
    wrong,
)

#: How many classes `TOP_K` has, where nobody says.
DEFAULT_K = 5

#: Of all answers in one body, as text: some 40 ms of the event loop.
MOST_CLASSES = 1 << 15

#: A response's parameters that are `Timings`, in their order.
_DURATIONS = ("admission_ms", "queue_ms", "execution_ms", "total_ms")

#: Letters of a digest that make a version.
VERSION_LETTERS = 12

_FLOATS = {"FP32": 4, "FP16": 2}
_OF_OUTPUT: Mapping[str, frozenset[str]] = {
    TOP_K: frozenset(("classification", "k", "binary_data")),
    CLASS_MAP: frozenset(("binary_data",)),
    LOGITS: frozenset(("classification", "binary_data", "datatype")),
}
_OF_FURTHER = frozenset(("binary_data", "datatype"))

Array = npt.NDArray[np.float32]


def version_of(digest: str) -> str:
    """Of a model: its weights and cuts, not a number that somebody counts up."""
    return digest[:VERSION_LETTERS]


def check_outputs(infer: InferRequest, model: ModelFacts) -> tuple[str, ...]:
    """What is asked for can be given; said before anything runs.

    Returns:
        What `Request.outputs` of its rows must be.

    Raises:
        BadRequestError: it cannot.
    """
    for output in infer.outputs:
        _check_output(output, model)
    if len({(output.name, _count(output) > 0) for output in infer.outputs}) < len(infer.outputs):
        raise BadRequestError(
            f"outputs: {names(output.name for output in infer.outputs)}; name each once, {LOGITS} also as classes"
        )
    sources = {_source(output.name) for output in infer.outputs} or {LOGITS}
    return () if sources == {LOGITS} else tuple(one.name for one in model.outputs if one.name in sources)


def answer_bytes(infer: InferRequest, model: ModelFacts, rows: int) -> int:
    """Bytes of the tensors that answer it, classes as text not counted."""
    known = {one.name: one for one in model.outputs}
    total = 0
    for output in wanted(infer, model):
        source = known[_source(output.name)]
        if output.name == CLASS_MAP:
            total += source.size // source.shape[0] * np.dtype(DATATYPES[class_map_datatype(source.shape[0])]).itemsize
        elif not _count(output):
            total += source.size * _FLOATS[datatype_of(output.parameters.get("datatype"), source)]
    return rows * total


def check_classes(infer: InferRequest, model: ModelFacts, rows: int, left: int = MOST_CLASSES) -> int:
    """How many classes its answer has as text. Raises BadRequestError: more than are left of `MOST_CLASSES`."""
    each = model.outputs[0].size
    classes = rows * sum(min(_count(output), each) for output in wanted(infer, model))
    if classes > left:
        raise BadRequestError(
            f"{classes} classes as text for {rows} rows; a body has at most {MOST_CLASSES}, and {left} are left in "
            f"this one: ask for fewer, or for {LOGITS} as bytes (binary_data: true)"
        )
    return classes


def check_size(infer: InferRequest, model: ModelFacts, rows: int, limit: int) -> int:
    """`answer_bytes`. Raises BadRequestError: more than `limit`."""
    size = answer_bytes(infer, model, rows)
    if size > limit:
        raise BadRequestError(
            f"an answer of {size} bytes for {rows} rows; model {model.name!r} gives at most {limit} "
            f"(max_answer_bytes): ask for fewer rows or outputs, for datatype FP16, or for {CLASS_MAP} of a dense one"
        )
    return size


def response_of(infer: InferRequest, model: ModelFacts, answers: Sequence[Answer]) -> InferResponse | Refusal:
    """The response to a request, or why there is none: then one of its rows has failed.

    Args:
        answers: to `requests.rows_of` of this request, in order; replies with all logits.
    """
    replies: list[Reply] = []
    for number, answer in enumerate(answers):
        if isinstance(answer, Refusal):
            where = f"row {number} of {len(answers)}: " if len(answers) > 1 else ""
            return Refusal(infer.id, answer.code, where + answer.message, answer.server)
        replies.append(answer)
    given = _given(replies)
    try:
        tensors = [_output(output, model, *given[_source(output.name)]) for output in wanted(infer, model)]
    except BadRequestError as error:
        return Refusal(infer.id, "bad_request", str(error), replies[0].server)
    slowest = replies[0]
    if len(replies) > 1:
        slowest = max(replies, key=lambda reply: reply.timings.queue_ms + reply.timings.execution_ms)
    return InferResponse(model.name, tensors, infer.id, version_of(model.digest), _parameters(slowest))


def output_names(model: ModelFacts) -> Sequence[str]:
    """What the model can answer, in the order of its metadata."""
    own = model.outputs[0]
    special = [TOP_K] if len(own.shape) == 1 else [CLASS_MAP] if len(own.shape) > 1 and own.shape[0] else []
    return (*special, *(output.name for output in model.outputs))


def wanted(infer: InferRequest, model: ModelFacts) -> Sequence[WantedOutput]:
    """What is asked for; where nothing is named, the classes and logits."""
    return infer.outputs or ([WantedOutput(TOP_K)] if len(model.outputs[0].shape) == 1 else []) + [WantedOutput(LOGITS)]


def class_map_datatype(classes: int) -> str:
    """The smallest that holds the number of each class."""
    return "UINT8" if classes <= 1 << 8 else "UINT16"


def datatype_of(given: Parameter | None, output: Output) -> str:
    """In which an output of floats travels. Raises BadRequestError: in none that there is."""
    if given is None:
        return "FP16" if output.size > LARGE else "FP32"
    if not isinstance(given, str) or given not in _FLOATS:
        raise wrong(f"the datatype of output {output.name}", given, " or ".join(_FLOATS))
    return given


def softmax(logits: Array) -> Array:
    """Of each row."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def _source(name: str) -> str:
    """Of which of the model's outputs it is made."""
    return LOGITS if name in (TOP_K, CLASS_MAP) else name


def _given(replies: Sequence[Reply]) -> Mapping[str, tuple[bytes, tuple[int, ...]]]:
    """The model's outputs by name: float32 of all rows, and their shape with the rows first."""
    first = replies[0]
    if not first.outputs:
        return {LOGITS: (b"".join([reply.logits for reply in replies]), (len(replies), *first.logits_shape))}
    return {
        name: (b"".join([reply.outputs[place][2] for reply in replies]), (len(replies), *shape))
        for place, (name, shape, _) in enumerate(first.outputs)
    }


def _check_output(output: WantedOutput, model: ModelFacts) -> None:
    if output.name not in output_names(model):
        raise BadRequestError(
            f"unknown output {output.name[:80]!r} of model {model.name!r}; it has {names(output_names(model))}"
        )
    allowed = _OF_OUTPUT.get(output.name, _OF_FURTHER)
    if not output.parameters.keys() <= allowed:
        unknown = next(name for name in output.parameters if name not in allowed)
        raise BadRequestError(
            f"unknown parameter {unknown[:80]!r} of output {output.name}; there are {names(sorted(allowed))}"
        )
    if not _count(output) and output.name != CLASS_MAP:  # both raise
        datatype_of(output.parameters.get("datatype"), model.outputs[0])


def _count(output: WantedOutput) -> int:
    """How many classes; 0: the tensor itself. Of an output of several dimensions they count through all its values."""
    value: Any = output.parameters.get("k", output.parameters.get("classification"))
    if value is None:
        return DEFAULT_K if output.name == TOP_K else 0
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise wrong(f"the number of classes of output {output.name}", value, "a whole number, at least 1")
    return value


def _output(output: WantedOutput, model: ModelFacts, raw: bytes, shape: tuple[int, ...]) -> Tensor:
    count = _count(output)
    if output.name == CLASS_MAP:
        classes = np.frombuffer(raw, "<f4").reshape(shape).argmax(1)
        datatype = class_map_datatype(shape[1])
        return Tensor(CLASS_MAP, datatype, classes.shape, classes.astype(DATATYPES[datatype]).tobytes())
    if not count:
        source = next(one for one in model.outputs if one.name == output.name)
        datatype = datatype_of(output.parameters.get("datatype"), source)
        return Tensor(output.name, datatype, shape, raw if datatype == "FP32" else _half(output.name, raw))
    logits: Array = np.frombuffer(raw, "<f4").reshape(shape)
    values = softmax(logits) if output.name == TOP_K else logits
    labels = model.labels
    elements: list[Buffer] = [class_text(pair, labels) for row in values for pair in top_k(row, count)]
    return Tensor(output.name, "BYTES", (len(logits), len(elements) // len(logits)), elements)


def _half(name: str, raw: bytes) -> bytes:
    """Numbers as FP16. Raises BadRequestError: one is beyond it."""
    values: Array = np.frombuffer(raw, "<f4")
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if np.isinf(half).any() and (beyond := np.isinf(half) & np.isfinite(values)).any():
        raise BadRequestError(
            f"output {name} holds {values[beyond][0]:.6g}, which FP16 cannot; ask for it with datatype FP32"
        )
    return half.tobytes()


def class_text(pair: tuple[int, float], labels: Sequence[str]) -> bytes:
    """``value:index:label``, as Triton writes a class; the label may hold colons."""
    index, value = pair
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{value!r}:{index}{label}".encode()


def class_of(text: str | Buffer) -> tuple[float, int, str]:
    """Value, index and label of `class_text`. Raises BadRequestError."""
    parts = (text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")).split(":", 2)
    try:
        return float(parts[0]), int(parts[1]), parts[2] if len(parts) > 2 else ""
    except (ValueError, IndexError):
        raise wrong("a class", ":".join(parts), "value:index or value:index:label") from None


def _parameters(reply: Reply) -> dict[str, Parameter]:
    timings = reply.timings
    found: dict[str, Parameter] = {
        "server": reply.server,
        # To the microsecond: more digits tell nothing, and to write them costs one each.
        "admission_ms": round(timings.admission_ms, 3),
        "queue_ms": round(timings.queue_ms, 3),
        "execution_ms": round(timings.execution_ms, 3),
        "total_ms": round(timings.total_ms, 3),
        "rows_per_step": ",".join(map(str, timings.rows_per_step)),
    }
    if reply.load:
        found["load"] = json.dumps(reply.load)
    return found


def timings_of(parameters: Mapping[str, Parameter]) -> Timings:
    """Of a response. Raises BadRequestError: they are missing, or of the wrong kind."""
    durations: list[Any] = [parameters.get(name) for name in _DURATIONS]
    for name, value in zip(_DURATIONS, durations, strict=True):
        if type(value) is not float and type(value) is not int:
            raise wrong(name, value, "a duration")
    rows = parameters.get("rows_per_step")
    try:
        steps = tuple(map(int, str(rows).split(","))) if rows else ()
    except ValueError:
        raise wrong("rows_per_step", rows, "whole numbers with commas between") from None
    admission_ms, queue_ms, execution_ms, total_ms = durations
    return Timings(admission_ms, queue_ms, execution_ms, total_ms, steps)


def reply_of(response: InferResponse, request: Request) -> Reply:
    """A client's view of the response to `requests.infer_request`. Raises BadRequestError: it is none to that."""
    given, asked = response.outputs, request.outputs or (LOGITS,)
    if tuple(one.name for one in given) != asked or any(one.shape[:1] != (1,) for one in given):
        raise wrong("the outputs of the answer", names(one.name for one in given), f"one row of {', '.join(asked)}")
    pairs: tuple[tuple[int, float], ...] = ()
    logits: bytes = b""
    shape: tuple[int, ...] = ()
    outputs: tuple[tuple[str, tuple[int, ...], bytes], ...] = ()
    if request.outputs:
        outputs = tuple((one.name, one.shape[1:], _float32(one)) for one in given)
    elif request.top_k is not None:
        classes = [class_of(one) for one in given[0].elements()]
        pairs = tuple((index, value) for value, index, _ in classes)
    else:
        logits, shape = _float32(given[0]), given[0].shape[1:]
    parameters = response.parameters
    server, load = str(parameters.get("server", "")), load_of(parameters.get("load", "[]"))
    return Reply(request.id, timings_of(parameters), pairs, logits, shape, server, load, outputs)


def _float32(output: Tensor) -> bytes:
    if output.datatype != "FP32":
        raise wrong(f"the datatype of {output.name}", output.datatype, "FP32")
    return bytes(output.raw())


def refusal_of(document: Mapping[str, Any], request_id: str) -> Refusal:
    """A refusal from ``{"error": ..., "code": ...}``. Raises BadRequestError: it has no code of ours."""
    code, message = document.get("code"), document.get("error")
    if code not in CODES or not isinstance(message, str):
        raise wrong("the refusal's code", code, "one of this release's")
    return Refusal(request_id, code, message, str(document.get("server", "")))


def load_of(text: Parameter) -> tuple[tuple[int, float, float], ...]:
    """How busy the server says that it is (`Reply.load`). Raises BadRequestError."""
    try:
        return tuple((int(entry), float(queue), float(run)) for entry, queue, run in json.loads(str(text)))
    except (ValueError, TypeError, RecursionError):
        raise wrong("load", text, "a list of entries, each with two durations") from None
