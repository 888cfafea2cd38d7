"""Pillow's `Image.resize`, for every filter. From Pillow 13 on some images are resized along the height first."""

from __future__ import annotations

from PIL.Image import Resampling

from clients.web.making.images import image
from clients.web.making.numbers import Json, held

FILTERS: dict[str, Resampling] = {
    "nearest": Resampling.NEAREST,
    "box": Resampling.BOX,
    "bilinear": Resampling.BILINEAR,
    "hamming": Resampling.HAMMING,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
}

#: Image -> sizes that it becomes: larger, smaller, both at once, along one axis only, one pixel, its own.
_SIZES: dict[str, list[tuple[int, int]]] = {
    "noise-1x1": [(1, 1), (5, 3)],
    "noise-1x32": [(1, 7), (4, 32), (3, 50), (4, 30)],
    "noise-32x1": [(7, 1), (32, 4), (50, 3)],
    "noise-2x3": [(9, 11), (1, 1), (2, 7)],
    "noise-13x17": [(13, 17), (12, 16), (29, 31), (5, 40), (1, 1), (13, 4), (6, 17), (26, 8)],
    "noise-9x28": [(4, 12), (8, 24), (12, 37)],
    "noise-40x27": [(20, 13), (41, 28), (7, 9), (80, 54), (3, 60)],
    "edges-23x31": [(22, 30), (24, 32), (64, 64), (9, 9), (1, 62), (18, 21), (18, 20)],
    "edges-61x44": [(32, 32), (224, 160), (11, 7), (60, 43), (122, 22)],
    "formula-320x240": [(256, 192), (298, 224), (32, 24), (7, 500)],
    "formula-241x397": [(224, 368), (31, 51), (241, 100), (224, 224), (482, 198)],
    "formula-1280x720": [(455, 256), (224, 224)],
}


def vectors() -> list[Json]:
    """Image, size and filter of each, and the pixels [height, width, 3]."""
    return [
        {
            "image": name,
            "width": width,
            "height": height,
            "interpolation": interpolation,
            "rgb": held(image(name).resize((width, height), resampling).tobytes()),
        }
        for name, sizes in _SIZES.items()
        for width, height in sizes
        for interpolation, resampling in FILTERS.items()
    ]
