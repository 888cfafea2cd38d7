"""What a model gives, and where each of it lies in the one row that leaves the last slice.

A model that gives several outputs returns them flattened, one behind another, so that batches, steps and memory know
one tensor only. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..common.error_text import nearest, shown

#: The model's own result; the pooled embedding; what it pools: tokens, or a map.
LOGITS, FEATURES, TOKENS = "logits", "features", "tokens"

#: What a model can be asked for beside its own result, in the order in which they are packed.
FURTHER: tuple[str, ...] = (FEATURES, TOKENS)

#: Of one number of an answer.
FLOAT_BYTES = 4

#: float32 by name, each in the shape of its one row; not to be written to.
Outputs = Mapping[str, npt.NDArray[np.float32]]

Value = TypeVar("Value", np.float32, np.float16)


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a model.

    Attributes:
        name: `LOGITS` or one of `FURTHER`; of models on one trunk the model (`deployments.engine.forks`).
        shape: of one row.
        start: where it begins in the packed row, in values.
    """

    name: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def size(self) -> int:
        """Values of one row."""
        return math.prod(self.shape)

    def of(self, row: npt.NDArray[Value]) -> npt.NDArray[Value]:
        """Its part of a packed row, in its own shape; a view."""
        return row.reshape(-1)[self.start : self.start + self.size].reshape(self.shape)


def in_order(names: Sequence[str], known: Sequence[str] = (LOGITS, *FURTHER)) -> tuple[str, ...]:
    """Names of outputs, each once, in the order in which they are packed. ValueError: one is unknown."""
    if unknown := [name for name in names if name not in known]:
        near = nearest(unknown[0], known)
        raise ValueError(f"unknown output {shown(repr(unknown[0]))}{near}; there are {', '.join(known)}")
    return tuple(name for name in known if name in names)


def bytes_of(outputs: Sequence[Output], names: Sequence[str]) -> int:
    """What those of these names weigh in an answer, as float32 of one row."""
    return FLOAT_BYTES * sum(one.size for one in outputs if one.name in names)


def packed(outputs: Sequence[tuple[str, Sequence[int]]]) -> tuple[Output, ...]:
    """Outputs of these names and shapes, one behind another."""
    found: list[Output] = []
    start = 0
    for name, shape in outputs:
        found.append(Output(name, tuple(shape), start))
        start += found[-1].size
    return tuple(found)
