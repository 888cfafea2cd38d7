"""Models that run on another one's trunk: the engine knows them by its name, and cuts each row's own answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.scheduling.scheduler import Row
from slicer.core.protocol.outputs import Output, packed


class Fork(NamedTuple):
    """Where the output of one model lies in what its trunk's last slice gives.

    Attributes:
        trunk: the engine's name of the model that runs it.
        own: its part of a row.
        total: numbers of a row, all models' together.
    """

    trunk: str
    own: Output
    total: int

    def cut(self, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Its own part of a row's output, in memory of its own, so that nobody keeps the others' for it.

        What is not of `total` numbers comes from an executor that computes no answers, and is passed on as it is.
        """
        return row if row.size != self.total else np.array(self.own.of(row))


#: By the name of the model; the trunk itself is one of them.
Forks = Mapping[str, Fork]


def forks_of(trunk: str, outputs: Mapping[str, tuple[int, ...]]) -> dict[str, Fork]:
    """The forks of one trunk.

    Args:
        outputs: by the models' names, in the order in which the trunk gives them: their outputs' shapes.
    """
    parts = packed(list(outputs.items()))
    total = sum(part.size for part in parts)
    return {part.name: Fork(trunk, part, total) for part in parts}


def asked_of(row: Row) -> str:
    """The model that a row was sent to."""
    return row.fork or row.model
