"""Weights from a file into a model: .safetensors, or PyTorch's own format without running any pickled code.

timm's reader is used, so nested checkpoints (``state_dict``, ``model``, EMA weights, DDP prefixes) work as in timm, and
so does the family's own ``checkpoint_filter_fn``, which renames the keys of the original authors' releases. A prefix
that a wrapper gave to all keys (``model.``, ``backbone.``) is taken off where what remains fits exactly.
"""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slicer.common.error_text import first_line
from slicer.errors import ModelError
from slicer.models.weights import refuse_foreign

SUFFIXES: tuple[str, ...] = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")

logger = logging.getLogger("headtail.models")

_State = dict[str, torch.Tensor]


class OtherClasses(ModelError):
    """The checkpoint has another number of classes than the model, and nothing else differs.

    Attributes:
        classes: of the checkpoint.
        instead_of: classes of the model.
    """

    def __init__(self, message: str, classes: int, instead_of: int) -> None:
        super().__init__(message)
        self.classes, self.instead_of = classes, instead_of


def load_checkpoint(module: nn.Module, path: str) -> None:
    """Copy the weights of the file `path` into `module`; the parameters keep their dtype.

    Raises:
        ModelError: the file is missing or unreadable, its keys or shapes are not exactly those of the model, or a
            tensor is no weight (integers in place of floats, NaN, infinity, beyond the dtype); the message names them.
            OtherClasses: it differs in the number of classes alone.
    """
    own = module.state_dict()
    state = read_state(path)
    source = f"checkpoint {path}"
    complaint = _mismatch(own, state)
    if complaint:
        refuse_foreign(own, state, source)  # of a quantised model the scales are left over, which says less
        classes = _other_classes(module, own, state)
        for prefix, candidate in _candidates(module, state):
            classes = classes or _other_classes(module, own, candidate)
            if not _mismatch(own, candidate):
                if prefix:
                    logger.warning("%s: all its keys begin with %r, which was taken off", source, prefix)
                state = candidate
                break
        else:
            if classes:
                raise OtherClasses(
                    f"{path} does not fit {type(module).__name__}: {complaint}; it has {classes[0]} classes, the model "
                    f"{classes[1]}: give kwargs num_classes={classes[0]}",
                    *classes,
                )
            raise ModelError(
                f"{path} does not fit {type(module).__name__}: {complaint}; {_prefix_remedy(own, state)}give the "
                "model's name and kwargs (num_classes, img_size, ...) with which the checkpoint was made"
            )
    refuse_foreign(own, state, source)
    module.load_state_dict(state, strict=True)


def read_state(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, by name, on the CPU; no code in it runs. Raises ModelError."""
    from timm.models import load_state_dict

    file = Path(path)
    if not file.name.endswith(SUFFIXES):
        raise ModelError(f"checkpoint {path}: unknown extension {file.suffix!r}; known are {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise ModelError(f"checkpoint {path}: there is no such file; check the path")
    try:
        read: Any = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # safetensors, zipfile and torch each have their own classes for a broken file
        raise ModelError(
            f"checkpoint {path} cannot be read ({first_line(error)}); it must be a complete .safetensors file or a "
            "torch file of tensors only (save model.state_dict())"
        ) from error
    state: dict[Any, Any] = _nested(read)
    if wrong := [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]:
        inside = [str(key) for key, value in read.items() if _is_state(value)]
        raise ModelError(
            f"checkpoint {path}: {_some(wrong)} is no tensor; save model.state_dict()"
            + (f" ({_some(inside)} each hold tensors: save one of them)" if inside else "")
        )
    return state


def _nested(read: Mapping[Any, Any]) -> dict[Any, Any]:
    """The one state dict in `read`, under whatever name (``model_state_dict``, ``net``); `read` if it is none or not
    the only one."""
    inside = [value for value in read.values() if _is_state(value)]
    flat = any(isinstance(value, torch.Tensor) and value.ndim for value in read.values())
    return dict(inside[0]) if len(inside) == 1 and not flat else dict(read)


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, torch.Tensor) for one in value.values())


def _candidates(module: nn.Module, state: _State) -> Iterator[tuple[str, _State]]:
    """The state as it may have been meant: renamed by timm, without a prefix that all keys share, or both."""
    prefix = ""
    while True:
        stripped = {key.removeprefix(prefix): value for key, value in state.items()}
        if prefix:
            yield prefix, stripped
        if (renamed := _renamed_by_timm(module, stripped)) is not None:
            yield prefix, renamed
        first = {key.partition(".")[0] for key in stripped}
        if len(first) != 1 or not all("." in key for key in stripped):
            return
        prefix += first.pop() + "."


def _mismatch(own: Mapping[str, torch.Tensor], state: _State) -> str:
    """What is missing, left over or of another shape, in words; empty when the state fits."""
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


def _other_classes(module: nn.Module, own: Mapping[str, torch.Tensor], state: _State) -> tuple[int, int] | tuple[()]:
    """How many classes the checkpoint has, and how many the model, where nothing but the classifier's size differs."""
    about: Any = getattr(module, "pretrained_cfg", None)
    named: Any = about.get("classifier") if isinstance(about, Mapping) else None
    layers = [named] if isinstance(named, str) else list(named or ())
    if own.keys() != state.keys():
        return ()
    differ = {key for key, tensor in own.items() if state[key].shape != tensor.shape}
    heads = {key for layer in layers for key in (f"{layer}.weight", f"{layer}.bias") if key in own}
    if not differ or differ != heads or any(own[key].shape[1:] != state[key].shape[1:] for key in heads):
        return ()
    sizes = {(state[key].shape[0], own[key].shape[0]) for key in heads if own[key].ndim and state[key].ndim}
    return sizes.pop() if len(sizes) == 1 else ()


def _prefix_remedy(own: Mapping[str, torch.Tensor], state: _State) -> str:
    """Where the model's names stand behind a prefix, but beside others: which prefix, and how to take it off."""
    found: Counter[str] = Counter()
    for key in state:
        found.update(key[: -len(name)] for name in _endings(key) if name in own)
    if not found:
        return ""
    prefix, count = found.most_common(1)[0]
    if count <= max(1, len(own) // 2):
        return ""
    return (
        f"{count} of its {len(state)} keys are the model's behind {prefix!r}; if these are the weights, save them "
        f"alone: {{k[{len(prefix)}:]: v for k, v in state.items() if k.startswith({prefix!r})}}; else "
    )


def _endings(key: str) -> Iterator[str]:
    """``b.c`` and ``c`` of ``a.b.c``."""
    while "." in key:
        key = key.partition(".")[2]
        yield key


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
