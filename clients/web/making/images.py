"""Images that others are made of: odd sizes, noise, sharp edges, and large ones that a formula gives."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

from clients.web.making.numbers import Json, Numbers, text_of

#: Name -> width, height. ``noise``: random; ``edges``: black and white only, so that filters overshoot.
_STORED: dict[str, tuple[int, int]] = {
    "noise-1x1": (1, 1),
    "noise-1x32": (1, 32),
    "noise-32x1": (32, 1),
    "noise-2x3": (2, 3),
    "noise-13x17": (13, 17),
    "noise-9x28": (9, 28),
    "noise-40x27": (40, 27),
    "edges-23x31": (23, 31),
    "edges-61x44": (61, 44),
    "edges-36x36": (36, 36),
}

#: Made by `formula`.
_LARGE: dict[str, tuple[int, int]] = {
    "formula-320x240": (320, 240),
    "formula-241x397": (241, 397),
    "formula-1280x720": (1280, 720),
}

#: Of which no model's input is made: too long for their width.
_REFUSED: dict[str, tuple[int, int]] = {"noise-1x33": (1, 33), "noise-70x2": (70, 2)}

SIZES: dict[str, tuple[int, int]] = {**_STORED, **_LARGE, **_REFUSED}


def vectors() -> list[Json]:
    """Name, size and pixels [height, width, 3] of each; where these are missing, `formula` gives them."""
    found: list[Json] = []
    for name, (width, height) in SIZES.items():
        entry: Json = {"name": name, "width": width, "height": height}
        if name not in _LARGE:
            entry["rgb"] = text_of(image(name).tobytes())
        found.append(entry)
    return found


@functools.cache
def image(name: str) -> Image.Image:
    """RGB."""
    width, height = SIZES[name]
    if name in _LARGE:
        return Image.fromarray(formula(width, height))
    numbers = Numbers(width * 1000 + height)
    octets = numbers.octets(width * height * 3)
    if name.startswith("edges"):
        octets = bytes(255 * (octet >> 7) for octet in octets)
    return Image.frombytes("RGB", (width, height), octets)


def formula(width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3], at x, y, channel c: 7 x + 13 y + floor(x y / 8) + 91 c, modulo 256."""
    y, x, c = np.ogrid[:height, :width, :3]
    pixels: npt.NDArray[np.int64] = (7 * x + 13 * y + (x * y >> 3) + 91 * c) & 255
    return pixels.astype(np.uint8)
