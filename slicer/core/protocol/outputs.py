"""What a model gives, and where each of it lies in the one row that leaves the last slice.

A model that gives several outputs returns them flattened, one behind another, so that batches, steps and memory know
one tensor only. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

#: The model's own result; the pooled embedding; what it pools: tokens, or a map.
LOGITS, FEATURES, TOKENS = "logits", "features", "tokens"

#: What a model can be asked for beside its own result, in the order in which they are packed.
FURTHER: tuple[str, ...] = (FEATURES, TOKENS)

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


def packed(outputs: Sequence[tuple[str, Sequence[int]]]) -> tuple[Output, ...]:
    """Outputs of these names and shapes, one behind another."""
    found: list[Output] = []
    start = 0
    for name, shape in outputs:
        found.append(Output(name, tuple(shape), start))
        start += found[-1].size
    return tuple(found)
