"""Weights from a file into a model, as people have them: nested, prefixed, averaged, of another size.

Which tensors of a file are the model's is found by trying: a group of tensors as it is, without what wrappers put into
its names (DDP, torch.compile, FSDP), without a prefix that all names share, and each of these as timm's own rules for
the model's family change it. These rename the original authors' releases, and resample position embeddings for another
size of image. Only what fits name by name and shape by shape is taken; all else is refused with what to do, and what
was changed or left out is said in the log.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slicer.common.error_text import shown
from slicer.common.validation import nearest
from slicer.errors import ModelError
from slicer.models.checkpoint_file import State, read_groups
from slicer.models.weights import refuse_foreign

logger = logging.getLogger("headtail.models")

#: What wrappers put into names, anywhere: DDP and averaged models, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


class OtherClasses(ModelError):
    """The checkpoint has another number of classes than the model, and nothing else differs.

    Attributes:
        classes: of the checkpoint.
        instead_of: classes of the model.
    """

    def __init__(self, message: str, classes: int, instead_of: int) -> None:
        super().__init__(message)
        self.classes, self.instead_of = classes, instead_of


@dataclass(frozen=True)
class _Trial:
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


def load_checkpoint(
    module: nn.Module, path: str, key: str | None = None, groups: Mapping[str, State] | None = None
) -> None:
    """Copy the weights of the file `path` into `module`; the parameters keep their dtype.

    Args:
        key: where in the file they lie, or what their names begin with, or both: ``model_ema``, ``teacher.backbone``.
            None: the only tensors in it that fit; of a model and its average (``model_ema`` beside ``model``) the
            average, as timm does.
        groups: the file's, if it was read before.

    Raises:
        ModelError: the file is missing or unreadable; there is nothing at `key`; its names or shapes are not exactly
            those of the model; two places of it fit; or a tensor is no weight (integers in place of floats, NaN,
            infinity, beyond the dtype). The message names them.
            OtherClasses: it differs in the number of classes alone.
    """
    own, source = module.state_dict(), f"checkpoint {path}"
    groups = read_groups(path) if groups is None else groups
    notes: tuple[str, ...] = ()
    if key is not None:
        groups, notes = _at(groups, key, source)
    best = {name: _best(module, own, state) for name, state in groups.items()}
    fitting = [name for name, trial in best.items() if not trial.complaint]
    if not fitting or _default_classes(module):  # else somebody said how many classes
        fitting += [name for name, trial in best.items() if trial.classes]
    if not fitting:
        name = min(best, key=lambda name: best[name].wrong)
        for state in (groups[name], best[name].state):  # of a quantised model the scales are left over: says less
            refuse_foreign(own, state, source)
        raise ModelError(_refusal(module, own, path, groups, name, best[name]))
    if len(fitting) > 1:
        fitting, more = _one_of(fitting, groups, source)
        notes += more
    trial, average = best[fitting[0]], f"{fitting[0]}_ema"
    if fitting[0] and average in best and best[average].complaint and not best[average].classes:
        notes += (f"{average!r} does not fit ({best[average].complaint}), so {fitting[0]!r} was taken",)
    if trial.classes:
        raise OtherClasses(
            f"{path} does not fit {type(module).__name__}: {trial.complaint}; it has {trial.classes[0]} classes, the "
            f"model {trial.classes[1]}: give kwargs num_classes={trial.classes[0]}",
            *trial.classes,
        )
    refuse_foreign(own, trial.state, source)
    module.load_state_dict(trial.state, strict=True)
    if fitting[0]:
        logger.info("%s: the weights at %r were taken", source, fitting[0])
    for note in (*notes, *trial.notes):
        logger.warning("%s: %s", source, note)


# ---- where in the file ----


def _at(groups: Mapping[str, State], key: str, source: str) -> tuple[dict[str, State], tuple[str, ...]]:
    """The groups at `key`, or what of a group has names that begin with it; and what lies beside it, in words."""
    key = key.strip(".")
    found = {name: state for name, state in groups.items() if name == key}
    if not found:
        found = {name: state for name, state in groups.items() if name.startswith(f"{key}.")}
    if found:
        return found, ()
    notes: list[str] = []
    for whole in (True, False):  # the key from the file's top, else from any group's
        for name, state in groups.items():
            prefix = f"{key}."
            if whole and name:
                if not prefix.startswith(f"{name}."):
                    continue
                prefix = prefix.removeprefix(f"{name}.")
            inside = {one.removeprefix(prefix): tensor for one, tensor in state.items() if one.startswith(prefix)}
            if inside:
                found[f"{name}.{prefix}".strip(".")] = inside
                if beside := [one for one in state if not one.startswith(prefix)]:
                    notes.append(f"left out, since {key!r} was asked for: {_some(beside)}")
        if found:
            return found, tuple(notes)
    known = [name for name in groups if name]
    known += sorted({one.partition(".")[0] for state in groups.values() for one in state if "." in one})
    raise ModelError(
        f"{source}: nothing in it is at checkpoint_key={key!r}{nearest(key, known)}; it has {_some(known)}"
    )


def _one_of(fitting: list[str], groups: Mapping[str, State], source: str) -> tuple[list[str], tuple[str, ...]]:
    """Of several places that fit the one that is meant, and why; ModelError if that cannot be known."""
    first, *others = fitting
    if all(_same(groups[first], groups[other]) for other in others):
        return [first], ()
    averages = [name for name in fitting if name.endswith("_ema")]
    if len(fitting) == 2 and len(averages) == 1:
        (average,) = averages
        (plain,) = [name for name in fitting if name != average]
        if plain == average.removesuffix("_ema"):
            note = (
                f"it has {plain!r} and their average {average!r}, which was taken, as timm does; "
                f"checkpoint_key={plain!r} takes the others"
            )
            return [average], (note,)
    places = " and ".join(repr(name) if name else "its top" for name in fitting)
    raise ModelError(
        f"{source}: there are weights that fit at {places}, and they differ; say which ones are meant: "
        f"checkpoint_key={' or '.join(repr(name) for name in fitting if name)}"
    )


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        tensor.shape == other[key].shape and tensor.dtype == other[key].dtype and torch.equal(tensor, other[key])
        for key, tensor in one.items()
    )


# ---- how to read a group ----


def _best(module: nn.Module, own: Mapping[str, torch.Tensor], state: State) -> _Trial:
    """The first way to read the group that fits, else one that differs in classes alone, else the nearest one."""
    if 4 * len(state) < len(own):  # what an optimiser or a metric keeps: not worth a trial of each way
        return _trial(module, own, state, ())
    trials: list[_Trial] = []
    for way, notes in _ways(module, own, state):
        trials.append(_trial(module, own, way, notes))
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
        if not value.ndim and not value.is_floating_point() and not any(name in own for name in _endings(key))
    ]
    if counters:
        counted = {key: value for key, value in state.items() if key not in counters}
        note: tuple[str, ...] = (f"left out, as counters of no tensor of the model: {_some(counters)}",)
        yield counted, note
    else:
        counted, note = state, ()
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in counted}
    inside = sorted({part for key in counted for part in key.split(".")[:-1] if part in _WRAPPERS})
    if inside and len(set(names.values())) == len(names):
        said = f"what a wrapper put into its names was taken out: {', '.join(repr(part) for part in inside)}"
        yield {names[key]: value for key, value in counted.items()}, (*note, said)


def _trial(module: nn.Module, own: Mapping[str, torch.Tensor], state: State, notes: tuple[str, ...]) -> _Trial:
    layers = _classifier(module)
    leftover = [key for key in state if key not in own]
    if leftover and layers and getattr(module, "num_classes", None) == 0:
        heads = tuple(f"{layer.partition('.')[0]}." for layer in layers)
        if all(key.startswith(heads) for key in leftover):
            state = {key: value for key, value in state.items() if key in own}
            notes = (*notes, f"num_classes is 0, so its classifier was left out: {_some(leftover)}")
            leftover = []
    missing = [key for key in own if key not in state]
    shapes = [key for key in own if key in state and state[key].shape != own[key].shape]
    parts = [f"missing {_some(missing)}"] if missing else []
    parts += [f"leftover {_some(leftover)}"] if leftover else []
    parts += [f"{key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}" for key in shapes[:1]]
    classes = None if missing or leftover else _other_classes(layers, own, state, set(shapes))
    return _Trial(state, notes, len(missing) + len(leftover) + len(shapes), ", ".join(parts), classes)


def _classifier(module: nn.Module) -> list[str]:
    """Its classifier's layers, as timm names them."""
    about: Any = getattr(module, "pretrained_cfg", None)
    named: Any = about.get("classifier") if isinstance(about, Mapping) else None
    return [named] if isinstance(named, str) else list(named or ())


def _default_classes(module: nn.Module) -> bool:
    """Whether it has as many as timm gives it where nobody says how many."""
    about: Any = getattr(module, "pretrained_cfg", None)
    return isinstance(about, Mapping) and about.get("num_classes") == getattr(module, "num_classes", None)


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
    notes = [f"resampled to the model's size, as timm does: {_some(resized, 3)}"] if resized else []
    notes += [f"merged or left out, as timm does: {_some(gone)}"] if gone else []
    return tuple(notes)


# ---- what to say ----


def _refusal(
    module: nn.Module,
    own: Mapping[str, torch.Tensor],
    path: str,
    groups: Mapping[str, State],
    name: str,
    trial: _Trial,
) -> str:
    where = f" (its {name!r})" if name else ""
    others = [repr(other) for other in groups if other and other != name]
    beside = f"; it also has {_some(others)}, which fit less" if others else ""
    absent = [key for key in own if key not in trial.state]
    layers = tuple(f"{layer}." for layer in _classifier(module))
    if absent and len(absent) == trial.wrong and layers and all(key.startswith(layers) for key in absent):
        remedy = "it has no classifier: give kwargs num_classes=0 for a model without one"
    else:
        remedy = _prefix_remedy(own, name, groups[name]) + (
            "give the model's name and kwargs (num_classes, img_size, ...) with which the checkpoint was made"
        )
    return f"{path}{where} does not fit {type(module).__name__}: {trial.complaint}{beside}; {remedy}"


def _prefix_remedy(own: Mapping[str, torch.Tensor], place: str, state: State) -> str:
    """Where the model's names stand behind a prefix, but beside others: which prefix, and how to ask for it."""
    found: Counter[str] = Counter()
    for key in state:
        found.update(key[: -len(name)] for name in _endings(key) if name in own and name != key)
    counts = [(prefix, count) for prefix, count in found.most_common(4) if count > max(1, len(own) // 2)]
    if not counts:
        return ""
    said = " and ".join(f"{count} behind {prefix!r}" for prefix, count in counts)
    keys = " or ".join(repr(f"{place}.{prefix}".strip(".")) for prefix, _ in counts)
    return (
        f"of its {len(state)} keys the model's are {said}; if these are the weights, give checkpoint_key={keys}; else "
    )


def _endings(key: str) -> Iterator[str]:
    """``a.b.c``, ``b.c`` and ``c`` of ``a.b.c``."""
    yield key
    while "." in key:
        key = key.partition(".")[2]
        yield key


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(shown(name) for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
