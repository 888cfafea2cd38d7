"""Of several tables for one boundary, those with which held-out images take the fewest bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slicer.calibration.collect import Floats
from slicer.calibration.measure import Answer, Judge
from slicer.calibration.qualities import Tried, with_qualities
from slicer.core.codecs.transform.names import FIDELITIES
from slicer.core.codecs.transform.tables import TransformTables


class Best:
    """Offer some, one after another.

    Args:
        rows: [images, *shape], held out. answer: of the rest of the model.

    Attributes:
        way: name of the best. fitted: it, as it was offered. tables, tried: as `with_qualities` gives them. All are
            there after the first offer.
    """

    way: str
    fitted: TransformTables
    tables: TransformTables
    tried: Mapping[int, Tried]

    def __init__(self, rows: Floats, answer: Answer, judge: Judge) -> None:
        self._rows, self._answer, self._judge = rows, answer, judge
        self._size: tuple[int, float] | None = None

    def offer(self, way: str, fitted: TransformTables) -> None:
        """Take it, if it is better than what there is. Raises CodecError: it keeps no fidelity."""
        tables, tried = with_qualities(fitted, self._rows, self._answer, self._judge)
        size = _size(tried)
        if self._size is None or size < self._size:
            self.way, self.fitted, self.tables, self.tried, self._size = way, fitted, tables, tried, size


def _size(tried: Mapping[int, Tried]) -> tuple[int, float]:
    """How many qualities it lacks, then the sum of the logarithms of their median bytes."""
    return len(FIDELITIES) - len(tried), sum(float(np.log(np.median(one.sizes))) for one in tried.values())
