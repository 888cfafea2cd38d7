"""Weights from a file into a model: .safetensors, or PyTorch's own format without running any pickled code.

timm's reader is used, so nested checkpoints (``state_dict``, ``model``, EMA weights, DDP prefixes) work as in timm, and
so does the family's own ``checkpoint_filter_fn``, which renames the keys of the original authors' releases.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slicer.errors import ModelError

SUFFIXES: tuple[str, ...] = (".safetensors", ".pth", ".pt", ".bin")

_State = dict[str, torch.Tensor]


def load_checkpoint(module: nn.Module, path: str) -> None:
    """Copy the weights of the file `path` into `module`; the parameters keep their dtype.

    Raises:
        ModelError: the file is missing or unreadable, or its keys or shapes are not exactly those of the model; the
            message names them.
    """
    state = _read(path)
    complaint = _mismatch(module, state)
    if complaint:
        renamed = _renamed_by_timm(module, state)
        if renamed is None or _mismatch(module, renamed):
            raise ModelError(
                f"{path} does not fit {type(module).__name__}: {complaint}; give the model's name and kwargs "
                "(num_classes, img_size, ...) with which the checkpoint was made"
            )
        state = renamed
    module.load_state_dict(state, strict=True)


def _read(path: str) -> _State:
    from timm.models import load_state_dict

    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise ModelError(f"checkpoint {path}: unknown extension {file.suffix!r}; known are {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise ModelError(f"checkpoint {path}: there is no such file; check the path")
    try:
        state: _State = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # safetensors, zipfile and torch each have their own classes for a broken file
        raise ModelError(
            f"checkpoint {path} cannot be read ({_first_line(error)}); it must be a complete .safetensors file or a "
            "torch file of tensors only (save model.state_dict())"
        ) from error
    wrong = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ModelError(f"checkpoint {path}: {_some(wrong)} is no tensor; save model.state_dict()")
    return state


def _mismatch(module: nn.Module, state: _State) -> str:
    """What is missing, left over or of another shape, in words; empty when the state fits."""
    own = module.state_dict()
    parts = []
    if missing := [key for key in own if key not in state]:
        parts.append(f"missing {_some(missing)}")
    if leftover := [key for key in state if key not in own]:
        parts.append(f"leftover {_some(leftover)}")
    for key, tensor in own.items():
        if key in state and state[key].shape != tensor.shape:
            parts.append(f"{key} has shape {tuple(state[key].shape)} instead of {tuple(tensor.shape)}")
            break
    return ", ".join(parts)


def _renamed_by_timm(module: nn.Module, state: _State) -> _State | None:
    """The state with the keys that this family's module in timm gives to foreign checkpoints; None if it cannot."""
    family = type(module).__module__
    if not family.startswith("timm.models."):
        return None
    rename: Callable[[_State, nn.Module], Any] | None = getattr(
        importlib.import_module(family), "checkpoint_filter_fn", None
    )
    if rename is None:
        return None
    try:
        renamed = rename(dict(state), module)
    except Exception:  # written for known releases only; on anything else the plain mismatch is the better message
        return None
    return renamed if isinstance(renamed, dict) else None


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
