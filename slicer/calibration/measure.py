"""What a codec does to the model's answer, on images that were held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from slicer.calibration.collect import Floats
from slicer.core.protocol.calibration_index import Measured

#: Rows, [images, *shape], to the model's own result, [images, any number].
Answer = Callable[[Floats], Floats]


class Judge:
    """Compares answers with the exact ones. Any thread.

    Args:
        exact: [images, any number], from the exact activations.
        classifies: each is a number for every class.
    """

    def __init__(self, exact: Floats, classifies: bool) -> None:
        self._exact, self._classifies = exact.astype(np.float64), classifies

    def fidelity(self, answers: Floats) -> npt.NDArray[np.float64]:
        """[images], cosine to the exact answer."""
        a, b = answers.astype(np.float64), self._exact
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(lengths, 1e-30)
        return found

    def measured(self, cut: int, codec: str, sizes: Sequence[int], answers: Floats) -> Measured:
        """Of one codec: payload sizes and answers of all images."""
        fidelity = self.fidelity(answers)
        median = float(np.median(fidelity))
        agreement = median
        if self._classifies:
            agreement = float((answers.argmax(axis=1) == self._exact.argmax(axis=1)).mean())
        return Measured(
            cut,
            codec,
            round(float(np.median(sizes)), 1),
            round(median, 5),
            round(float(np.quantile(fidelity, 0.1)), 5),
            round(agreement, 5),
        )
