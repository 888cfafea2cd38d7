"""Every way to send an activation takes its places and channels from the model, whatever the images look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.frontier import activation_ways
from benchmarks.frontier.activation_ways import at_cut
from benchmarks.frontier.answers import Floats, Judge
from benchmarks.frontier.rate import RANGE
from slicer import slice_model
from slicer.calibration.collect import run
from slicer.core.codecs.integer import measured_axis
from slicer.models.images import Preprocess, load_digits
from slicer.shards.channel_axes import channel_axes
from slicer.slicing.sliced_model import SlicedModel

#: Of the shipped digits: its map in digits_swin has peaks that differ more along the height than along the channels.
MISLEADING = 288

CONVNEXT = {
    "num_classes": 10,
    "patch_size": 2,
    "depths": [1, 1, 1, 1],
    "dims": [8, 16, 24, 32],
    "pretrained_cfg_overlay": {"input_size": [3, 32, 32]},
}


def inputs_of(sliced: SlicedModel, digits: list[int]) -> Floats:
    assert sliced.spec is not None
    preprocess = Preprocess(sliced.spec)
    return np.stack([preprocess(Image.fromarray(load_digits()[0][at])) for at in digits])


@pytest.mark.parametrize(
    ("model", "options", "at", "shape", "channels"),
    [
        ("digits_swin", {}, "layers.1.blocks.1", (8, 8, 48), 48),
        (
            "convnext_atto",
            CONVNEXT,
            "stages.1.blocks.0",
            (16, 4, 4),
            16,
        ),
    ],
)
def test_maps_are_coded_along_the_channels_that_the_layers_know(
    model: str,
    options: Mapping[str, Any],
    at: str | int,
    shape: tuple[int, ...],
    channels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activation_ways, "STEPS", (0.35, 2.2))
    sliced = slice_model(model, at=[at], verify=False, **options)
    assert sliced.shape_at(1) == shape
    inputs, seen = inputs_of(sliced, [MISLEADING, 0, 1, 2]), inputs_of(sliced, list(range(10, 360, 15)))
    found = at_cut(sliced, 1, channel_axes(sliced)[1], inputs, seen, Judge(sliced, inputs, seen))

    (int8,) = found.sent["int8"]
    assert int8.sizes.tolist() == [np.prod(shape) + 2 * channels] * 4  # a scale of two bytes for every channel
    fine, coarse = found.sent["transform"]
    assert (coarse.sizes < fine.sizes).all() and (fine.sizes < int8.sizes).all()
    assert np.median(fine.worth.cosine) > 0.99


def test_one_image_does_not_tell_where_the_channels_are() -> None:
    sliced = slice_model("digits_swin", at=["layers.1.blocks.1"], verify=False)
    (row,) = run(sliced.head(1), inputs_of(sliced, [MISLEADING]))
    assert measured_axis(row) == 0 != channel_axes(sliced)[1]


def test_the_coarsest_step_is_too_coarse_even_for_a_model_of_few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_ways, "STEPS", activation_ways.STEPS[-1:])
    sliced = slice_model("digits_swin", at=["layers.1.blocks.1"], verify=False)
    inputs, seen = inputs_of(sliced, list(range(0, 360, 24))), inputs_of(sliced, list(range(10, 360, 15)))
    found = at_cut(sliced, 1, channel_axes(sliced)[1], inputs, seen, Judge(sliced, inputs, seen))
    assert np.median(found.sent["transform"][0].worth.cosine) < RANGE[0]
