"""The images of a calibration: found in a folder, parted in those that tables see and others, and cropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from slicer.core.images.folders import EXTENSIONS
from slicer.errors import ImageError
from slicer.models.images import Preprocess

#: Each photo is cropped so often for the tables, if there are few.
CROPS = 8

#: Of a calibration's images every so many-th is held out: qualities are measured on it, and no table sees it.
HELD_OUT_EVERY = 4

#: Crops for the tables, over all photos; more make them hardly better, and take longer.
_MOST_CROPS = 400

#: Photos that are held out.
_MOST_HELD_OUT = 96

#: Fewer say nothing.
LEAST_IMAGES = 8


def find_photos(folder: str | Path) -> list[Path]:
    """All images in a folder and below, by name; labels and other files are not looked at.

    Raises:
        ImageError: there are fewer than `LEAST_IMAGES`.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"images {root}: there is no such directory")
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() in EXTENSIONS)
    if len(found) < LEAST_IMAGES:
        raise ImageError(
            f"images {root}: {len(found)} found ({', '.join(EXTENSIONS)}); calibration takes {LEAST_IMAGES} at least, "
            "and some hundred to be good"
        )
    return found


def parted(photos: Sequence[Path], seed: int = 0) -> tuple[list[Path], list[Path]]:
    """Those for the tables, and those that are held out; mixed, since a folder is often sorted by what it shows."""
    order = np.random.default_rng(seed).permutation(len(photos))
    mixed = [photos[at] for at in order]
    held = mixed[::HELD_OUT_EVERY][:_MOST_HELD_OUT]
    taken = set(held)
    return [photo for photo in mixed if photo not in taken][:_MOST_CROPS], held


def crops(
    photo: Image.Image, preprocess: Preprocess, rng: np.random.Generator, count: int = CROPS
) -> list[Image.Image]:
    """The model's own crop, and some of other places and sizes, every second one mirrored."""
    plain = preprocess.plain(photo)
    found = [preprocess.crop(plain)]
    for number in range(1, count):
        side = rng.uniform(0.45, 1) * min(plain.size)
        left, top = (rng.uniform(0, size - side) for size in plain.size)
        part = preprocess.crop(plain.crop((int(left), int(top), int(left + side), int(top + side))))
        found.append(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else part)
    return found


def crops_each(photos: int) -> int:
    """How often each of so many photos is cropped."""
    return max(1, min(CROPS, _MOST_CROPS // max(photos, 1)))
