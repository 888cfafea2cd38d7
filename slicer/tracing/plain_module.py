"""What can be traced at all: a module whose Python code is still there."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import fx, nn

from slicer.errors import ModelError


def must_be_plain(module: Any) -> None:
    """Raise ModelError unless `module` is a module whose Python code can be traced."""
    kind, remedy = type(module).__name__, ""
    if not isinstance(module, nn.Module):
        remedy = "give a model's name as str, or a torch.nn.Module"
        if isinstance(module, os.PathLike):
            remedy = f"give a path as str: {os.fspath(module)!r}"
    elif isinstance(module, torch.jit.ScriptModule):
        remedy = "it is compiled by torch.jit; give the torch.nn.Module it was made of"
    elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
        remedy = "it is compiled by torch.compile; give the module it was made of (its _orig_mod)"
    elif isinstance(module, fx.GraphModule) and _is_exported(module):
        remedy = "it comes out of torch.export, with its batch size and units lost; give the torch.nn.Module before it"
    if remedy:
        raise ModelError(f"a {kind} cannot be sliced: {remedy}")


def _is_exported(module: nn.Module) -> bool:
    """Whether torch.export made it, which forbids eval()."""
    try:
        module.eval()
    except NotImplementedError:
        return True
    return False
