"""The images of the frontier: some to fit tables on, others to send."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from slicer.calibration.photos import CROPS
from slicer.core.images.folders import find_images
from slicer.core.images.image_files import read_image
from slicer.errors import ConfigError
from slicer.models.images import load_digits

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

#: Of the shipped digits, so many are sent for one that tables are fitted on.
_DIGITS_SENT = 2


@dataclass(frozen=True)
class Photos:
    """What one run looks at.

    Attributes:
        calibration: for tables and as neighbours. test: what is sent; no file is in both.
        labels: of `test`, numbers of classes; None: they have none.
        crops: how many of each photo of calibration tables are fitted on.
    """

    calibration: Sequence[Image.Image]
    test: Sequence[Image.Image]
    labels: tuple[int, ...] | None
    crops: int


def from_folders(calibrate: Path, images: Path, *, labelled: bool, limit: int | None) -> Photos:
    """Files of two folders.

    Args:
        labelled: `images` holds a folder per class.
        limit: so many of `images`, spread over all of them.

    Raises:
        ConfigError: a folder holds no image, or both hold files of equal bytes. ImageError: a file is no image.
    """
    labels: tuple[int, ...] | None = None
    if labelled:
        found = find_images(images)
        chosen = _spread(len(found), limit)
        sent, labels = [found.files[at] for at in chosen], tuple(found.labels[at] for at in chosen)
    else:
        files = _files(images)
        sent = [files[at] for at in _spread(len(files), limit)]
    seen = _files(calibrate)
    if both := {_digest(file) for file in sent} & {_digest(file) for file in seen}:
        raise ConfigError(
            f"{len(both)} files of {calibrate} are among the images to send; tables must not know them: remove them "
            "from one folder"
        )
    return Photos([read_image(file) for file in seen], [read_image(file) for file in sent], labels, CROPS)


def shipped_digits(limit: int | None) -> Photos:
    """The held-out digits that ship with the demo models, which were trained on none of them."""
    pixels, labels = load_digits()
    images = [Image.fromarray(one) for one in pixels]
    every = _DIGITS_SENT + 1
    others = [at for at in range(len(images)) if at % every]
    sent = [others[at] for at in _spread(len(others), limit)]
    return Photos(images[::every], [images[at] for at in sent], tuple(int(labels[at]) for at in sent), crops=1)


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"{folder}: there is no image ({', '.join(SUFFIXES)})")
    return files


def _spread(count: int, limit: int | None) -> list[int]:
    """Places of `limit` of so many; all of them without."""
    wanted = count if limit is None else min(limit, count)
    return [at * count // wanted for at in range(wanted)]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
