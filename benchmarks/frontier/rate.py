"""Rate against fidelity, image by image: the Bjontegaard difference over log(1 - cosine), and its spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

#: Fidelities over which curves are compared.
RANGE = (0.985, 0.997)

_POINTS = 50
_RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """One way to send images, at several qualities.

    Attributes:
        sizes: bytes, [qualities, images]. fidelity: cosine to the exact answer, [qualities, images].
    """

    sizes: Numbers
    fidelity: Numbers

    def log_sizes(self, image: int, wanted: Numbers) -> Numbers:
        """Natural logarithms of bytes at fidelities, given as -log(1 - cosine); nan outside of what was measured.

        More bytes that give less are passed over: the curve is what a sender could choose at best.
        """
        order = np.argsort(self.sizes[:, image], kind="stable")
        sizes = np.log(self.sizes[order, image])
        reached = np.maximum.accumulate(-np.log(np.maximum(1 - self.fidelity[order, image], 1e-12)))
        first = np.concatenate([[True], np.diff(reached) > 0])
        return np.asarray(np.interp(wanted, reached[first], sizes[first], left=np.nan, right=np.nan))


def bytes_for(curve: Curve, fidelity: float) -> Numbers:
    """[images]: the bytes that reach a fidelity; inf where none of the measured do.

    Where an image's curve never falls below it, its fewest bytes, which are then more than enough: leaving such easy
    images out would make a way look worse, and those that never reach it, better.
    """
    wanted = np.array([-np.log(1 - fidelity)])
    logs = np.array([float(curve.log_sizes(image, wanted)[0]) for image in range(curve.sizes.shape[1])])
    beyond = np.where((curve.fidelity >= fidelity).any(axis=0), curve.sizes.min(axis=0), np.inf)
    return np.where(np.isfinite(logs), np.exp(logs), beyond)


def bd_rate(ours: Curve, theirs: Curve) -> Numbers:
    """[images]: how many more bytes ours takes, as a share (-0.1: a tenth less), over the part of `RANGE` that both
    curves of the image cover; nan where they have less than a quarter of it in common."""
    wanted = np.linspace(-np.log(1 - RANGE[0]), -np.log(1 - RANGE[1]), _POINTS)
    found = []
    for image in range(ours.sizes.shape[1]):
        differences = ours.log_sizes(image, wanted) - theirs.log_sizes(image, wanted)
        covered = np.isfinite(differences)
        found.append(np.expm1(differences[covered].mean()) if covered.sum() * 4 >= _POINTS else np.nan)
    return np.array(found)


def summary(values: Numbers, seed: int = 0) -> dict[str, float | list[float] | int]:
    """Median, 10th and 90th percentile of the images that have one, and a 95 % interval of the median by resampling
    images, of which each is of a photo of its own."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {"images": 0}
    drawn = np.random.default_rng(seed).choice(known, (_RESAMPLES, len(known)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {
        "median": round(float(np.median(known)), 4),
        "p10": round(float(np.quantile(known, 0.1)), 4),
        "p90": round(float(np.quantile(known, 0.9)), 4),
        "ci95": [round(float(low), 4), round(float(high), 4)],
        "images": len(known),
    }
