"""Which of the four coefficients of each group are not 0: patterns and places, from one to the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiled import COMPILED, loops

GROUP = 4

Places = npt.NDArray[np.intp]
Patterns = npt.NDArray[np.uint8]

_BITS = np.array([1, 2, 4, 8], np.uint8)


def pattern_of(present: npt.NDArray[np.bool_]) -> Patterns:
    """[groups, 4], which coefficients are not 0, to [groups] patterns."""
    found: Patterns = present @ _BITS
    return found


def patterns_of(integers: npt.NDArray[np.int32], numpy: bool = False) -> tuple[Patterns, Places]:
    """[groups, 4] integers to [groups] patterns, and where in [groups * 4] the integers that are not 0 stand."""
    if numpy or not COMPILED:
        present = integers != 0
        return pattern_of(present), np.flatnonzero(present)
    patterns, places = np.empty(len(integers), np.uint8), np.empty(integers.size + 1, np.intp)
    count = loops.gather(np.ascontiguousarray(integers, np.int32), patterns, places)
    return patterns, places[:count]


def places_of(patterns: Patterns, numpy: bool = False) -> Places:
    """Where `patterns_of` found them."""
    if numpy or not COMPILED:
        return np.flatnonzero(patterns[:, None] & _BITS)
    places = np.empty(GROUP * len(patterns) + 1, np.intp)
    return places[: loops.expand(patterns, places)]
