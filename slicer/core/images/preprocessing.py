"""timm's evaluation transform in numpy and Pillow: the bits of `slicer.models.images.Preprocess`, without torch.

A server describes a model's input in JSON; a device makes it. The form, format 1::

    {"format": 1, "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
     "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "exif_orientation": true}

Pillow resizes, here as in timm. Of two releases of Pillow it is Pillow that says whether their bits are equal.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import ConfigError, ImageError
from .image_files import plain_image

#: Of the description. A reader of another one refuses it: a key that it does not know may change the pixels.
FORMAT = 1

INTERPOLATIONS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}

#: center: the shorter edge is scaled, the longer one cut. squash: both are scaled. border: the longer edge is scaled,
#: and beside the image there is the mean's colour.
CROP_MODES: tuple[str, ...] = ("center", "squash", "border")

#: Of an input's height and width, and of what an image is scaled to before the crop; more would fill the memory.
MAX_SIDE = 16384

#: Characters of a description.
_LONGEST = 10_000


@dataclass(frozen=True)
class Preprocessing:
    """One image to one model input. Frozen, picklable, thread-safe.

    Attributes:
        input_size: (channels, height, width) of every result; 1 channel (luminance) or 3 (RGB).
        interpolation: one of `INTERPOLATIONS`.
        crop_pct: images are scaled to the input's size divided by it; 0.9: a tenth of an edge is cut off.
        crop_mode: one of `CROP_MODES`.
        mean, std: of each channel, of values from 0 to 1; used as float32.
        exif_orientation: images are turned as their EXIF orientation says.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif_orientation: bool = True

    def __post_init__(self) -> None:
        self._check_size()
        for key, known in (("interpolation", tuple(INTERPOLATIONS)), ("crop_mode", CROP_MODES)):
            if (value := getattr(self, key)) not in known:
                raise _refused(key, value, f"it must be one of {', '.join(known)}")
        if not _is_number(self.crop_pct) or not self.crop_pct > 0:
            raise _refused("crop_pct", self.crop_pct, "it must be a number above 0, such as 0.9")
        # As quotients: the floor of what is infinite is an error of its own.
        if not all(1 <= side / self.crop_pct < MAX_SIDE + 1 for side in self.input_size[1:]):
            raise _refused(
                "crop_pct",
                self.crop_pct,
                f"height and width divided by it must be from 1 to {MAX_SIDE}, and input_size is {self.input_size}",
            )
        for key in ("mean", "std"):
            self._check_channels(key)
        darkest_and_brightest = np.array([0, 255], dtype=np.uint8).reshape(1, 2, 1, 1).repeat(self.input_size[0], -1)
        with np.errstate(over="ignore"):
            extremes = self.normalise(darkest_and_brightest)
        if not np.isfinite(extremes).all():
            raise _refused("std", self.std, "pixels would become infinite: give larger ones")
        if not isinstance(self.exif_orientation, bool):
            raise _refused("exif_orientation", self.exif_orientation, "it must be true or false")

    def _check_size(self) -> None:
        size = self.input_size
        if not _is_tuple(size, 3) or not all(type(side) is int for side in size):
            raise _refused("input_size", size, "it must be channels, height and width, such as [3, 224, 224]")
        if size[0] not in (1, 3):
            raise _refused("input_size", size, "images become 3 channels (RGB) or 1 (luminance)")
        if not all(1 <= side <= MAX_SIDE for side in size[1:]):
            raise _refused("input_size", size, f"height and width must be from 1 to {MAX_SIDE}")

    def _check_channels(self, key: str) -> None:
        values = getattr(self, key)
        if not _is_tuple(values, self.input_size[0]) or not all(_is_number(value) for value in values):
            raise _refused(key, values, f"it must be {self.input_size[0]} numbers, one for each channel")
        with np.errstate(over="ignore"):
            single = np.array(values, dtype=np.float32)
        if not np.isfinite(single).all() or (key == "std" and not single.all()):
            raise _refused(key, values, f"each number must be finite{' and not 0' * (key == 'std')} as float32")

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing of a description, as `to_dict` makes it; all keys must be there, and no other.

        Raises:
            ConfigError: it is of another format, a key is missing or unknown, or a value is wrong.
        """
        if not isinstance(description, Mapping):
            raise ConfigError(f"preprocessing {reprlib.repr(description)} is no mapping; give one of format {FORMAT}")
        values = dict(description)
        version = values.pop("format", None)
        if type(version) is not int or version != FORMAT:
            raise _refused("format", version, f"this build reads {FORMAT}: use the server's release on both sides")
        names = [one.name for one in fields(cls)]
        if wrong := [name for name in names if name not in values]:
            raise ConfigError(f"preprocessing lacks {', '.join(wrong)}; give all of {', '.join(names)}")
        if unknown := [name for name in values if name not in names]:
            raise ConfigError(f"preprocessing {reprlib.repr(unknown[0])}: unknown key; there are {', '.join(names)}")
        lists = {key: tuple(values[key]) for key in ("input_size", "mean", "std") if _is_list(values[key])}
        return cls(**{**values, **lists})

    @classmethod
    def from_json(cls, text: str | bytes) -> Preprocessing:
        """As `from_dict`, of JSON. Raises ConfigError."""
        if len(text) > _LONGEST:
            raise ConfigError(f"preprocessing of {len(text)} characters; at most {_LONGEST} are read")
        try:
            description = json.loads(text)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, too deep
            raise ConfigError(
                f"preprocessing {reprlib.repr(text)} is no JSON ({type(error).__name__}); give format {FORMAT}"
            ) from None
        return cls.from_dict(description)

    def to_dict(self) -> dict[str, Any]:
        """The description, of plain JSON values."""
        described = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"format": FORMAT, **described}

    def to_json(self) -> str:
        """The description; `from_json` of it equals this, to the last bit of each number."""
        return json.dumps(self.to_dict())

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every result."""
        return self.input_size

    @property
    def mode(self) -> str:
        """Pillow's, of the image that is scaled and cropped: RGB or L."""
        return "L" if self.input_size[0] == 1 else "RGB"

    def __call__(self, image: str | Path | Image.Image) -> npt.NDArray[np.float32]:
        """The image, or that of a file, as float32, `shape`, contiguous.

        Raises:
            ImageError: the file cannot be read as an image, `images.pixels` cannot make it what the model takes,
                or nothing would be left of its shorter edge.
        """
        pixels = np.asarray(self.crop(image)).reshape(1, *self.input_size[1:], self.input_size[0])
        array: npt.NDArray[np.float32] = self.normalise(pixels)[0]
        return array

    def plain(self, image: str | Path | Image.Image) -> Image.Image:
        """The image upright and in `mode`, of its own size. Raises ImageError, with the name of a file."""
        return plain_image(image, self.mode, upright=self.exif_orientation)

    def crop(self, image: str | Path | Image.Image) -> Image.Image:
        """The image in `mode` and in the model's size, uint8. Raises ImageError as the call itself."""
        upright = self.plain(image)
        height, width = self._scaled(upright.height, upright.width)
        if min(height, width) < 1:
            raise ImageError(
                f"an image of {upright.width}x{upright.height} pixels would become {width}x{height} for a model of "
                f"{self.input_size[2]}x{self.input_size[1]}; crop it"
            )
        if (height, width) != (upright.height, upright.width):
            upright = upright.resize((width, height), INTERPOLATIONS[self.interpolation])
        return self._cut_out(upright)

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The rest of it, a batch at once: crops, uint8 [B, H, W, C], to float32 [B, C, H, W], contiguous.

        ``normalise(crop(image))`` has the bits of ``self(image)``: torch's operations, in torch's order, on float32.
        """
        batch: npt.NDArray[np.float32] = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        batch /= np.float32(255)
        batch -= np.array(self.mean, dtype=np.float32).reshape(-1, 1, 1)
        batch /= np.array(self.std, dtype=np.float32).reshape(-1, 1, 1)
        return batch

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which timm scales an image of these, with its rounding, before the crop."""
        target_h, target_w = (math.floor(side / self.crop_pct) for side in self.input_size[1:])
        if self.crop_mode == "squash":
            return target_h, target_w
        if self.crop_mode == "center" and target_h == target_w:  # torchvision's: the longer edge is rounded down
            longer = int(target_h * max(height, width) / min(height, width))
            return (target_h, longer) if height <= width else (longer, target_h)
        ratios = height / target_h, width / target_w
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return round(height / ratio), round(width / ratio)  # timm's: half to even

    def _cut_out(self, image: Image.Image) -> Image.Image:
        """The middle of the image in the model's size; where the image is smaller, a border is put around it first."""
        height, width = self.input_size[1:]
        more_h, more_w = max(height - image.height, 0), max(width - image.width, 0)
        if more_h or more_w:
            border = (more_w // 2, more_h // 2, (more_w + 1) // 2, (more_h + 1) // 2)
            image = ImageOps.expand(image, border, self._border_colour())
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)  # half to even
        return image.crop((left, top, left + width, top + height))

    def _border_colour(self) -> tuple[int, ...]:
        if self.crop_mode != "border":
            return (0,) * self.input_size[0]
        return tuple(min(max(round(255 * value), 0), 255) for value in self.mean)


def _refused(key: str, value: object, remedy: str) -> ConfigError:
    return ConfigError(f"preprocessing {key} is {reprlib.repr(value)}; {remedy}")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is larger than any float
        return False


def _is_tuple(value: object, length: int) -> bool:
    return isinstance(value, tuple) and len(value) == length


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
