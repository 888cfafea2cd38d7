"""The learned step mends a way back that is off, and changes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from slicer.calibration.collect import run
from slicer.calibration.fit import fit
from slicer.calibration.refine import refined
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import TransformTables
from tests.unit.slicer.core.codecs.transform import made


class Tail(nn.Module):
    """Looks at few channels, which hang together with all others."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        weights = torch.zeros(int(np.prod(shape)), 8)
        weights[::17] = torch.randn(len(weights[::17]), 8, generator=torch.Generator().manual_seed(0))
        self.weights = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.flatten(1) @ self.weights / 10)


def steps(count: int) -> Callable[[], float]:
    """A clock by which the learned step takes so many turns of a second."""
    times = iter(range(count + 1))
    return lambda: float(next(times))


def away(tables: TransformTables, rows: np.ndarray, tail: nn.Module) -> float:
    codec, back = BoundaryCodec(tables), np.empty_like(rows)
    for row, out in zip(rows, back, strict=True):
        codec.decode(codec.encode(row, len(tables.steps) - 1), out)
    answers, exact = run(tail, back), run(tail, rows)
    cosine = (answers * exact).sum(1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(exact, axis=1)
    return float(np.log(1 - cosine).mean())


@pytest.mark.parametrize("name", made.LAYOUTS)
def test_a_way_back_that_is_off_is_mended_for_images_that_it_never_saw(name: str) -> None:
    layout, shape = made.LAYOUTS[name]
    rows, tail = made.activations(name, 60), Tail(shape)
    fitted = fit(rows, layout, steps=(0.1,))  # fine, so that little else is lost
    wrong = 0.1 * np.random.default_rng(1).standard_normal((layout.channels, layout.channels)).astype(np.float32)
    off = replace(fitted, synthesis=fitted.synthesis + wrong @ fitted.synthesis)
    held = made.activations(name, 20, seed=9)
    before, mended = away(off, held, tail), away(refined(off, rows, tail, 150, clock=steps(150)), held, tail)
    assert mended < before - 0.7  # half of what was off


def test_payloads_stay_as_they_are() -> None:
    name = "tokens behind a class token"
    layout, shape = made.LAYOUTS[name]
    rows = made.activations(name, 30)
    before = fit(rows, layout)
    after = refined(before, rows, Tail(shape), 3, clock=steps(3))
    for field in fields(TransformTables):
        same = np.array_equal(getattr(before, field.name), getattr(after, field.name))
        assert same is (field.name != "synthesis"), field.name
    ends = slice(8, None)  # behind the tables' digest, but for the CRC
    payloads = [BoundaryCodec(one).encode(rows[0], 0)[ends][:-4] for one in (before, after)]
    assert payloads[0] == payloads[1]


def test_without_time_nothing_changes() -> None:
    name = "planes"
    layout, shape = made.LAYOUTS[name]
    rows = made.activations(name, 30)
    before = fit(rows, layout)
    assert refined(before, rows, Tail(shape), 0, clock=steps(1)).digest == before.digest
