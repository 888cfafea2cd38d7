"""What is given to slice_model: modules in inference mode, compiled ones, paths; and to a span: rows of its shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slicer import slice_model
from slicer.errors import CutError, ModelError


class Own(nn.Module):
    """Fully convolutional: also runs on other sizes, and its tokens forget them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        width = x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x) * width
        return x.mean(1)


def test_inside_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(2, 3, 16, 16)
        for module in (Own(), slice_model("digits_vit", 2).module):
            sliced = slice_model(module, 2, input_shape=(3, 16, 16) if isinstance(module, Own) else None)
            example = x if isinstance(module, Own) else torch.randn(2, *sliced.input_shape)
            assert torch.equal(sliced.tail(1)(sliced.head(1)(example)), module(example))


def exported() -> Any:
    return torch.export.export(Own().eval(), (torch.randn(2, 3, 16, 16),)).module()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.jit.trace(Own().eval(), torch.randn(2, 3, 16, 16)), "compiled by torch.jit; give the torch.nn"),
        (lambda: torch.compile(Own()), "compiled by torch.compile; give the module it was made of"),
        (exported, "comes out of torch.export"),
        (lambda: Path("model.yaml"), "model file model.yaml: there is no such file"),
        (lambda: None, "model None: give a name as text, or a torch.nn.Module to slice_model"),
        (lambda: {"stem.weight": 1}, "give a name as text, or a torch.nn.Module to slice_model"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_module_is_refused_with_the_remedy(make: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        slice_model(make(), 2, input_shape=(3, 16, 16))


def test_a_span_refuses_rows_of_another_shape() -> None:
    """16x16 and 8x32 have as many tokens, but this model's result depends on the width."""
    sliced = slice_model(Own(), 2, input_shape=(3, 16, 16))
    for span in (sliced.head(1), sliced.tail(0)):
        with pytest.raises(CutError, match=r"takes rows of shape \(3, 16, 16\), not \(3, 8, 32\)"):
            span(torch.randn(2, 3, 8, 32))
    with pytest.raises(CutError, match="a span takes rows of shape"):
        sliced.tail(1)(torch.randn(2, 5, 8))
