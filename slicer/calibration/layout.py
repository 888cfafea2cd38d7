"""Where an activation keeps its places: the grid of patch tokens and the tokens before them, or a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slicer.errors import CodecError


@dataclass(frozen=True)
class Layout:
    """Of one boundary's activation, without a batch dimension.

    Attributes:
        name: one of `slicer.core.codecs.transform.tables.LAYOUTS`.
        grid: height and width of places; prefix: tokens before them (class, register, distillation).
        channels: of each place.
    """

    name: str
    grid: tuple[int, int]
    prefix: int
    channels: int


def layout_of(shape: Sequence[int], axis: int, image: tuple[int, int]) -> Layout:
    """The layout of an activation of `shape` whose channels run along `axis`.

    Tokens are taken for a grid of the image's proportions, the largest that leaves no more than `MOST_PREFIX` tokens
    before it.

    Args:
        image: height and width of the model's input.

    Raises:
        CodecError: it has no places: a vector, or tokens that make no such grid.
    """
    if len(shape) == 3:
        if axis == 0:
            channels, height, width = shape
            return Layout("planes", (height, width), 0, channels)
        height, width, channels = shape
        return Layout("grid", (height, width), 0, channels)
    if len(shape) == 2 and axis == 1:
        tokens, channels = shape
        for prefix in range(min(MOST_PREFIX, tokens - 1) + 1):
            grid = _grid(tokens - prefix, image)
            if grid is not None:
                return Layout("tokens", grid, prefix, channels)
    raise CodecError(
        f"an activation of shape {tuple(shape)} has no grid of places that fits an image of {image[0]} x {image[1]}; "
        "use int8 at this cut"
    )


#: Tokens that may stand before the patches: a class, a distillation and some registers.
MOST_PREFIX = 16


def _grid(places: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of so many patches, if patches are square."""
    for height in range(1, places + 1):
        if places % height == 0 and height * image[1] == places // height * image[0]:
            return height, places // height
    return None
