"""What calibration looks at: activations of images at a boundary, and which way the answer is sensitive there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from slicer.core.protocol.outputs import Output

Floats = npt.NDArray[np.float32]

_BATCH = 16


class OwnResult(nn.Module):
    """The model's own result of a tail that may give more, flat: [N, any number]."""

    def __init__(self, tail: nn.Module, own: Output) -> None:
        super().__init__()
        self.tail, self._own = tail, own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of activations [N, *shape]."""
        row: torch.Tensor = self.tail(x).flatten(1)
        return row[:, self._own.start : self._own.start + self._own.size]


def run(module: nn.Module, rows: Floats) -> Floats:
    """[N, ...] through a module, in batches, float32."""
    dtype = dtype_of(module)
    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(rows[at : at + _BATCH]).to(dtype)).float() for at in range(0, len(rows), _BATCH)
        ]
    return np.ascontiguousarray(torch.cat(parts).numpy())


def dtype_of(module: nn.Module) -> torch.dtype:
    """Of its weights, and so of what it takes."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)


def sensitivity(tail: nn.Module, activations: Floats, directions: int = 2, seed: int = 0) -> Floats:
    """Gradients [N * directions, *shape] of random directions of the answer, which is brought to length 1 before.

    Args:
        tail: of the model, from the boundary on; its answer is [N, any number].
        activations: [N, *shape], at the boundary.
        directions: of each image; seed: of them.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[Floats] = []
    dtype = dtype_of(tail)
    for at in range(0, len(activations), _BATCH):
        rows = torch.from_numpy(activations[at : at + _BATCH]).requires_grad_(True)
        answer = tail(rows.to(dtype)).float().flatten(1)
        answer = answer / answer.norm(dim=1, keepdim=True).clamp_min(1e-12)
        for _ in range(directions):
            ahead = torch.randn(answer.shape, generator=generator)
            (slopes,) = torch.autograd.grad((answer * ahead).sum(), rows, retain_graph=True)
            found.append(slopes.numpy())
    return np.concatenate(found)
