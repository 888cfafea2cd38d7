"""Small public models of the Hugging Face hub itself. Skipped, and so not run, where the hub cannot be reached."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from slicer.models import zoo
from slicer.slicing.slice_model import slice_model

HOST = "huggingface.co"


def _reached() -> bool:
    try:
        socket.create_connection((HOST, 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, so that the hub has to be asked."""
    from huggingface_hub import constants

    if not _reached():
        pytest.skip(f"not run: {HOST} cannot be reached from here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


pytestmark = pytest.mark.network


def test_a_model_of_transformers_is_its_own_at_every_cut() -> None:
    transformers = pytest.importorskip("transformers")
    name = "hf-internal-testing/tiny-random-ViTForImageClassification"
    sliced = slice_model(f"hf:{name}", "all")
    theirs = transformers.ViTForImageClassification.from_pretrained(name).eval().requires_grad_(False)
    x = torch.randn((1, *sliced.input_shape), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = theirs(pixel_values=x).logits
        for cut in range(sliced.num_slices + 1):
            torch.testing.assert_close(sliced.tail(cut)(sliced.head(cut)(x)), want)


def test_a_model_of_timm_is_timm_s_pretrained_one() -> None:
    import timm

    name = "timm/test_vit.r160_in1k"
    spec = zoo.resolve(f"hf-hub:{name}")
    theirs = timm.create_model(f"hf-hub:{name}", pretrained=True).eval()
    x = torch.randn((1, 3, 160, 160), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(zoo.build(spec)(x), theirs(x))
