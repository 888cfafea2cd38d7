"""Where a model is cut: evenly by default, where the user says otherwise, and never where it has no boundary."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slicer import SlicedModel, slice_model
from slicer.errors import CutError, ModelError
from slicer.slicing.boundaries import Boundary
from slicer.slicing.partition import choose, named

DEEP_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 12, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def vit() -> SlicedModel:
    return slice_model("vit_tiny_patch16_224", 4, **DEEP_VIT)


def test_four_slices_of_twelve_blocks_have_three_blocks_each(vit: SlicedModel) -> None:
    assert [cut.name for cut in vit.cuts] == ["blocks.2", "blocks.5", "blocks.8"]
    assert [cut.block for cut in vit.cuts] == [2, 5, 8]
    assert vit.slices[0].units == ("patch_embed", "cat", "add", "blocks.0", "blocks.1", "blocks.2")
    assert vit.slices[3].units == ("blocks.9", "blocks.10", "blocks.11", "norm", "getitem", "head")


def test_swin_is_cut_inside_its_stages() -> None:
    kwargs = {"img_size": 64, "window_size": 2, "embed_dim": 24, "num_heads": (1, 2, 4, 8)}
    swin = slice_model("swin_tiny_patch4_window7_224", 4, **kwargs)
    stages = [cut.name.split(".")[1] for cut in swin.cuts]
    assert "2" in stages, "the stage of six blocks is divided"
    flops = [part.flops for part in swin.slices]
    assert max(flops) < 1.3 * sum(flops) / 4


def test_the_numbers_of_the_slices_add_up(vit: SlicedModel) -> None:
    assert sum(part.parameters for part in vit.slices) == sum(p.numel() for p in vit.module.parameters())
    assert sum(part.weight_bytes for part in vit.slices) == 4 * sum(p.numel() for p in vit.module.parameters())
    # One block on 17 tokens of width 48: qkv, projection and a 4x MLP make 12 * 48^2 multiply-adds per token.
    # Attention multiplies 17x48 by 48x17 and 17x17 by 17x48. A multiply-add is two.
    block = 2 * (12 * 48 * 48 * 17 + 2 * 17 * 17 * 48)
    assert vit.slices[1].flops == vit.slices[2].flops == 3 * block
    assert vit.slices[3].flops == 3 * block + 2 * 48 * 1000


def test_boundaries_say_what_crosses(vit: SlicedModel) -> None:
    first, last = vit.boundaries[0], vit.boundaries[-1]
    assert (first.name, first.shape, first.dtype, first.nbytes) == ("patch_embed", (16, 48), "float32", 16 * 48 * 4)
    assert (last.name, last.shape) == ("getitem", (48,))
    assert [boundary.index for boundary in vit.boundaries] == list(range(len(vit.boundaries)))
    assert len({boundary.name for boundary in vit.boundaries}) == len(vit.boundaries)
    assert [vit.shape_at(k) for k in range(5)] == [(3, 32, 32), (17, 48), (17, 48), (17, 48), (1000,)]


@pytest.mark.parametrize(
    ("at", "names"),
    [([0, 3], ["blocks.0", "blocks.3"]), (["patch_embed", 11, "norm"], ["patch_embed", "blocks.11", "norm"]), ([], [])],
)
def test_cuts_by_name_or_block(vit: SlicedModel, at: list[str | int], names: list[str]) -> None:
    assert [cut.name for cut in named(vit.boundaries, at)] == names


def test_slicing_takes_at_and_counts_its_slices() -> None:
    sliced = slice_model("vit_tiny_patch16_224", at=[1, "norm"], **{**DEEP_VIT, "depth": 3})
    assert sliced.num_slices == 3
    assert [cut.name for cut in sliced.cuts] == ["blocks.1", "norm"]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ([12], "at=12 is no boundary.*blocks.11"),
        (["blocks.12"], "at='blocks.12' is no boundary"),
        ([3, 3], "3 does not come after 'blocks.3'"),
        ([5, 2], "2 does not come after 'blocks.5'"),
        ("blocks.3", "list"),
    ],
)
def test_cuts_that_the_model_does_not_have(vit: SlicedModel, at: Any, said: str) -> None:
    with pytest.raises(CutError, match=said):
        named(vit.boundaries, at)


@pytest.mark.parametrize("num_slices", [0, -1, 19, True, 2.0, "four"])
def test_impossible_numbers_of_slices(vit: SlicedModel, num_slices: Any) -> None:
    with pytest.raises(CutError, match=r"17 boundaries, so it can be cut into 1 to 18 slices"):
        choose(vit.boundaries, 1.0, num_slices)


@pytest.mark.parametrize("cut", [-1, 5, True, 1.0, "1"])
def test_a_cut_out_of_range_is_refused_with_the_range(vit: SlicedModel, cut: Any) -> None:
    for call in (vit.head, vit.tail, vit.shape_at, lambda k: vit.span(k, 4)):
        with pytest.raises(CutError, match=rf"{cut!r} is none of this model's cuts; with 4 slices they are 0 to 4"):
            call(cut)


def test_spans_are_half_open_and_empty_ones_pass_on(vit: SlicedModel) -> None:
    x = torch.randn(2, 3, 32, 32)
    assert vit.span(2, 2)(x) is x
    assert vit.head(0)(x) is x
    assert vit.tail(4)(x) is x
    with pytest.raises(CutError, match="span 3:1 ends before it starts"):
        vit.span(3, 1)


@given(data=st.data())
def test_the_default_cuts_are_the_most_even(data: st.DataObject) -> None:
    """Against the definition: no other choice among the ends of blocks has a smaller sum of squares."""
    work = data.draw(st.lists(st.integers(1, 50), min_size=3, max_size=8))
    ends = list(itertools.accumulate(work))
    boundaries = [Boundary(i, f"b{i}", (1,), "float32", 4, None, float(end)) for i, end in enumerate(ends[:-1])]
    num_slices = data.draw(st.integers(1, len(boundaries) + 1))

    def unevenness(places: tuple[float, ...]) -> float:
        points = (0.0, *places, float(ends[-1]))
        return sum((b - a) ** 2 for a, b in itertools.pairwise(points))

    chosen = choose(boundaries, float(ends[-1]), num_slices)
    assert len(chosen) == num_slices - 1
    assert [cut.index for cut in chosen] == sorted({cut.index for cut in chosen})
    best = min(unevenness(p) for p in itertools.combinations([b.flops for b in boundaries], num_slices - 1))
    assert unevenness(tuple(cut.flops for cut in chosen)) == best


def test_options_of_timm_do_not_fit_a_built_module() -> None:
    with pytest.raises(ModelError, match="img_size, pretrained cannot be applied to a module"):
        slice_model(torch.nn.Linear(2, 2), img_size=64, pretrained=True)


def test_importing_the_package_or_the_wire_loads_no_torch() -> None:
    code = "import sys, slicer, slicer.core.protocol.messages; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
