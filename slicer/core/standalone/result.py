"""What a device on its own gives for an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..device.answer import TopK
from ..errors import HeadTailError, ImageError, RefusedError, ServerError
from ..records.record import Record

#: Of a record, in the order of a request's way.
PHASES = ("wait_ms", "head_ms", "encode_ms", "network_ms", "admission_ms", "queue_ms", "execution_ms")


@dataclass(frozen=True, slots=True)
class ClassLogit:
    """A class: its name (None: the server has none), its place among the model's outputs, its logit."""

    label: str | None
    class_index: int
    logit: float


@dataclass(frozen=True, slots=True)
class Result:
    """The best class, and those after it.

    Attributes:
        label, class_index, logit: of the best class, as of `ClassLogit`.
        top_k: the best classes, best first.
        timings: where the time went, ms by phase: wait, head, encode, network, admission, queue, execution, and
            inference, from the call to the answer. A phase that did not take place is missing.
        cut, codec: how the image was treated; `payload_bytes`: what was sent of it.
        alone: the device finished by itself, since the server did not answer.
    """

    label: str | None
    class_index: int
    logit: float
    top_k: tuple[ClassLogit, ...] = field(repr=False)
    timings: Mapping[str, float] = field(repr=False)
    cut: int
    codec: str
    payload_bytes: int
    alone: bool


def result_of(answer: TopK, record: Record, labels: Sequence[str]) -> Result:
    """Of a closed record and its answer.

    Raises:
        ImageError: the image cannot be read. RefusedError: the server refused. ServerError: it did not answer.
    """
    if record.outcome != "answered":
        raise error_of(record)
    classes = tuple(ClassLogit(labels[index] if index < len(labels) else None, index, value) for index, value in answer)
    timings = {name.removesuffix("_ms"): getattr(record, name) for name in (*PHASES, "inference_ms")}
    best = classes[0]
    return Result(
        best.label,
        best.class_index,
        best.logit,
        classes,
        {name: ms for name, ms in timings.items() if ms is not None},
        record.cut,
        record.codec,
        record.payload_bytes,
        bool(record.alone),
    )


def error_of(record: Record) -> HeadTailError:
    """Why a request has no answer."""
    if record.code == "bad_image":
        return ImageError(record.message)
    if record.outcome == "lost":
        return ServerError(record.message)
    return RefusedError(record.code or record.outcome, record.message)
