"""Tensors that a unit holds where no shard looks for them are refused by name, or do no harm: no raw error later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slicer import load_span, slice_model
from slicer.errors import ShardError
from slicer.shards.save import export

HERE = f"{__name__}:" if "." in __name__ else "tests.unit.slicer.shards.test_held_tensors:"


class Holder:
    def __init__(self, scale: Any) -> None:
        self.scale = scale


class Unit(nn.Module):
    """Holds a tensor in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.kept: Any = None
        table = torch.arange(8.0)
        if how == "list":
            self.kept = [table, table + 1]
        elif how == "dict":
            self.kept = {"table": table}
        elif how == "object":
            self.kept = Holder(table)
        elif how == "deep":
            self.kept = Holder([{"table": table}])
        elif how == "tied":
            self.register_buffer("own", table)
            self.kept = [self.own]
        elif how in ("attribute", "unused"):
            self.kept = table if how == "attribute" else [table]
        elif how == "buffer":
            self.register_buffer("own", table)

    def table(self) -> Any:
        ways: dict[str, Any] = {
            "list": lambda: self.kept[1],
            "dict": lambda: self.kept["table"].unsqueeze(0),
            "object": lambda: self.kept.scale,
            "deep": lambda: self.kept.scale[0]["table"],
            "tied": lambda: self.kept[0],
            "attribute": lambda: self.kept,
            "buffer": lambda: self.own,
            "unused": lambda: len(self.kept),
        }
        return ways[self.how]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table()


class Real(nn.Module):
    """Holds values that its constructor makes, also on meta; `reads`: cannot be built there."""

    def __init__(self, drawn: bool, reads: bool, used: bool) -> None:
        super().__init__()
        self.used = used
        size = int(torch.tensor(8.0).item()) if reads else 8
        values = np.random.default_rng(None if drawn else 0).random(size)
        self.kept = [torch.from_numpy(values.astype(np.float32))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.kept[0] if self.used else x


class Own(nn.Module):
    """(B, 3, 4, 4) -> (B, 5)."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Linear(8, 8)
        self.unit = unit
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(self.stem(x).flatten(2).transpose(1, 2))
        return self.classifier(self.unit(x).mean(1))


def holding(how: str) -> nn.Module:
    return Own(Unit(how))


def real(drawn: bool, reads: bool, used: bool = True) -> nn.Module:
    return Own(Real(drawn, reads, used))


def exported(directory: Path, function: str, **kwargs: Any) -> None:
    sliced = slice_model(f"{HERE}{function}", 2, input_shape=(3, 4, 4), **kwargs)
    export(sliced, directory)
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        assert torch.equal(load_span(directory, 0, 2)(x), sliced.module(x))


@pytest.mark.parametrize(
    ("how", "path"),
    [
        ("list", r"unit\.kept\[1\]"),
        ("dict", r"unit\.kept\['table'\]"),
        ("object", r"unit\.kept\.scale"),
        ("deep", r"unit\.kept\.scale\[0\]\['table'\]"),
        ("tied", r"unit\.kept\[0\]"),
    ],
)
def test_a_tensor_that_no_shard_holds_is_refused_by_its_name_with_the_remedy(
    tmp_path: Path, how: str, path: str
) -> None:
    with pytest.raises(ShardError, match=rf"{path} \(Unit.*register_buffer"):
        exported(tmp_path, "holding", how=how)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("how", ["attribute", "buffer", "unused"])
def test_what_is_stored_or_never_used_is_exported(tmp_path: Path, how: str) -> None:
    exported(tmp_path, "holding", how=how)


@pytest.mark.parametrize("reads", [False, True])
def test_values_that_the_constructor_makes_must_be_the_same_each_time(tmp_path: Path, reads: bool) -> None:
    exported(tmp_path / "same", "real", drawn=False, reads=reads)
    exported(tmp_path / "unused", "real", drawn=True, reads=reads, used=False)
    with pytest.raises(ShardError, match=r"unit\.kept\[0\] \(Real.*register_buffer"):
        exported(tmp_path / "drawn", "real", drawn=True, reads=reads)
