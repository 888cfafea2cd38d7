"""timm's own evaluation transform: model inputs, and what they are before they become floats."""

from __future__ import annotations

from typing import Any

import numpy as np
from timm.data import create_transform

from clients.web.making.images import SIZES, image
from clients.web.making.numbers import Json, Numbers, held
from clients.web.making.resample import FILTERS
from slicer.core.images.pixels import plain
from slicer.errors import ImageError

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
_GREY = {"mean": [0.1307], "std": [0.3081]}

_MODES = ("center", "squash", "border")
_PERCENTS = (0.875, 0.9, 0.95, 1.0, 0.96, 0.5, 1.25)
_SMALL = ([3, 24, 24], [3, 32, 20], [3, 17, 40], [1, 16, 16], [3, 7, 7], [1, 9, 20])

#: As the models that people use have them: large images, each with every one of these.
_USUAL: tuple[Json, ...] = (
    {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center", **_HALF},
    {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center", **_IMAGENET},
    {"input_size": [3, 256, 256], "interpolation": "bilinear", "crop_pct": 0.95, "crop_mode": "center", **_IMAGENET},
    {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash", **_CLIP},
    {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "border", **_CLIP},
)


def vectors() -> list[Json]:
    """Image and description of each; the crop uint8 [H, W, C] and the input float32 [C, H, W], or why there is none."""
    cases = [(name, config) for name in SIZES if name.startswith("formula") for config in _USUAL]
    numbers = Numbers(41)
    for interpolation in FILTERS:
        for crop_mode in _MODES:
            for _ in range(12):
                size = numbers.one_of(_SMALL)
                scale = _GREY if size[0] == 1 else numbers.one_of((_IMAGENET, _HALF, _CLIP))
                config = {
                    "input_size": size,
                    "interpolation": interpolation,
                    "crop_pct": numbers.one_of(_PERCENTS),
                    "crop_mode": crop_mode,
                    **scale,
                }
                cases.append((numbers.one_of([name for name in SIZES if "1280" not in name]), config))
    return [_case(name, config) for name, config in cases]


def _case(name: str, config: Json) -> Json:
    found: Json = {"image": name, "preprocessing": {"format": 1, **config, "exif_orientation": True}}
    transform: Any = create_transform(**config, is_training=False)
    try:
        picture = plain(image(name), "L" if config["input_size"][0] == 1 else "RGB")
        for step in transform.transforms[:-2]:  # what follows makes floats of it
            picture = step(picture)
        values = transform(plain(image(name), picture.mode))
    except ImageError:
        return {**found, "error": "ImageError"}
    except ValueError as error:  # Pillow's, of an image that would become 0 pixels wide or high
        assert "must be > 0" in str(error)
        return {**found, "error": "ImageError"}
    array = np.ascontiguousarray(values.numpy(), "<f4")
    assert list(array.shape) == config["input_size"]
    return {**found, "crop": held(picture.tobytes()), "input": held(array.tobytes())}
