"""A preprocessor_config.json as timm's data config: size, crop, resampling, mean and std.

timm's transform has the bits of transformers' image processors of PIL (classes ``...ImageProcessorPil``), with one
exception: where an odd number of rows or columns is cut off, the two may begin one pixel apart. transformers' default
processors, which resize tensors, differ by a few of 255 levels. What timm cannot say is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slicer.core.common.error_text import named_line, shown
from slicer.errors import ModelError
from slicer.models.hugging_face.structure import quiet, transformers

#: PIL's numbers of its filters, and timm's names.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

#: Processors that do no more than resize, crop, rescale and normalise; each with its defaults in transformers.
_KNOWN = ("Beit", "Bit", "CLIP", "ConvNext", "Data2VecVision", "DeiT", "DINOv3ViT", "Segformer", "Siglip", "ViT")

_REMEDY = (
    "; describe the input yourself: data_config in a model file (input_size, mean, std, interpolation, crop_pct, ...)"
)


def data_config_of(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Timm's data config for a preprocessor_config.json.

    Raises:
        ModelError: it asks for something that timm's transform does not do; the message says what.
    """
    return _config(_processor(document, name), name)


def _processor(document: Mapping[str, Any], name: str) -> Any:
    """transformers' own object, for the defaults of whatever the file leaves out."""
    kind = document.get("image_processor_type") or document.get("feature_extractor_type")
    plain = str(kind).removesuffix("Fast").removesuffix("Pil")
    plain = plain.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if plain not in _KNOWN:
        raise ModelError(
            f"model {name}: its images are made by {shown(str(kind))}, which timm has no counterpart of{_REMEDY}"
        )
    library = transformers()
    made = getattr(library, f"{plain}ImageProcessor", None)
    try:
        with quiet():
            return made.from_dict(dict(document))  # type: ignore[union-attr]
    except Exception as error:
        raise ModelError(
            f"model {name}: its preprocessor_config.json is not valid: {named_line(error)}{_REMEDY}"
        ) from error


def _config(made: Any, name: str) -> dict[str, Any]:
    def get(key: str) -> Any:
        return getattr(made, key, None)

    def refuse(what: str) -> ModelError:
        return ModelError(
            f"model {name}: its preprocessor_config.json says {what}, which timm's transform cannot do{_REMEDY}"
        )

    if not get("do_resize"):
        raise refuse("do_resize: false")
    if not get("do_rescale") or not math.isclose(get("rescale_factor"), 1 / 255, rel_tol=1e-6):
        raise refuse(f"do_rescale: {get('do_rescale')}, rescale_factor: {get('rescale_factor')}")
    if get("do_pad"):
        raise refuse("do_pad: true")
    filter_name = _FILTERS.get(int(get("resample")))
    if filter_name is None:
        raise refuse(f"resample: {get('resample')}")
    normalised = get("do_normalize")
    mean = [float(value) for value in get("image_mean")] if normalised else [0.0] * 3
    std = [float(value) for value in get("image_std")] if normalised else [1.0] * 3
    size = _sizes(get("size"))
    crop = _sizes(get("crop_size")) if get("do_center_crop") else {}
    (height, width), mode, fraction = _geometry(size, crop, get("crop_pct"), refuse)
    return {
        "input_size": [len(mean), height, width],
        "mean": mean,
        "std": std,
        "interpolation": filter_name,
        "crop_mode": mode,
        "crop_pct": fraction,
    }


def _geometry(size: dict[str, int], crop: dict[str, int], share: float | None, refuse: Any) -> Any:
    """((height, width), timm's crop_mode, timm's crop_pct)."""
    cut = (crop["height"], crop["width"]) if crop.keys() == {"height", "width"} else None
    if crop and cut is None:
        raise refuse(f"crop_size: {crop}")
    if size.keys() == {"height", "width"}:
        whole = (size["height"], size["width"])
        return (whole, "squash", 1.0) if cut is None else (cut, "squash", _fraction(cut, whole, refuse))
    if size.keys() != {"shortest_edge"}:
        raise refuse(f"size: {size}")
    edge = size["shortest_edge"]
    if share is not None and cut is None:  # ConvNeXt's: below 384 pixels a share of the image is cut out
        return ((edge, edge), "squash", 1.0) if edge >= 384 else ((edge, edge), "center", float(share))
    if cut is None:
        raise refuse(f"size: {size} without a crop, so images keep unlike sizes")
    if cut[0] != cut[1]:
        raise refuse(f"size: {size} with crop_size: {crop}")
    return cut, "center", _fraction(cut, (edge, edge), refuse)


def _fraction(cut: tuple[int, int], whole: tuple[int, int], refuse: Any) -> float:
    """Timm's crop_pct: it resizes to the whole part of cut / crop_pct."""
    for fraction in (cut[0] / whole[0], math.nextafter(cut[0] / whole[0], 0.0)):
        if fraction <= 1 and all(math.floor(c / fraction) == w for c, w in zip(cut, whole, strict=True)):
            return fraction
    raise refuse(f"size: {list(whole)} with crop_size: {list(cut)}")


def _sizes(value: Any) -> dict[str, int]:
    """What is given of a size."""
    keys = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
    given = {key: value.get(key) if isinstance(value, Mapping) else getattr(value, key, None) for key in keys}
    return {key: int(one) for key, one in given.items() if one is not None}
