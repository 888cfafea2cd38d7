"""Numbers that are the same in every release of Python and numpy, and how vectors hold bytes."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Json = dict[str, Any]

#: What is longer is held by its SHA-256.
MOST_BYTES = 600


class Numbers:
    """Pseudo-random ones. Only `random.Random.random` is used, whose sequence Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, limit: int) -> int:
        """From 0 to `limit` - 1."""
        return int(self._random.random() * limit)

    def one_of(self, choices: Sequence[T]) -> T:
        """Any of them."""
        return choices[self.below(len(choices))]

    def within(self, low: float, high: float) -> float:
        """A multiple of 1/64: sums of such are exact, in whatever order they are taken."""
        return low + self.below(round((high - low) * 64) + 1) / 64

    def octets(self, count: int) -> bytes:
        """So many bytes."""
        return bytes(self.below(256) for _ in range(count))

    def floats(self, count: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        """Around 0, most of them small: products of two."""
        found = [(self._random.random() - 0.5) * (self._random.random() + 0.01) * 2 * scale for _ in range(count)]
        return np.array(found, np.float32)


def text_of(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def held(data: bytes) -> Json:
    """``{"base64": ...}``, or of many bytes ``{"sha256": ..., "size": ...}``."""
    if len(data) <= MOST_BYTES:
        return {"base64": text_of(data)}
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
