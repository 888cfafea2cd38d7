"""Slices of torch, as a head runs them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from typing_extensions import override

from slicer.core.common.memory import give_back_memory
from slicer.core.heads.head import Slices


class TorchSlices(Slices):
    """Modules, one per slice, in a dtype and on a device of torch's."""

    def __init__(
        self, slices: Sequence[nn.Module], dtype: torch.dtype = torch.float32, accelerator: str = "cpu"
    ) -> None:
        self._slices, self._dtype, self._accelerator = list(slices), dtype, accelerator

    @property
    @override
    def loaded(self) -> int:
        return len(self._slices)

    @override
    def run(self, x: npt.NDArray[np.float32], start: int, end: int) -> tuple[npt.NDArray[np.float32], list[float]]:
        times_ms = []
        with torch.inference_mode():
            # A copy in torch's own memory, whose alignment decides in which order kernels sum.
            now: torch.Tensor = torch.tensor(x).unsqueeze(0).to(self._accelerator, self._dtype)
            for one in self._slices[start:end]:
                began = time.perf_counter()
                now = one(now)
                times_ms.append((time.perf_counter() - began) * 1e3)
            activation: npt.NDArray[np.float32] = now[0].to("cpu", torch.float32).numpy()
        return activation, times_ms

    @override
    def extend(self, more: Sequence[nn.Module]) -> None:
        self._slices.extend(more)

    @override
    def trim(self, count: int) -> None:
        if count < len(self._slices):
            dropped = self._slices[count:]
            del self._slices[count:]
            drop_weights(dropped, self._slices)
            give_back_memory()


def drop_weights(dropped: Sequence[nn.Module], kept: Sequence[nn.Module]) -> None:
    """Take the weights out of modules that nobody runs any more, except for those that others hold, too.

    Dropping the modules is not enough: a traced module is a cycle of references, which a collection may free late, or
    never, if `gc.freeze` was called in between.
    """
    held = {id(tensor) for one in kept for tensor in (*one.parameters(), *one.buffers())}
    for one in dropped:
        for tensor in (*one.parameters(), *one.buffers()):
            if id(tensor) not in held:
                tensor.data = tensor.data.new_empty(0)
