"""Slicing is exact: what runs in two places gives the result of the whole model, bit for bit."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

from slicer import SlicedModel, slice_model
from slicer.core.shards.spec import ModelSpec
from slicer.models.zoo import build, build_structure, data_config
from slicer.slicing.slice_model import slice_module

SMALL_VIT: dict[str, Any] = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}
SMALL_SWIN: dict[str, Any] = {"img_size": 64, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)}

#: One small variant of each family; depth and width are timm's own arguments, the code that runs is the family's.
FAMILIES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL_VIT,
    "deit_tiny_patch16_224": SMALL_VIT,
    "deit_tiny_distilled_patch16_224": SMALL_VIT,
    "deit3_small_patch16_224": SMALL_VIT,
    "vit_small_patch14_dinov2": {**SMALL_VIT, "img_size": 56},
    "vit_small_patch16_dinov3": SMALL_VIT,
    "vit_base_patch16_siglip_224": SMALL_VIT,
    "eva02_tiny_patch14_224": {**SMALL_VIT, "img_size": 56},
    "beit_base_patch16_224": SMALL_VIT,
    "cait_xxs24_224": SMALL_VIT,
    "swin_tiny_patch4_window7_224": SMALL_SWIN,
    "swinv2_tiny_window8_256": SMALL_SWIN,
}


@functools.cache
def sliced_family(name: str, num_slices: Any) -> SlicedModel:
    """Made once for all tests that only read it."""
    return slice_model(name, num_slices, **FAMILIES[name])


def images(sliced: SlicedModel, batch: int = 3) -> torch.Tensor:
    noise = torch.randn((batch, *sliced.input_shape), generator=torch.Generator().manual_seed(0))
    return noise.to(sliced.input_dtype)


@pytest.mark.parametrize("name", FAMILIES)
def test_head_and_tail_are_exact_at_every_boundary(name: str) -> None:
    sliced = sliced_family(name, "all")
    assert len(sliced.boundaries) >= 5
    assert sliced.num_slices == len(sliced.boundaries) + 1
    x = images(sliced)
    with torch.inference_mode():
        whole = sliced.module(x)
        for k in range(sliced.num_slices + 1):
            crossing = sliced.head(k)(x)
            assert crossing.shape[1:] == sliced.shape_at(k)
            before = crossing.clone()
            assert torch.equal(sliced.tail(k)(crossing), whole), f"cut {k}"
            assert torch.equal(crossing, before), f"the tail of cut {k} overwrites what it is given"


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_entered_at_different_cuts_share_a_batch(name: str) -> None:
    """The server stacks rows of several devices at an inner boundary; each gets the unsliced model's logits."""
    sliced = sliced_family(name, 4)
    x = images(sliced, batch=4)
    with torch.inference_mode():
        whole = torch.cat([sliced.module(row[None]) for row in x])
        rows = []
        for entry, row in enumerate(x):  # a device per entry 0..3, then the server brings all of them to cut 3
            rows.append(sliced.span(entry, 3)(sliced.head(entry)(row[None])))
        mixed = sliced.tail(3)(torch.cat(rows))
    assert torch.allclose(mixed, whole, rtol=0, atol=1e-4)
    assert torch.equal(mixed.argmax(-1), whole.argmax(-1))


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_and_tails_have_the_checkpoints_names_and_share_none(name: str) -> None:
    sliced = slice_model(name, 4, **FAMILIES[name])
    checkpoint = sliced.module.state_dict()
    for k in range(1, sliced.num_slices):
        head, tail = sliced.head(k).state_dict(), sliced.tail(k).state_dict()
        assert set(head) | set(tail) <= set(checkpoint)
        assert not set(head) & set(tail)
        assert all(value.data_ptr() == checkpoint[key].data_ptr() for key, value in {**head, **tail}.items())
    assert sliced.shared_names == ()
    # What no span has, the forward pass never uses.
    for key in set(checkpoint) - {key for k in range(sliced.num_slices) for key in sliced.span(k, k + 1).state_dict()}:
        checkpoint[key].fill_(float("nan"))
    assert sliced.module(images(sliced)).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_weights_has_the_same_slices(name: str) -> None:
    """A device builds its head on the meta device and then loads the weights: names, shapes and needs must agree."""
    spec = ModelSpec(architecture=name, kwargs=FAMILIES[name])
    shape = data_config(spec)["input_size"]
    real = slice_module(build(spec), 4, input_shape=shape, spec=spec)
    names = [cut.name for cut in real.cuts]
    meta = slice_module(build_structure(spec), at=names, input_shape=shape, spec=spec)
    assert meta.boundaries == real.boundaries
    assert meta.slices == real.slices
    for k in range(real.num_slices):
        needed, described = real.tensors(k, k + 1), meta.tensors(k, k + 1)
        assert {n: (t.kind, t.tensor.shape, t.tensor.dtype) for n, t in needed.items()} == {
            n: (t.kind, t.tensor.shape, t.tensor.dtype) for n, t in described.items()
        }
        assert str(real.span(k, k + 1).graph) == str(meta.span(k, k + 1).graph)  # type: ignore[union-attr]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_batch_size_is_free(batch: int) -> None:
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        sliced = sliced_family(name, "all")
        x = images(sliced, batch)
        with torch.inference_mode():
            whole = sliced.module(x)
            assert all(torch.equal(sliced.tail(k)(sliced.head(k)(x)), whole) for k in range(sliced.num_slices))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_is_exact_too(dtype: str) -> None:
    sliced = slice_model("vit_tiny_patch16_224", "all", dtype=dtype, **SMALL_VIT)
    assert {boundary.dtype for boundary in sliced.boundaries} == {str(sliced.input_dtype).removeprefix("torch.")}
    x = images(sliced)
    with torch.inference_mode():
        whole = sliced.module(x)
        assert all(torch.equal(sliced.tail(k)(sliced.head(k)(x)), whole) for k in range(sliced.num_slices))


def test_other_image_sizes_and_no_classifier() -> None:
    kwargs = {**SMALL_VIT, "img_size": (32, 80), "num_classes": 0, "in_chans": 1}
    sliced = slice_model("vit_tiny_patch16_224", 3, **kwargs)
    assert sliced.input_shape == sliced.shape_at(0) == (1, 32, 80)
    assert sliced.shape_at(1) == (1 + 2 * 5, 48)
    assert sliced.shape_at(3) == (48,)


def test_a_copy_of_a_span_has_weights_of_its_own() -> None:
    sliced = slice_model("vit_tiny_patch16_224", 2, **SMALL_VIT)
    x = images(sliced)
    with torch.inference_mode():
        crossing, whole = sliced.head(1)(x), sliced.module(x)
        tail = copy.deepcopy(sliced.tail(1))
        for parameter in sliced.module.parameters():
            parameter.zero_()
        assert torch.equal(tail(crossing), whole)
