"""Which step of the tables keeps which fidelity: the coarsest whose median over held-out images reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slicer.calibration.collect import Floats
from slicer.calibration.measure import Answer, Judge
from slicer.core.codecs.transform.names import FIDELITIES
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import TransformTables
from slicer.errors import CodecError


@dataclass(frozen=True)
class Tried:
    """One step on all held-out images."""

    fidelity: float
    sizes: list[int]
    answers: Floats


def with_qualities(
    tables: TransformTables, rows: Floats, answer: Answer, judge: Judge, fidelities: Sequence[int] = FIDELITIES
) -> tuple[TransformTables, dict[int, Tried]]:
    """Tables whose steps are those of `fidelities` (thousandths), coarsest first; and what each does, by fidelity.

    A fidelity that no step reaches is left out. Frequencies and scales stay: they go by the scale over the step.

    Args:
        rows: [images, *shape], held out. answer: of the rest of the model.
    """
    search = _Search(tables, rows, answer, judge)
    found: dict[int, tuple[int, Tried]] = {}
    for fidelity in sorted(fidelities):
        if (best := search.coarsest(fidelity / 1000)) is not None:
            found[fidelity] = best
    if not found:
        raise CodecError(f"no step keeps a fidelity of {min(fidelities) / 1000}; use int8 at this cut")
    tables = replace(
        tables,
        steps=np.array([level for level, _ in found.values()], np.uint8),
        qualities=np.array([round(10_000 * tried.fidelity) for _, tried in found.values()], np.uint16),
    )
    return tables, {fidelity: tried for fidelity, (_, tried) in found.items()}


class _Search:
    """Over the levels of steps, which are whole; each is tried once."""

    def __init__(self, tables: TransformTables, rows: Floats, answer: Answer, judge: Judge) -> None:
        self._tables, self._rows, self._answer, self._judge = tables, rows, answer, judge
        self._known: dict[int, Tried | None] = {}
        self._coarse, self._fine = int(tables.steps.max()), int(tables.steps.min())

    def coarsest(self, fidelity: float) -> tuple[int, Tried] | None:
        """The highest level that reaches a fidelity, by halving: more bytes keep more, but for noise."""
        low, high = max(self._fine - 16, 0), min(self._coarse + 8, 255)  # the step of low is a sixteenth of the finest
        if (best := self._try(low)) is None or best.fidelity < fidelity:
            return None
        while low < high:
            middle = (low + high + 1) // 2
            tried = self._try(middle)
            if tried is not None and tried.fidelity >= fidelity:
                low, best = middle, tried
            else:
                high = middle - 1
        return low, best

    def _try(self, level: int) -> Tried | None:
        if level not in self._known:
            codec = BoundaryCodec(replace(self._tables, steps=np.array([level], np.uint8), qualities=np.zeros(1, "u2")))
            try:
                payloads = [codec.encode(row, 0) for row in self._rows]
            except CodecError:  # too fine for these activations
                self._known[level] = None
                return None
            back = np.empty_like(self._rows)
            for payload, out in zip(payloads, back, strict=True):
                codec.decode(payload, out)
            answers = self._answer(back)
            fidelity = float(np.median(self._judge.fidelity(answers)))
            self._known[level] = Tried(fidelity, [len(payload) for payload in payloads], answers)
        return self._known[level]
