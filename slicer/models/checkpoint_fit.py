"""How a group of tensors is read: the ways in which it may have been meant, and which of them fits a model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slicer.core.common.error_text import shown
from slicer.models.checkpoint_file import State

#: What wrappers put into names, anywhere: DDP and averaged models, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class Trial:
    """One way to read a group of tensors.

    Attributes:
        state: by the model's names, if this is the right way.
        notes: what was done to get it, for people.
        wrong: how many names and shapes do not fit.
        complaint: these in words; empty if all fits.
        classes: of the checkpoint and of the model, where these alone differ.
    """

    state: State
    notes: tuple[str, ...]
    wrong: int
    complaint: str
    classes: tuple[int, int] | None


def best_trial(module: nn.Module, own: Mapping[str, torch.Tensor], state: State, open_classes: bool) -> Trial:
    """The first way to read the group that fits, else one that differs in classes alone, else the nearest one.

    Args:
        own: the module's state dict.
        open_classes: nobody said how many classes there are to be, so a model without a classifier may get one.
    """
    if 4 * len(state) < len(own):  # what an optimiser or a metric keeps: not worth a trial of each way
        return _trial(module, own, state, (), open_classes)
    trials: list[Trial] = []
    for way, notes in _ways(module, own, state):
        trials.append(_trial(module, own, way, notes, open_classes))
        if not trials[-1].complaint:
            return trials[-1]
    return next((trial for trial in trials if trial.classes), min(trials, key=lambda trial: trial.wrong))


def _ways(module: nn.Module, own: Mapping[str, torch.Tensor], state: State) -> Iterator[tuple[State, tuple[str, ...]]]:
    """The group as it may have been meant, and what was done to it."""
    for plain, notes in _bare(own, state):
        prefix, stripped = "", plain
        while True:
            said = (*notes, f"all its keys begin with {prefix!r}, which was taken off") if prefix else notes
            yield stripped, said
            if (renamed := _by_timm(module, stripped)) is not None:
                yield renamed, (*said, *_changes(stripped, renamed))
            first = {key.partition(".")[0] for key in stripped}
            if len(first) != 1 or not all("." in key for key in stripped):
                break
            prefix += first.pop() + "."
            stripped = {key.removeprefix(prefix): value for key, value in plain.items()}


def _bare(own: Mapping[str, torch.Tensor], state: State) -> Iterator[tuple[State, tuple[str, ...]]]:
    """The group, and where that differs: without counters that are none of the model's (how many were averaged), and
    without what wrappers put into names."""
    yield state, ()
    counters = [
        key
        for key, value in state.items()
        if not value.ndim and not value.is_floating_point() and not any(name in own for name in endings(key))
    ]
    if counters:
        counted = {key: value for key, value in state.items() if key not in counters}
        note: tuple[str, ...] = (f"left out, as counters of no tensor of the model: {some(counters)}",)
        yield counted, note
    else:
        counted, note = state, ()
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in counted}
    inside = sorted({part for key in counted for part in key.split(".")[:-1] if part in _WRAPPERS})
    if inside and len(set(names.values())) == len(names):
        said = f"what a wrapper put into its names was taken out: {', '.join(repr(part) for part in inside)}"
        yield {names[key]: value for key, value in counted.items()}, (*note, said)


def _trial(
    module: nn.Module, own: Mapping[str, torch.Tensor], state: State, notes: tuple[str, ...], open_classes: bool
) -> Trial:
    layers = classifier_layers(module)
    leftover = [key for key in state if key not in own]
    tops = tuple(f"{layer.partition('.')[0]}." for layer in layers)
    headless = (
        bool(leftover) and getattr(module, "num_classes", None) == 0 and all(k.startswith(tops) for k in leftover)
    )
    if headless and not open_classes:
        state = {key: value for key, value in state.items() if key in own}
        notes = (*notes, f"num_classes is 0, so its classifier was left out: {some(leftover)}")
        leftover = []
    missing = [key for key in own if key not in state]
    shapes = [key for key in own if key in state and state[key].shape != own[key].shape]
    parts = [f"missing {some(missing)}"] if missing else []
    parts += [f"leftover {some(leftover)}"] if leftover else []
    parts += [f"{key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in shapes[:1]]
    classes = None
    if not missing and not leftover:
        classes = _other_classes(layers, own, state, set(shapes))
    elif headless and not missing and not shapes:
        sizes = {state[key].shape[0] for key in leftover if state[key].ndim and key.startswith(tuple(layers))}
        classes = (sizes.pop(), 0) if len(sizes) == 1 else None
    return Trial(state, notes, len(missing) + len(leftover) + len(shapes), ", ".join(parts), classes)


def classifier_layers(module: nn.Module) -> list[str]:
    """Its classifier's layers, as timm names them."""
    about: Any = getattr(module, "pretrained_cfg", None)
    named: Any = about.get("classifier") if isinstance(about, Mapping) else None
    return [named] if isinstance(named, str) else list(named or ())


def _other_classes(
    layers: list[str], own: Mapping[str, torch.Tensor], state: State, differ: set[str]
) -> tuple[int, int] | None:
    """How many classes the checkpoint has, and how many the model, where nothing but the classifier's size differs."""
    heads = {key for layer in layers for key in (f"{layer}.weight", f"{layer}.bias") if key in own}
    if not differ or differ != heads or any(own[key].shape[1:] != state[key].shape[1:] for key in heads):
        return None
    sizes = {(state[key].shape[0], own[key].shape[0]) for key in heads if own[key].ndim and state[key].ndim}
    return sizes.pop() if len(sizes) == 1 else None


def _by_timm(module: nn.Module, state: State) -> State | None:
    """The state as this family's rules in timm change it; None if they cannot."""
    family = type(module).__module__
    if not family.startswith("timm.models."):
        return None
    rules: Callable[..., Any] | None = getattr(importlib.import_module(family), "checkpoint_filter_fn", None)
    if rules is None:
        return None
    options: dict[str, Any] = {}  # that timm gives its rules for some models of a family
    known = inspect.signature(rules).parameters
    about: Any = getattr(module, "pretrained_cfg", None)
    if "flexi" in str(about.get("architecture") if isinstance(about, Mapping) else ""):
        options = {"interpolation": "bilinear", "antialias": False}
    if "adapt_layer_scale" in known:  # DeiT III; no other model has such names
        options["adapt_layer_scale"] = True
    try:
        changed = rules(dict(state), module, **options)
    except Exception:  # written for known releases only; on anything else the plain mismatch is the better message
        return None
    if not isinstance(changed, dict) or not all(isinstance(one, torch.Tensor) for one in changed.values()):
        return None
    return changed


def _changes(before: State, after: State) -> tuple[str, ...]:
    """What timm's rules did beside renaming, in words."""
    resized = [
        f"{key} from {tuple(before[key].shape)} to {tuple(after[key].shape)}"
        for key in after
        if key in before and before[key].shape != after[key].shape
    ]
    kept = {id(tensor) for tensor in after.values()}
    gone = [key for key, tensor in before.items() if key not in after and id(tensor) not in kept]
    notes = [f"resampled to the model's size, as timm does: {some(resized, 3)}"] if resized else []
    notes += [f"merged or left out, as timm does: {some(gone)}"] if gone else []
    return tuple(notes)


def endings(key: str) -> Iterator[str]:
    """``a.b.c``, ``b.c`` and ``c`` of ``a.b.c``."""
    yield key
    while "." in key:
        key = key.partition(".")[2]
        yield key


def some(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(shown(name) for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
