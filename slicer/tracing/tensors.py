"""A module's tensors by their paths, plain attributes among them, and how often a tensor was written into."""

from __future__ import annotations

import torch
from torch import nn


def version(value: object) -> int:
    """How often a tensor was written into; tensors made in inference mode do not count it."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter, buffer and plain tensor attribute by its path; a tied tensor stands under each of its names."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}" if path else name] = value
    return found
