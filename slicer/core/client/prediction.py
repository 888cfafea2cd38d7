"""What a client gets for an image or an activation: its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadRequestError
from ..protocol.messages import Timings
from ..protocol.oip.responses import class_of, timings_of
from ..protocol.oip.tensors import InferResponse


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class, and how sure the model is of it.

    Attributes:
        label: its name; None: the server has no names for the model's classes.
        score: probability, 0 to 1.
        class_index: its place among the model's outputs.
    """

    label: str | None
    score: float
    class_index: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best class, and those after it.

    Attributes:
        label, score, class_index: of the best class, as of `ClassScore`.
        top_k: the best classes, best first; as many as were asked for, or as there are.
        model: that answered.
        timings: where the server spent the time, ms; of rows that came in one request, those of the slowest.
        server: name of the replica that answered.
    """

    label: str | None
    score: float
    class_index: int
    top_k: tuple[ClassScore, ...] = field(repr=False)
    model: str
    timings: Timings = field(repr=False)
    server: str = field(repr=False)


def predictions_of(response: InferResponse) -> list[Prediction]:
    """One per row. Raises BadRequestError: the response has no classes."""
    (output,) = response.outputs or (None,)
    if output is None or len(output.shape) != 2 or not all(output.shape):
        raise BadRequestError(f"the answer's output has shape {output and output.shape}; classes are [rows, k]")
    rows, count = output.shape
    classes = [_class(text) for text in output.elements()]
    if len(classes) != rows * count:
        raise BadRequestError(f"{len(classes)} classes in the answer; its shape has {rows * count}")
    timings, server = timings_of(response.parameters), _server(response.parameters)
    found = []
    for row in range(rows):
        of_row = tuple(classes[row * count : (row + 1) * count])
        best = of_row[0]
        found.append(Prediction(best.label, best.score, best.class_index, of_row, response.model, timings, server))
    return found


def _class(text: Any) -> ClassScore:
    score, index, label = class_of(text)
    return ClassScore(label or None, score, index)


def _server(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("server", ""))
