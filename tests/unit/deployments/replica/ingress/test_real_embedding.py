"""The embedding of real DINOv2 weights, over the wire at every cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deployments.replica.tail_server import TailServer
from headtail import Client
from slicer.models import zoo
from slicer.slicing.slice_model import slice_spec

pytest.importorskip("transformers")
from tests.unit.slicer.models.test_hugging_face_weights import timm_names, weights  # noqa: F401 - a fixture

NAME = "vit_small_patch14_dinov2"


@pytest.mark.long
def test_the_embedding_is_the_unsliced_models_at_every_cut(
    weights: dict[str, torch.Tensor],  # noqa: F811
    serve: Callable[[dict[str, Any]], AbstractContextManager[tuple[str, TailServer]]],
    tmp_path: Path,
) -> None:
    save_file(timm_names(weights), tmp_path / "dinov2.safetensors")
    model = {"kwargs": {"num_classes": 0, "img_size": 224}, "checkpoint": str(tmp_path / "dinov2.safetensors")}
    spec = zoo.resolve(NAME, **model, outputs=["features"])  # type: ignore[arg-type]
    sliced = slice_spec(spec, 12, verify=False)
    whole = zoo.build(zoo.resolve(NAME, **model))  # type: ignore[arg-type]
    image = torch.nn.functional.interpolate(
        torch.randn((1, 3, 16, 16), generator=torch.Generator().manual_seed(0)), size=224, mode="bilinear"
    )
    with torch.inference_mode():
        want = whole(image)[0].numpy()
    assert np.abs(want).max() > 1  # no answer of weights at random
    config = {
        "models": [{"name": NAME, "num_slices": 12, "outputs": ["features"], "strategy": "continuous", **model}],
        "shard_dir": str(tmp_path / "served"),
    }
    with serve(config) as (address, _), Client(f"http://{address}/headtail") as client:
        for cut in range(12):
            with torch.inference_mode():
                activation = sliced.head(cut)(image)[0].numpy()
            found = client.output("features", activation, cut=cut)
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-6, err_msg=f"cut {cut}")
