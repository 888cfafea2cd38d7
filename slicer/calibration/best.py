"""Of several tables for one boundary, those with which held-out images take the fewest bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slicer.calibration.collect import Floats
from slicer.calibration.measure import Answer, Judge
from slicer.calibration.qualities import Tried, with_qualities
from slicer.core.codecs.transform.names import FIDELITIES
from slicer.core.codecs.transform.tables import TransformTables
from slicer.errors import CodecError


@dataclass(frozen=True)
class Found:
    """One that was offered.

    Attributes:
        way: its name. fitted: it, as it was offered. tables, tried: as `with_qualities` gives them.
    """

    way: str
    fitted: TransformTables
    tables: TransformTables
    tried: Mapping[int, Tried]


class Best:
    """Offer some, one after another.

    Args:
        rows: [images, *shape], held out. answer: of the rest of the model.
    """

    def __init__(self, rows: Floats, answer: Answer, judge: Judge) -> None:
        self._rows, self._answer, self._judge = rows, answer, judge
        self._found: tuple[tuple[int, float], Found] | None = None
        self._refused: CodecError | None = None

    def offer(self, way: str, fitted: TransformTables) -> None:
        """Take it, if it is better than what there is; one that keeps no fidelity is worse than any other."""
        try:
            tables, tried = with_qualities(fitted, self._rows, self._answer, self._judge)
        except CodecError as error:
            self._refused = self._refused or error
            return
        size = _size(tried)
        if self._found is None or size < self._found[0]:
            self._found = size, Found(way, fitted, tables, tried)

    @property
    def found(self) -> Found:
        """The best. Raises CodecError: none that was offered keeps a fidelity."""
        if self._found is None:
            raise self._refused or CodecError("no tables were offered")
        return self._found[1]


def _size(tried: Mapping[int, Tried]) -> tuple[int, float]:
    """How many qualities it lacks, then the sum of the logarithms of their median bytes."""
    return len(FIDELITIES) - len(tried), sum(float(np.log(np.median(one.sizes))) for one in tried.values())
