"""Own modules are sliced like timm's, and whatever cannot be is refused at once with the reason."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from slicer import SlicedModel, slice_model
from slicer.errors import NotSliceable


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Own(nn.Module):
    """(B, 3, 4, 4) -> (B, 5); subclasses change `middle`."""

    input_shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.classifier = nn.Linear(8, 5)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor, pool: str = "first") -> Any:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.middle(x)
        return self.classifier(x[:, 0] if pool == "first" else x.mean(1))


def check_exact(sliced: SlicedModel, batch: int = 3) -> None:
    x = torch.randn(batch, *sliced.input_shape)
    with torch.inference_mode():
        whole = sliced.module(x.clone())
        for k in range(sliced.num_slices + 1):
            crossing = sliced.head(k)(x)
            kept = crossing.clone()
            assert torch.equal(sliced.tail(k)(crossing), whole), f"cut {k}"
            assert torch.equal(crossing, kept), f"the tail of cut {k} overwrites what it is given"


def names(sliced: SlicedModel) -> list[str]:
    return [boundary.name for boundary in sliced.boundaries]


def test_an_own_module() -> None:
    sliced = slice_model(Own(), "all")
    assert names(sliced) == [
        *("stem", "flatten", "transpose", "cat"),
        *("blocks.0", "blocks.1", "blocks.2", "getitem"),
    ]
    assert sliced.spec is None
    assert not sliced.module.training and not any(p.requires_grad for p in sliced.module.parameters())
    check_exact(sliced)


def test_the_shape_of_the_input_can_be_given() -> None:
    sliced = slice_model(Own(), 2, input_shape=(3, 2, 6))
    assert sliced.shape_at(0) == (3, 2, 6)
    assert sliced.shape_at(1) == (13, 8)


def test_a_tensor_that_only_the_batch_size_decides_never_crosses() -> None:
    """Here a mask is made at the start from the batch size and used at the end: every span makes its own."""

    class Masked(Own):
        def forward(self, x: torch.Tensor) -> Any:
            mask = torch.ones(x.shape[0], 17, 1, device=x.device) * torch.arange(17).view(1, -1, 1)
            x = self.stem(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
            for block in self.blocks:
                x = block(x)
            return self.classifier((x * mask).mean(1))

    sliced = slice_model(Masked(), "all")
    assert {"stem", "blocks.0", "blocks.2"} <= set(names(sliced))
    check_exact(sliced, batch=4)


def test_no_boundary_where_windows_lie_in_the_batch() -> None:
    """Between folding and unfolding, dimension 0 is images times windows: a row there is no request's."""

    class Windows(Own):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            batch = x.shape[0]
            windows = x[:, 1:].reshape(batch * 4, 4, 8)
            windows = self.blocks[0](windows)
            return windows.reshape(batch, 16, 8)

    sliced = slice_model(Windows(), "all")
    assert names(sliced) == [
        *("stem", "flatten", "transpose", "cat", "blocks.0", "blocks.1", "blocks.2"),
        "getitem",  # without the token; then reshape, blocks.0 once more and reshape belong together
        *("reshape", "getitem#2"),
    ]
    assert sliced.shape_at(9) == (16, 8)
    check_exact(sliced)


def test_no_boundary_where_a_size_must_be_remembered() -> None:
    """One row is put before the batch, and its length is used later: neither can be had from the tensor in between."""

    class Remembers(Own):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            longer = torch.cat([self.token.expand(1, 17, 8), x], dim=0).shape[0]
            x = self.blocks[0](x)
            return x.repeat(longer, 1, 1)[: x.shape[0]]

    sliced = slice_model(Remembers(), "all")
    assert "blocks.1" in names(sliced) and "blocks.0#2" not in names(sliced)
    check_exact(sliced)


def test_no_boundary_where_two_tensors_or_a_tuple_cross() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x * 2

    class Both(Own):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def middle(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.pair(x)
            left = self.blocks[1](left)
            return left + right

    sliced = slice_model(Both(), "all")
    assert names(sliced)[-3:] == ["blocks.2", "add", "getitem"]
    check_exact(sliced)


def test_units_that_write_into_their_input() -> None:
    class InPlace(Own):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def middle(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(x)
            x[:, 0] = x[:, 1] * 2
            x.mul_(3)
            return x

    check_exact(slice_model(InPlace(), "all"))


def test_a_result_that_is_written_into_prepared_memory() -> None:
    """Empty memory depends on no image, but what is written into it does: it must not be made anew in each span."""

    class Prepared(Own):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(x.shape[0], 17, 8)
            first = out[:, 0]
            first += 1
            first.add_(x[:, 0])
            out[:, 1:] = self.blocks[0](x[:, 1:])
            return out

    sliced = slice_model(Prepared(), "all")
    assert {"blocks.2", "getitem"} <= set(names(sliced))
    check_exact(sliced)


def test_tied_weights_are_named() -> None:
    class Tied(Own):
        def __init__(self) -> None:
            super().__init__()
            self.blocks[2] = self.blocks[0]

    sliced = slice_model(Tied(), at=["blocks.1"])
    assert set(sliced.shared_names) == {
        *("blocks.0.norm.weight", "blocks.0.norm.bias", "blocks.0.mlp.weight", "blocks.0.mlp.bias"),
    }
    check_exact(sliced)


class Tuple(Own):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        return x, x.mean()


class Summed(Own):
    def forward(self, x: torch.Tensor) -> Any:
        return self.stem(x).sum(0)


class BatchDecides(Own):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        return torch.stack([x[i] for i in range(x.shape[0])])


class Random(Own):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class TwoBranches(Own):
    def forward(self, x: torch.Tensor) -> Any:
        return x.mean((2, 3)) + self.stem(x).mean((2, 3))[:, :3]


class WrongInput(Own):
    input_shape = (4, 4, 4)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Tuple, "returns a tuple"),
        (Summed, "one row per image|a tensor of shape"),
        (BatchDecides, "the batch size decides"),
        (Random, "another result than the model"),
        (TwoBranches, "more than one tensor is alive"),
        (WrongInput, "expected input.*to have 3 channels"),
    ],
)
def test_what_cannot_be_sliced_is_refused_with_the_reason(module: type[Own], reason: str) -> None:
    with pytest.raises(NotSliceable, match=reason) as caught:
        slice_model(module(), 2)
    assert module.__name__ in str(caught.value)


def test_a_container_that_cannot_be_recorded_stays_whole() -> None:
    class OddStage(nn.Module):
        """Walks over the rows one by one, which no graph with a free batch size can."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = torch.stack([block(row) for row in x])
            return x

    class Odd(Own):
        def __init__(self) -> None:
            super().__init__()
            self.odd = OddStage()

        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(x)

    sliced = slice_model(Odd(), "all")
    assert "odd" in names(sliced) and "odd.blocks.0" not in names(sliced)
    assert "batch size decides" in sliced.kept_whole["odd"]
    check_exact(sliced)


def test_a_forward_that_looks_at_its_weights_is_recorded_with_them() -> None:
    class Looks(Own):
        def middle(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(self.token.abs().max() > 0) + torch.tensor([1.0, 2.0]).repeat(4)

    sliced = slice_model(Looks(), "all")
    assert "blocks.2" in names(sliced)
    check_exact(sliced)


def test_other_threads_run_models_undisturbed_while_one_is_sliced() -> None:
    """Recording patches torch for the whole process; a server slices a model while it serves another."""
    other, stop, seen = Own().eval(), threading.Event(), []
    x = torch.randn(2, 3, 4, 4)

    def serve() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                try:
                    seen.append(type(other(x)) is torch.Tensor and type(torch.arange(3)) is torch.Tensor)
                except Exception:
                    seen.append(False)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(3):
            check_exact(slice_model(Own(), "all"))
    finally:
        stop.set()
        thread.join()
    assert seen and all(seen)
