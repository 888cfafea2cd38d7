"""Names of the codecs that need tables: a model has them at the cuts where it was calibrated."""

from __future__ import annotations

#: Thousandths of the fidelity that each keeps, by the median of the images that calibration held out.
FIDELITIES = (980, 990, 995, 998)

_PREFIX = "transform-"

#: ``transform-980``, ...
NAMES = tuple(f"{_PREFIX}{fidelity}" for fidelity in FIDELITIES)

#: Nanoseconds per value to encode, on a device that has not measured it: numpy on a small board.
ENCODE_NS = 60.0


def named(fidelity: int) -> str:
    """The codec that keeps so many thousandths."""
    return f"{_PREFIX}{fidelity}"


def needs_tables(codec: str) -> bool:
    """Whether a codec's name is of this family."""
    return codec.startswith(_PREFIX) and codec[len(_PREFIX) :].isdecimal()
