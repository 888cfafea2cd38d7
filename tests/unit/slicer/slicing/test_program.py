"""An export is loaded as the very program that was exported, numbers read out of weights included, or not at all."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slicer import load_span, slice_model
from slicer.errors import ShardError
from slicer.shards.load import load_sliced, load_slices
from slicer.shards.save import export
from slicer.slicing.program import digest
from tests.paths import ROOT

HERE = f"{__name__}:" if "." in __name__ else "tests.unit.slicer.slicing.test_program:"


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(x)


class Own(nn.Module):
    """(B, 3, 4, 4) -> (B, 5); subclasses change `last`."""

    input_shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.register_buffer("number", torch.tensor(3))
        self.register_buffer("list", torch.tensor([1, 0, 2]))
        self.scale = nn.Parameter(torch.tensor(1.25))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.last(x).mean(1))

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Sliced(Own):
    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : int(self.number)]


class Looped(Own):
    def last(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.number):  # type: ignore[call-overload]
            x = x * 2
        return x


class Divided(Own):
    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.number.item() + float(self.scale) + self.scale.abs().item()


class Listed(Own):
    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.list.tolist()]


class Branch(Own):
    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if self.number > 2 else x - 1


class Unit(nn.Module):
    """Reads its own buffer where nobody traces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * int(self.keep)


class InsideAUnit(Own):
    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit()

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return self.unit(x)


READERS = {kind.__name__: kind for kind in (Sliced, Looped, Divided, Listed, Branch, InsideAUnit)}


def build(kind: str) -> nn.Module:
    return READERS[kind]()


@pytest.mark.parametrize("kind", READERS)
def test_a_number_that_the_checkpoint_holds_is_loaded_with_it(tmp_path: Path, kind: str) -> None:
    state = READERS[kind]().state_dict()
    state.update({"number": torch.tensor(5), "list": torch.tensor([4, 4, 6]), "scale": torch.tensor(0.125)})
    if "unit.keep" in state:
        state["unit.keep"] = torch.tensor(7)
    torch.save(state, tmp_path / "weights.pth")
    sliced = slice_model(f"{HERE}build", 3, input_shape=(3, 4, 4), checkpoint=str(tmp_path / "weights.pth"), kind=kind)
    export(sliced, tmp_path / "shards")
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        want = sliced.module(x)
        assert torch.equal(load_span(tmp_path / "shards", 0, 3)(x), want)
        assert torch.equal(load_sliced(tmp_path / "shards").tail(0)(x), want)
        assert torch.equal(nn.Sequential(*load_slices(tmp_path / "shards", 0, 3))(x), want)


class Drawn(Own):
    """Its constructor takes something from outside and keeps it in one way or another."""

    def __init__(self, how: str, value: Any) -> None:
        super().__init__()
        self.how, self.value = how, value
        if how == "unit":
            self.blocks[2].factor = value  # type: ignore[assignment]

    def last(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "index":
            return x[:, self.value]
        return x if self.how == "unit" else x * self.value


def drawn(how: str, source: str) -> nn.Module:
    made: Any = {
        "random": lambda: random.random(),
        "numpy": lambda: np.random.default_rng().random(),
        "urandom": lambda: int.from_bytes(os.urandom(4), "little"),
        "environment": lambda: float(os.environ["HEADTAIL_TEST_SCALE"]),
        "permutation": lambda: np.random.default_rng().permutation(16).tolist(),
        "array": lambda: np.random.default_rng().random(8).astype(np.float32),
        "list": lambda: [random.random(), [random.random()]],
        "partial": lambda: functools.partial(round, random.random()),
    }[source]()
    return Drawn(how, made)


@pytest.mark.parametrize(
    ("how", "source"),
    [
        ("times", "random"),
        ("times", "numpy"),
        ("times", "urandom"),
        ("index", "permutation"),
        ("unit", "random"),
        ("unit", "array"),
        ("unit", "list"),
        ("unit", "partial"),
    ],
)
def test_a_constructor_that_draws_is_refused_where_it_is_exported(tmp_path: Path, how: str, source: str) -> None:
    sliced = slice_model(f"{HERE}drawn", 3, input_shape=(3, 4, 4), how=how, source=source)
    with pytest.raises(ShardError, match=r"built once more is another model: in slice \d .* became .* draw no random"):
        export(sliced, tmp_path / "shards")
    assert not (tmp_path / "shards" / "manifest.json").exists()


@pytest.mark.parametrize("how", ["times", "unit"])
def test_an_environment_that_has_changed_is_refused_where_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("HEADTAIL_TEST_SCALE", "2")
    sliced = slice_model(f"{HERE}drawn", 3, input_shape=(3, 4, 4), how=how, source="environment")
    export(sliced, tmp_path)
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        assert torch.equal(load_span(tmp_path, 0, 3)(x), sliced.module(x))
    monkeypatch.setenv("HEADTAIL_TEST_SCALE", "3")
    for load in (lambda: load_span(tmp_path, 1, 3), lambda: load_slices(tmp_path, 0, 1), lambda: load_sliced(tmp_path)):
        with pytest.raises(ShardError, match=r"slice \d .* is another program here"):
            load()


class Tensors(Own):
    """Random tensors that no state_dict holds are stored, wherever they are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.from_numpy(np.random.default_rng().random(8).astype(np.float32))
        self.register_buffer("unsaved", self.plain * 3, persistent=False)

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.plain + self.unsaved


def tensors() -> nn.Module:
    return Tensors()


def test_random_tensors_outside_the_state_dict_are_stored(tmp_path: Path) -> None:
    sliced = slice_model(f"{HERE}tensors", 3, input_shape=(3, 4, 4))
    export(sliced, tmp_path)
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        assert torch.equal(load_span(tmp_path, 0, 3)(x), sliced.module(x))


def test_the_program_is_the_same_in_every_process() -> None:
    mine = [digest(lines) for lines in slice_model("digits_swin", 4).programs]
    code = (
        "from slicer import slice_model\nfrom slicer.slicing.program import digest\n"
        "print(*(digest(lines) for lines in slice_model('digits_swin', 4).programs))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == mine


def test_weights_are_no_part_of_the_program() -> None:
    one, other = (slice_model("vit_tiny_patch16_224", 2, seed=seed, depth=2, img_size=32).programs for seed in (0, 1))
    assert one == other
    assert one != slice_model("vit_tiny_patch16_224", 2, depth=2, img_size=32, init_values=0.5).programs


class Held(nn.Module):
    """A unit that keeps a number where it is no plain attribute."""

    factor = 1.0

    def __init__(self, how: str, number: float) -> None:
        super().__init__()
        self.how = how
        if how == "closure":
            self.scale = lambda x: x * number
        elif how == "default":

            def scale(x: torch.Tensor, factor: float = number) -> torch.Tensor:
                return x * factor

            self.scale = scale  # type: ignore[assignment]
        elif how == "hook":
            self.register_forward_hook(lambda module, args, result: result * number)
        elif how == "class":
            type(self).factor = number
        elif how == "method":
            self.scale = Scale(number).times  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale(x) if hasattr(self, "scale") else x * self.factor


class Scale:
    def __init__(self, number: float) -> None:
        self.number = number

    def times(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.number


class Holding(Own):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.held = Held(how, random.random())

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return self.held(x)


def holding(how: str) -> nn.Module:
    return Holding(how)


@pytest.mark.parametrize("how", ["closure", "default", "hook", "class", "method"])
def test_a_number_that_own_code_holds_elsewhere_is_part_of_the_program(tmp_path: Path, how: str) -> None:
    sliced = slice_model(f"{HERE}holding", 3, input_shape=(3, 4, 4), how=how)
    with pytest.raises(ShardError, match="built once more is another model"):
        export(sliced, tmp_path / "shards")
