"""Models that run on another one's trunk: the engine knows them by its name, and cuts each row's own answer out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.scheduling.scheduler import Row


class Fork(NamedTuple):
    """Where the output of one model lies in what its trunk's last slice gives.

    Attributes:
        trunk: the engine's name of the model that runs it.
        start: its first number in a row of `total` numbers.
        shape: of its output, without the batch dimension.
    """

    trunk: str
    start: int
    total: int
    shape: tuple[int, ...]

    def cut(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Its own part of a row's output, in memory of its own, so that nobody keeps the others' for it.

        What is not of `total` numbers comes from an executor that computes no answers, and is passed on as it is.
        """
        if row.size != self.total:
            return row
        own = row.reshape(-1)[self.start : self.start + math.prod(self.shape)].reshape(self.shape)
        return np.array(own)


#: By the name of the model; the trunk itself is one of them.
Forks = Mapping[str, Fork]


def forks_of(trunk: str, outputs: Mapping[str, tuple[int, ...]]) -> dict[str, Fork]:
    """The forks of one trunk.

    Args:
        outputs: by the models' names, in the order in which the trunk gives them: their outputs' shapes.
    """
    total = sum(math.prod(shape) for shape in outputs.values())
    found, start = {}, 0
    for name, shape in outputs.items():
        found[name] = Fork(trunk, start, total, shape)
        start += math.prod(shape)
    return found


def asked_of(row: Row) -> str:
    """The model that a row was sent to."""
    return row.fork or row.model
