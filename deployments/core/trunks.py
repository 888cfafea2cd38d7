"""Several models as one of the accelerator's: their common slices once, and the last slice of each behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deployments.core.hosting import Hosted
from deployments.core.sharing import check_fork
from deployments.engine.forks import Forks, forks_of
from deployments.executors.base import Sliced
from deployments.ipc.hosted_model import HostedModel


class Trunk(Sliced):
    """What an executor loads for a model and its forks.

    Args:
        models: the trunk's own first; with the same slices but for the last one (`check_fork`).

    Attributes:
        num_slices: of each of them.
    """

    def __init__(self, models: Sequence[Sliced], outputs: Sequence[tuple[int, ...]]) -> None:
        self._models = tuple(models)
        self._total = sum(math.prod(shape) for shape in outputs)

    @property
    def num_slices(self) -> int:
        """Of each of them."""
        return self._models[0].num_slices

    def span(self, start: int, end: int, /) -> nn.Module:
        """Slices ``start:end``; what comes out of the last one is [B, all numbers of all models' outputs]."""
        last = self.num_slices - 1
        if end <= last or start >= end:
            return self._models[0].span(start, end)
        tails = Tails([model.span(last, end) for model in self._models]).eval()
        return tails if start == last else nn.Sequential(self._models[0].span(start, last), tails).eval()

    def shape_at(self, cut: int, /) -> tuple[int, ...] | None:
        """Of the activation at a cut, without the batch dimension."""
        return (self._total,) if cut == self.num_slices else self._models[0].shape_at(cut)


class Tails(nn.Module):
    """The last slices of several models on one activation, one after the other.

    Input [B, *shape at the last boundary]; output [B, numbers of all outputs], each flattened, in the models' order.
    Each computes what it computes alone, bit for bit: only their results are put side by side.
    """

    def __init__(self, tails: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tails = nn.ModuleList(tails)

    def forward(self, x: Tensor) -> Tensor:
        """All of them."""
        return torch.cat([tail(x).reshape(x.shape[0], -1) for tail in self.tails], 1)


class Loadable(NamedTuple):
    """A model as the accelerator runs it, alone or with the forks on its trunk.

    Attributes:
        model: the one whose name, policy and cuts it has.
        sliced: the weights.
        entries: cuts at which rows of any of them may enter.
        forks: all of them by name; empty where there is only one.
    """

    model: HostedModel
    sliced: Sliced
    entries: tuple[int, ...]
    forks: Forks


def joined(hosted: Sequence[Hosted]) -> list[Loadable]:
    """The models of an application as its accelerator runs them.

    Raises:
        ConfigError: a model differs from its trunk before the last slice.
    """
    found = []
    for model, sliced in hosted:
        if model.config.trunk is not None:
            continue
        forks = [one for one in hosted if one[0].config.trunk == model.name]
        if not forks:
            found.append(Loadable(model, sliced, model.entries, {}))
            continue
        for fork, _ in forks:
            check_fork(fork, model)
        every = [(model, sliced), *forks]
        shapes = {one.name: one.shapes[-1] for one, _ in every}
        entries = tuple(sorted({entry for one, _ in every for entry in one.entries}))
        trunk = Trunk([weights for _, weights in every], list(shapes.values()))
        found.append(Loadable(model, trunk, entries, forks_of(model.name, shapes)))
    return found
