"""A model that decides by its input's content, or keeps it, is no fixed program: refused by module and line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slicer import slice_model
from slicer.errors import NotSliceable

Middle = Callable[[Any, torch.Tensor], torch.Tensor]

GLOBAL: dict[str, Any] = {}


class Own(nn.Module):
    """(B, 3, 4, 4) -> (B, 5), with something odd in its own forward or inside of a unit."""

    input_shape = (3, 4, 4)

    def __init__(self, odd: Middle, place: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.odd = Odd(odd)
        self.place = place
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.odd(x) if self.place == "unit" else self.odd.odd(self.odd, x)
        return self.classifier(x.mean(1))


class Odd(nn.Module):
    def __init__(self, odd: Middle) -> None:
        super().__init__()
        self.odd = odd
        self.register_buffer("two", torch.tensor(2))
        self.register_buffer("memory", torch.zeros(8))
        self.kept: Any = None
        self.calls = 0
        self.log: list[Any] = []
        self.tables: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(self, x)


def swallowed(part: Any, x: torch.Tensor) -> torch.Tensor:
    try:
        return x / 255 if x.max() > 1.5 else x
    except Exception:
        return x


def written(part: Any, x: torch.Tensor) -> torch.Tensor:
    prepared = torch.zeros(3)
    prepared[0] = x.mean()
    return x * 2 if prepared.detach().view(-1)[0] > 0 else x


READS: dict[str, Middle] = {
    "a condition": lambda part, x: x / 255 if x.max() > 1.5 else x,
    "an early exit": lambda part, x: torch.zeros_like(x) if x.abs().max() < 1e-6 else x,
    "a condition whose failure is swallowed": swallowed,
    "what data was written into": written,
    "float": lambda part, x: x * float(x.mean()),
    "int": lambda part, x: x[..., : int(x.abs().sum()) * 0 + 8],
    "index": lambda part, x: x + [1, 2, 3][x.argmax() * 0],
    "complex": lambda part, x: x * complex(x.mean()).real,
    "item": lambda part, x: x * x.mean().item(),
    "tolist": lambda part, x: x * sum(x.flatten().tolist()),
    "numpy": lambda part, x: x * float(x.numpy().mean()),
    "asarray": lambda part, x: x + torch.from_numpy(np.asarray(x) * 0.1),
    "iteration": lambda part, x: x * sum(1 for value in x[0].flatten() if value > 0),
    "equal": lambda part, x: x * 2 if torch.equal(x[0], x[-1]) else x,
    "allclose": lambda part, x: x * 2 if torch.allclose(x, x.abs()) else x,
    "is_nonzero": lambda part, x: x * 2 if torch.is_nonzero(x.sum()) else x,
    "nonzero": lambda part, x: x * x.flatten(1).amax(0).nonzero().shape[0],
    "where": lambda part, x: x * torch.where(x.flatten() > 0)[0].numel(),
    "unique": lambda part, x: x * torch.unique(x).numel(),
    "masked_select": lambda part, x: x * torch.masked_select(x, x > 0).numel(),
    "boolean index": lambda part, x: x * x[x > 0].mean(),
    "one_hot of unknown width": lambda part, x: x * nn.functional.one_hot(x.argmax(-1)).shape[-1],
    "f-string": lambda part, x: x * len(f"{x.mean():.3f}"),
    "str": lambda part, x: x * len(str(x)),
    "in": lambda part, x: x * 2 if 0.0 in x else x,
    "max of Python": lambda part, x: x * max(x.mean(), torch.tensor(0.5)),
    "a copy": lambda part, x: x * 2 if copy.deepcopy(x).max() > 1 else x,
}


@pytest.mark.parametrize("place", ["forward", "unit"])
@pytest.mark.parametrize("kind", READS)
def test_reading_the_inputs_content_is_refused_by_line(kind: str, place: str) -> None:
    with pytest.raises(NotSliceable, match="reads values that depend on the content of its input") as caught:
        slice_model(Own(READS[kind], place), 2)
    assert f"{Path(__file__).name}:" in str(caught.value)
    assert ("its module 'odd'" in str(caught.value)) or place == "forward"


def test_the_message_shows_the_line_and_the_remedy() -> None:
    with pytest.raises(NotSliceable) as caught:
        slice_model(Own(swallowed, "unit"), 2)
    said = str(caught.value)
    assert said.startswith("Own cannot be sliced: its module 'odd' at ")
    assert "`return x / 255 if x.max() > 1.5 else x`" in said and "torch.where" in said


def keep(part: Any, x: torch.Tensor) -> torch.Tensor:
    if part.kept is None:
        part.kept = x.mean()
    return x - part.kept


def keep_in_list(part: Any, x: torch.Tensor) -> torch.Tensor:
    part.log.append({"x": (x,)})
    return x


def keep_in_buffer(part: Any, x: torch.Tensor) -> torch.Tensor:
    part.memory.mul_(0.9).add_(x.mean() * 0.1)
    return x - part.memory.mean()


def keep_in_global(part: Any, x: torch.Tensor) -> torch.Tensor:
    return x - GLOBAL.setdefault("mean", x.mean())


def count(part: Any, x: torch.Tensor) -> torch.Tensor:
    part.calls += 1
    return x * 2 if part.calls > 100 else x


def count_in_list(part: Any, x: torch.Tensor) -> torch.Tensor:
    part.log.append(1)
    return x


def count_in_buffer(part: Any, x: torch.Tensor) -> torch.Tensor:
    part.memory += 1
    return x


def count_in_global(part: Any, x: torch.Tensor) -> torch.Tensor:
    GLOBAL["calls"] = GLOBAL.get("calls", 0) + 1
    return x * GLOBAL["calls"]


def draw(part: Any, x: torch.Tensor) -> torch.Tensor:
    return x * random.random()


KEEPS: dict[Middle, str] = {
    keep: "its odd.kept keeps|earlier call",
    keep_in_list: r"its odd.log\[0\]\['x'\]\[0\] keeps|its odd.log keeps",
    keep_in_buffer: "its odd.memory keeps|earlier call",
    keep_in_global: "cannot be sliced",
    count: "every call changes its odd.calls",
    count_in_list: r"every call changes its len\(odd.log\)",
    count_in_buffer: "every call changes its odd.memory",
    count_in_global: "random numbers or keep state",
    draw: "random numbers or keep state",
}


@pytest.mark.parametrize("place", ["forward", "unit"])
@pytest.mark.parametrize("odd", KEEPS, ids=lambda odd: odd.__name__)
def test_what_one_call_leaves_for_the_next_is_refused(odd: Middle, place: str) -> None:
    GLOBAL.clear()
    module = Own(odd, place)
    with pytest.raises(NotSliceable, match=KEEPS[odd]):
        slice_model(module, 2)
    assert (module.odd.kept, module.odd.calls) == (None, 0) and not module.odd.log, "the user's module is as it was"


def table_for_a_shape(part: Any, x: torch.Tensor) -> torch.Tensor:
    if x.shape[1] not in part.tables:
        part.tables[x.shape[1]] = torch.arange(8.0)
    part.kept = torch.arange(8.0)
    part.log[:] = [f"{x.shape[1:]} {x.dtype}"]
    return x + part.tables[x.shape[1]] * part.kept


FINE: dict[str, Middle] = {
    "a number from a buffer": lambda part, x: x * int(part.two),
    "a decision on weights": lambda part, x: x * 2 if part.memory.abs().max() < 1 else x,
    "a decision on a shape": lambda part, x: x * 2 if x.shape[-1] > 3 else x,
    "tables that depend on shapes": table_for_a_shape,
    "tensors decide": lambda part, x: torch.where(x > 1.5, x / 255, x).masked_fill(x < 0, 0.0),
    "only the shape of data": lambda part, x: x * torch.ones_like(x[0]).nonzero().shape[0],
    "a constant mask": lambda part, x: torch.cat([x[..., torch.arange(8) < 4], x[..., torch.arange(8) > 3]], -1),
    "one_hot": lambda part, x: x + nn.functional.one_hot(x.argmax(-1), 8),
}


@pytest.mark.parametrize("place", ["forward", "unit"])
@pytest.mark.parametrize("kind", FINE)
def test_weights_and_shapes_may_decide(kind: str, place: str) -> None:
    sliced = slice_model(Own(FINE[kind], place), 2)
    x = torch.randn(3, 3, 4, 4) * 3
    with torch.inference_mode():
        assert torch.equal(sliced.tail(1)(sliced.head(1)(x)), sliced.module(x))
