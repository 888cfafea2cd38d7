"""The server batches rows of strangers: a model whose rows depend on the rest of their batch is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import nn

from slicer import slice_model
from slicer.errors import NotSliceable
from slicer.slicing.verification import example_rows


class Own(nn.Module):
    """(B, 3, 4, 4) -> (B, 5); `mix` sees (B, 16, 8)."""

    input_shape = (3, 4, 4)

    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.unit = Unit(mix)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.unit(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class Unit(nn.Module):
    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(x)


def attention_over_the_batch(x: torch.Tensor) -> torch.Tensor:
    across = x.transpose(0, 1)
    return nn.functional.scaled_dot_product_attention(across, across, across).transpose(0, 1)


def capacity(x: torch.Tensor) -> torch.Tensor:
    """Two experts, each takes 20 tokens of the batch in order; what is over passes by."""
    tokens = x.reshape(-1, 8)
    expert = nn.functional.one_hot((tokens[:, 0] > 0).long(), 2)
    place = (expert.cumsum(0) * expert).sum(1)
    return (tokens * (1 + (place <= 20))[:, None]).view_as(x)


def per_tensor_scale(x: torch.Tensor) -> torch.Tensor:
    """As dynamic quantisation does it."""
    scale = x.abs().max() / 127
    return torch.round(x / scale) * scale


MIXING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the batch's mean": lambda x: x - x.mean(0),
    "the batch's maximum": lambda x: x / x.max(),
    "norm along the batch": lambda x: nn.functional.normalize(x, dim=0),
    "softmax along the batch": lambda x: x.softmax(0),
    "batch statistics": lambda x: nn.functional.batch_norm(x, None, None, training=True),
    "roll": lambda x: x.roll(1, 0),
    "sort": lambda x: x.sort(0)[0],
    "flip": lambda x: x.flip(0),
    "a sum of the rows before": lambda x: x.cumsum(0),
    "the first row": lambda x: x - x[:1],
    "the last row": lambda x: x - x[-1:],
    "a threshold on the batch": lambda x: torch.where(x.max() > 100, x / 255, x),
    "attention over the batch": attention_over_the_batch,
    "experts with a capacity": capacity,
    "a scale for the whole tensor": per_tensor_scale,
    "a little": lambda x: x + 1e-4 * x.mean(0),
    "very little": lambda x: x + 1e-9 * x.mean(0),
    "a little, NaN hidden": lambda x: x + 1e-6 * x.nan_to_num().mean(0),
    "the size of the batch": lambda x: x / x.shape[0],
    "the place in the batch": lambda x: x * torch.arange(x.shape[0]).view(-1, 1, 1),
}


@pytest.mark.parametrize("kind", MIXING)
def test_rows_that_depend_on_their_batch_are_refused(kind: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(NotSliceable, match="its rows depend on the rest of their batch"):
        slice_model(Own(MIXING[kind]), 2)


def test_the_message_says_how_much_differs() -> None:
    with pytest.raises(NotSliceable, match=r"differs by 0.00\d+ of its size when other images share its batch"):
        slice_model(Own(lambda x: x + 1e-4 * x.nan_to_num().mean(0)), 2)


def test_a_batch_of_one_is_a_batch() -> None:
    with pytest.raises(NotSliceable, match="it fails on 1 images"):
        slice_model(Own(lambda x: x.squeeze()), 2)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_rounding_is_no_reason(dtype: str) -> None:
    """A row alone is computed by other kernels than in a batch, and badly conditioned layers enlarge what differs."""

    def rough(x: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = nn.functional.layer_norm(x @ x.transpose(1, 2) @ x, x.shape[1:])
        return x

    slice_model(Own(rough), 2, dtype=dtype)


def test_dynamic_quantisation_is_refused() -> None:
    class Quantised(nn.Module):
        input_shape = (3, 4, 4)

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.hidden = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.hidden(self.stem(x).flatten(2).transpose(1, 2)).mean(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.ao.quantization.quantize_dynamic(Quantised().eval(), {nn.Linear}, dtype=torch.qint8)
        with pytest.raises(NotSliceable, match=r"its rows depend|fails on"):
            slice_model(module, 2)


@pytest.mark.parametrize("verify", ["quick", False])
def test_less_can_be_verified(verify: Literal[False, "quick"]) -> None:
    mixes, hides = Own(lambda x: x - x.mean(0)), Own(lambda x: x - x.nan_to_num().mean(0))
    slice_model(hides, 2, verify=verify)
    if verify == "quick":
        with pytest.raises(NotSliceable, match="depend on the rest"):
            slice_model(mixes, 2, verify=verify)
    else:
        slice_model(mixes, 2, verify=verify)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 7), (16,), (2, 1)])
def test_the_examples_are_unlike_and_of_any_shape(shape: tuple[int, ...]) -> None:
    rows: dict[str, Any] = example_rows(shape)
    assert set(rows) == {"blank", "camera", "noise"}
    assert all(row.shape == shape and row.isfinite().all() for row in rows.values())
    assert not rows["blank"].any()
    assert rows["camera"].min() == 0, "areas that are all dark"
    assert 100 < rows["camera"].max() <= 255
