"""Whole numbers that a user gave: sizes of an input, counts, seeds."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
import torch

from slicer.core.common.error_text import shown
from slicer.errors import ModelError

#: Of an input's channels, height and width; more is a slip, and would fill the memory.
MAX_SIDE = 16384


def sizes(
    value: Any, count: int, what: str, meant: str = "channels, height and width, such as [3, 224, 224]"
) -> tuple[int, ...]:
    """`count` whole numbers from 1 to `MAX_SIDE`; else ModelError with `what` was given and what is `meant`."""
    found: list[Any] = (
        list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else [None]
    )
    if len(found) != count or not all(whole(n) for n in found):
        raise ModelError(f"{what} {shown(repr(value) if isinstance(value, str) else value)}: give {meant}")
    numbers = tuple(operator.index(n) for n in found if n is not None)
    if not all(1 <= n <= MAX_SIDE for n in numbers):
        raise ModelError(f"{what} {shown(value)}: each number must be from 1 to {MAX_SIDE}")
    return numbers


def whole(value: object) -> TypeGuard[SupportsIndex]:
    """Whether it is an integer, numpy's included; neither a boolean nor a tensor or array, which also count."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool | np.bool_ | torch.Tensor | np.ndarray)
