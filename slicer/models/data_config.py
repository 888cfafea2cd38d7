"""How an image becomes a model's input: what timm, the model's options and its file say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm

from slicer.core.common.error_text import shown
from slicer.core.images.preprocessing import Preprocessing
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ConfigError, ModelError
from slicer.models.numbers import sizes

#: Of data_config: whether images are turned upright by their EXIF orientation (the default). false: as timm has them.
EXIF_KEY = "exif_orientation"

#: What a model file or an own module may say about its input; the defaults are timm's own, except for EXIF_KEY.
DATA_KEYS: tuple[str, ...] = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", EXIF_KEY)


def data_config(spec: ModelSpec) -> dict[str, Any]:
    """How an image becomes this model's input, as timm's create_transform takes it, without building the model.

    Order of precedence: the spec's data_config, kwargs (img_size, in_chans, pretrained_cfg_overlay), timm's config of
    that name, timm's defaults (3x224x224, ImageNet mean and std, bicubic, crop_pct 0.875), which an own module gets.
    """
    from timm.data import resolve_data_config

    known: dict[str, Any] = {}
    if spec.kind == "timm":
        found = timm.get_pretrained_cfg(spec.architecture)
        known = found.to_dict() if found is not None else {}
    overlay = spec.kwargs.get("pretrained_cfg_overlay") or {}
    if not isinstance(overlay, Mapping):
        raise ModelError(f"pretrained_cfg_overlay {shown(overlay)}: it must be a mapping of timm's data config")
    known.update(overlay)
    channels, height, width = sizes(known.get("input_size") or (3, 224, 224), 3, "input_size")
    if (img_size := spec.kwargs.get("img_size")) is not None:
        pair = [img_size] * 2 if isinstance(img_size, int) else img_size
        height, width = sizes(pair, 2, "img_size", "one number, or height and width, such as 224 or [224, 224]")
    if spec.kwargs.get("in_chans") is not None:
        (channels,) = sizes([spec.kwargs["in_chans"]], 1, "in_chans", "one number, such as 3")
    args = {"input_size": (channels, height, width), **spec.data_config}
    try:
        config = dict(resolve_data_config(args, pretrained_cfg=known))
        config["input_size"] = sizes(config["input_size"], 3, "input_size")
        for key in ("mean", "std"):
            config[key] = tuple(float(value) for value in config[key])
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        given = {**overlay, **spec.data_config}
        raise ModelError(
            f"data_config {shown(given)} is not valid ({shown(str(error))}); see timm's data config"
        ) from error
    for key in ("mean", "std"):  # timm states three; another number of channels (in_chans) gets their average
        if len(config[key]) != config["input_size"][0]:
            config[key] = (sum(config[key]) / len(config[key]),) * config["input_size"][0]
    return config


def preprocessing_of(spec: ModelSpec) -> Preprocessing:
    """What makes this model's input without torch or timm: the bits of `slicer.models.images.Preprocess`.

    Raises:
        ModelError: as `data_config`; or a description cannot say it, such as interpolation ``random``, or an input of
            two channels.
    """
    config = data_config(spec)
    described = {key: config[key] for key in DATA_KEYS if key != EXIF_KEY}
    try:
        return Preprocessing(**described, exif_orientation=bool(spec.data_config.get(EXIF_KEY, True)))
    except ConfigError as error:
        raise ModelError(f"model {shown(spec.architecture)}: {error}") from error
