"""What calibration looks at: activations of images at a boundary, and which way the answer is sensitive there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Floats = npt.NDArray[np.float32]

_BATCH = 16


def run(module: nn.Module, rows: Floats) -> Floats:
    """[N, ...] through a module, in batches, float32."""
    with torch.inference_mode():
        parts = [module(torch.from_numpy(rows[at : at + _BATCH])).float() for at in range(0, len(rows), _BATCH)]
    return np.ascontiguousarray(torch.cat(parts).numpy())


def sensitivity(tail: nn.Module, activations: Floats, directions: int = 2, seed: int = 0) -> Floats:
    """Gradients [N * directions, *shape] of random directions of the answer, which is brought to length 1 before.

    Args:
        tail: of the model, from the boundary on; its answer is [N, any number].
        activations: [N, *shape], at the boundary.
        directions: of each image; seed: of them.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[Floats] = []
    for at in range(0, len(activations), _BATCH):
        rows = torch.from_numpy(activations[at : at + _BATCH]).requires_grad_(True)
        answer = tail(rows).float().flatten(1)
        answer = answer / answer.norm(dim=1, keepdim=True).clamp_min(1e-12)
        for _ in range(directions):
            ahead = torch.randn(answer.shape, generator=generator)
            (slopes,) = torch.autograd.grad((answer * ahead).sum(), rows, retain_graph=True)
            found.append(slopes.numpy())
    return np.concatenate(found)
