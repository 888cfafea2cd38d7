"""Tables follow what the model's answer is sensitive to, and say what they cannot be fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from slicer.calibration.collect import run, sensitivity
from slicer.calibration.fit import fit
from slicer.calibration.layout import Layout
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.errors import CodecError

LAYOUT = Layout("tokens", (4, 4), 0, 8)


class Tail(nn.Module):
    """Looks at the first channels only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., :2].flatten(1)


def rows(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 16, 8)).astype(np.float32)


def errors(gradients: np.ndarray | None) -> np.ndarray:
    """Mean square error of each channel at the coarsest step, over the bytes."""
    codec = BoundaryCodec(fit(rows(), LAYOUT, gradients))
    found = []
    for row in rows(60)[40:]:
        out = np.empty(row.shape, np.float32)
        codec.decode(codec.encode(row, 3), out)
        found.append(np.square(out - row).mean(axis=0))
    return np.mean(found, axis=0)


def test_channels_that_the_answer_depends_on_are_coded_more_finely() -> None:
    with_gradients, without = errors(sensitivity(Tail(), rows())), errors(None)
    assert with_gradients[:2].max() < 0.5 * with_gradients[2:].min()
    assert without[:2].max() > 0.5 * without[2:].min()


def test_gradients_are_of_the_direction_of_the_answer_not_of_its_length() -> None:
    tail = nn.Sequential(nn.Flatten(1), nn.Linear(16 * 8, 10, bias=False))
    slopes = sensitivity(tail, rows(3), directions=2)
    assert slopes.shape == (6, 16, 8)
    along = (slopes[:3] * rows(3)).sum(axis=(1, 2))  # a longer activation has the same direction
    assert np.abs(along).max() < 1e-4 * np.abs(slopes).max()
    assert np.array_equal(slopes, sensitivity(tail, rows(3), directions=2))


def test_rows_pass_a_module_as_a_whole_and_in_order() -> None:
    assert np.array_equal(run(Tail(), rows(37)), rows(37)[..., :2].reshape(37, -1))


@pytest.mark.parametrize("bad", [rows(1), np.where(rows(3) > 2, np.float32(np.nan), rows(3))])
def test_too_few_or_broken_activations_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(CodecError, match="calibration takes at least two, all finite"):
        fit(bad, LAYOUT)
