"""Arguments of slice_model of the wrong kind are refused; numpy's integers and paths are what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slicer import slice_model
from slicer.errors import HeadTailError
from tests.paths import ROOT

VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    "wrong",
    [
        {"img_size": [3, 224, 224]},
        {"img_size": "224"},
        {"img_size": 0},
        {"img_size": 10**9},
        {"img_size": {}},
        {"img_size": 2.5},
        {"img_size": True},
        {"pretrained_cfg_overlay": {"input_size": 5}},
        {"pretrained_cfg_overlay": {"mean": "grey"}},
        {"pretrained_cfg_overlay": 5},
        {"pretrained_cfg_overlay": [1]},
        {"in_chans": 0},
        {"in_chans": "3"},
        {"num_classes": -1},
        {"num_classes": "x"},
        {"patch_size": 0},
        {"depth": "deep"},
        {"drop_rate": object()},
        {"seed": 10**20},
        {"seed": -(10**20)},
        {"seed": 1.5},
        {"seed": "a"},
        {"seed": True},
        {"dtype": 5},
        {"dtype": "fp8"},
        {"checkpoint": 5},
        {"checkpoint": ""},
        {"checkpoint": "a\0.pth"},
        {"pretrained": "yes"},
        {"num_slices": "4"},
        {"num_slices": 0},
        {"num_slices": True},
        {"num_slices": 2.0},
        {"num_slices": None},
        {"at": "blocks.0"},
        {"at": 3},
        {"at": [1.5]},
        {"at": [True]},
        {"at": [None]},
        {"input_shape": "abc"},
        {"input_shape": 224},
        {"input_shape": ()},
        {"input_shape": (3, -1, 224)},
        {"input_shape": (3, 0, 224)},
        {"input_shape": (3, 224.0, 224)},
        {"input_shape": (3, 10**9, 10**9)},
        {"input_shape": (3, 224)},
        {"input_shape": (1, 3, 224, 224)},
    ],
    ids=lambda wrong: "_".join(wrong) + str(next(iter(wrong.values())))[:20].replace("\0", "NUL"),
)
def test_a_wrong_argument_is_refused_in_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(HeadTailError) as caught:
        slice_model(VIT, **wrong)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("model", [5, None, b"digits_vit", ["digits_vit"], Path("absent.yaml"), ""])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(HeadTailError):
        slice_model(model)


def test_numbers_of_numpy_and_paths_are_taken() -> None:
    sliced = slice_model("digits_vit", np.int64(4), seed=np.int32(3))  # type: ignore[arg-type]
    assert sliced.num_slices == 4 and sliced.shape_at(np.int64(1)) == (16, 96)  # type: ignore[arg-type]
    sliced.head(np.int32(2))  # type: ignore[arg-type]
    assert slice_model("digits_vit", at=[np.int64(3)]).num_slices == 2  # type: ignore[list-item]
    file = ROOT / "slicer/models/demo/digits_vit.yaml"
    weights = file.with_suffix(".safetensors")
    assert slice_model(file, checkpoint=weights).num_slices == 4
