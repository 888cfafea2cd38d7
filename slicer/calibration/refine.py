"""A learned step after `fit`: the channels' way back, refined so that the model's answer changes least.

Self-distillation on the calibration images, without labels: what rounding left is put together by a matrix that
gradient descent moves, with the rest of the model behind it. Payloads stay as they are; only what a server makes of
them changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from slicer.calibration.collect import Floats, dtype_of
from slicer.core.codecs.transform.linear import cosines
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import LEVEL_OF_ONE, TransformTables

_BATCH = 8
_RATE = 1e-3

#: A cosine nearer to 1 than this needs no more.
_ENOUGH = 1e-6


def refined(
    tables: TransformTables,
    activations: Floats,
    tail: nn.Module,
    seconds: float,
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> TransformTables:
    """Tables with another `synthesis`, after so many seconds.

    Args:
        activations: [images, *shape], those that the tables were fitted on.
        tail: of the model, from the boundary on; its answer is [N, any number].
    """
    rng, codec = np.random.default_rng(seed), BoundaryCodec(tables)
    way_back = _WayBack(tables, activations)
    trained = torch.optim.Adam(way_back.parameters(), lr=_RATE)
    dtype, until_s = dtype_of(tail), clock() + seconds
    for one in tail.parameters():
        one.requires_grad_(False)
    while clock() < until_s:
        chosen = rng.choice(len(activations), min(_BATCH, len(activations)), replace=False)
        quality = int(rng.integers(len(tables.steps)))
        left = np.stack([_left(codec, activations[at], quality) for at in chosen])
        with torch.no_grad():
            exact = tail(torch.from_numpy(activations[chosen]).to(dtype)).float().flatten(1)
        answer = tail(way_back(torch.from_numpy(left)).to(dtype)).float().flatten(1)
        away = (1 - torch.cosine_similarity(answer, exact, dim=1)).clamp_min(_ENOUGH)
        trained.zero_grad()
        torch.autograd.backward(away.log().mean())
        trained.step()
    return replace(tables, synthesis=way_back.synthesis())


def _left(codec: BoundaryCodec, activation: Floats, quality: int) -> Floats:
    """[P + C * G] coefficients as a server has them, in the order in which they are computed."""
    tables = codec.tables
    integers = codec.quantised(activation, quality)
    step = np.exp2((float(tables.steps[quality]) - LEVEL_OF_ONE) / 4)
    scaled = integers * (step * tables.gains)[codec.classes(quality), None]
    found = np.empty(len(tables.order), np.float32)
    found[tables.order] = scaled.reshape(-1)[: len(found)]
    return found


class _WayBack(nn.Module):
    """Coefficients [N, n] to activations [N, *shape], with a correction of the channels that begins with none.

    Channels are brought to one size before it, since some are a hundred times larger than others.
    """

    def __init__(self, tables: TransformTables, activations: Floats) -> None:
        super().__init__()
        self._tables = tables
        channels = tables.analysis.shape[0]
        self._mean = torch.from_numpy(tables.mean.astype(np.float32))
        self._back = torch.from_numpy(tables.synthesis.copy())
        self._prefix_back = torch.from_numpy(tables.prefix_synthesis.copy())
        self._rows, self._columns = (torch.from_numpy(cosines(size).copy()) for size in tables.grid)
        spread = _tokens(tables, activations).reshape(-1, channels).std(axis=0)
        self._spread = torch.from_numpy(np.maximum(spread, 1e-6 * float(spread.max()) + 1e-12))
        self.correction = nn.Parameter(torch.zeros(channels, channels))

    def _channels(self) -> torch.Tensor:
        changed = self._spread[:, None] * self.correction / self._spread
        return self._back + changed @ self._back

    def forward(self, coefficients: torch.Tensor) -> torch.Tensor:
        """See the class."""
        tables, (height, width) = self._tables, self._tables.grid
        channels, prefix = tables.analysis.shape[0], tables.prefix
        count = len(coefficients)
        planes = coefficients[:, prefix * channels :].reshape(count, channels, height, width)
        places = (self._rows.T @ planes @ self._columns).reshape(count, channels, -1).transpose(1, 2)
        tokens = places @ self._channels().T
        if prefix:
            first = coefficients[:, : prefix * channels].reshape(count, prefix, channels) @ self._prefix_back.T
            tokens = torch.cat([first, tokens], dim=1)
        tokens = tokens + self._mean
        return (tokens.transpose(1, 2) if tables.layout == "planes" else tokens).reshape(count, *tables.shape)

    def synthesis(self) -> npt.NDArray[np.float32]:
        """What was learnt."""
        found: npt.NDArray[np.float32] = self._channels().detach().numpy().copy()
        return found


def _tokens(tables: TransformTables, activations: Floats) -> Floats:
    channels = tables.analysis.shape[0]
    by_channel = activations.reshape(len(activations), channels, -1)
    return (
        by_channel.transpose(0, 2, 1)
        if tables.layout == "planes"
        else activations.reshape(len(by_channel), -1, channels)
    )
