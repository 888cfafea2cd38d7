"""What became of a request's rows to its response, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slicer.common.top_k import top_k
from slicer.errors import BadRequestError
from slicer.protocol.messages import Answer, Refusal, Reply, Request, Timings
from slicer.protocol.oip.requests import LOGITS, TOP_K, ModelFacts
from slicer.protocol.oip.status import CODES
from slicer.protocol.oip.tensors import (
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

#: A response's parameters that are `Timings`, in their order.
_DURATIONS = ("admission_ms", "queue_ms", "execution_ms", "total_ms")

#: Letters of a digest that make a version.
VERSION_LETTERS = 12

_CLASSIFIER, _OTHER = (TOP_K, LOGITS), (LOGITS,)
_OF_OUTPUT = frozenset(("classification", "binary_data"))

Array = npt.NDArray[np.float32]


def version_of(digest: str) -> str:
    """Of a model: its weights and cuts, not a number that somebody counts up."""
    return digest[:VERSION_LETTERS]


def check_outputs(infer: InferRequest, model: ModelFacts) -> None:
    """What is asked for can be given; said before anything runs.

    Raises:
        BadRequestError: it cannot.
    """
    for output in infer.outputs:
        _check_output(output, model)
    if len({(output.name, _count(output) > 0) for output in infer.outputs}) < len(infer.outputs):
        raise BadRequestError(
            f"outputs: {names(output.name for output in infer.outputs)}; name each once, {LOGITS} also as classes"
        )


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
    shape = (len(replies), *replies[0].logits_shape)
    raw = b"".join([reply.logits for reply in replies])
    outputs = infer.outputs or [WantedOutput(name) for name in output_names(model)]
    tensors = [_output(output, model, raw, shape) for output in outputs]
    slowest = replies[0]
    if len(replies) > 1:
        slowest = max(replies, key=lambda reply: reply.timings.queue_ms + reply.timings.execution_ms)
    return InferResponse(model.name, tensors, infer.id, version_of(model.digest), _parameters(slowest))


def output_names(model: ModelFacts) -> Sequence[str]:
    """What the model answers, in the order of its metadata."""
    return _CLASSIFIER if _classifies(model) else _OTHER


def softmax(logits: Array) -> Array:
    """Of each row."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def _classifies(model: ModelFacts) -> bool:
    return len(model.shapes[-1]) == 1


def _check_output(output: WantedOutput, model: ModelFacts) -> None:
    if output.name not in output_names(model):
        raise BadRequestError(
            f"unknown output {output.name[:80]!r} of model {model.name!r}; it has {names(output_names(model))}"
        )
    allowed = _OF_OUTPUT if output.name == LOGITS else _OF_OUTPUT | {"k"}
    if not output.parameters.keys() <= allowed:
        unknown = next(name for name in output.parameters if name not in allowed)
        raise BadRequestError(
            f"unknown parameter {unknown[:80]!r} of output {output.name}; there are {names(sorted(allowed))}"
        )
    _count(output)  # it raises


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
    if not count:
        return Tensor(output.name, "FP32", shape, raw)
    logits: Array = np.frombuffer(raw, "<f4").reshape(shape)
    values = softmax(logits) if output.name == TOP_K else logits
    labels = model.labels
    elements: list[Buffer] = [_class_text(pair, labels) for row in values for pair in top_k(row, count)]
    return Tensor(output.name, "BYTES", (len(logits), len(elements) // len(logits)), elements)


def _class_text(pair: tuple[int, float], labels: Sequence[str]) -> bytes:
    """``value:index:label``, as Triton writes a class; the label may hold colons."""
    index, value = pair
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{value!r}:{index}{label}".encode()


def class_of(text: str | Buffer) -> tuple[float, int, str]:
    """Value, index and label of `_class_text`. Raises BadRequestError."""
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
    if len(response.outputs) != 1 or response.outputs[0].name != LOGITS or response.outputs[0].shape[:1] != (1,):
        raise wrong("the outputs of the answer", names(one.name for one in response.outputs), f"one row of {LOGITS}")
    output = response.outputs[0]
    pairs: tuple[tuple[int, float], ...] = ()
    logits: bytes = b""
    shape: tuple[int, ...] = ()
    if request.top_k is not None:
        classes = [class_of(one) for one in output.elements()]
        pairs = tuple((index, value) for value, index, _ in classes)
    elif output.datatype == "FP32":
        logits, shape = bytes(output.raw()), output.shape[1:]
    else:
        raise wrong("the datatype of logits", output.datatype, "FP32")
    parameters = response.parameters
    server = parameters.get("server", "")
    return Reply(
        request.id, timings_of(parameters), pairs, logits, shape, str(server), load_of(parameters.get("load", "[]"))
    )


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
