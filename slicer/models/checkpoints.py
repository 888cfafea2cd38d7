"""Weights from a file into a model, as people have them: nested, prefixed, averaged, of another size.

Which tensors of a file are the model's is found by trying: a group of tensors as it is, without what wrappers put into
its names (DDP, torch.compile, FSDP), without a prefix that all names share, and each of these as timm's own rules for
the model's family change it. These rename the original authors' releases, and resample position embeddings for another
size of image. Only what fits name by name and shape by shape is taken; all else is refused with what to do, and what
was changed or left out is said in the log.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn

from slicer.common.validation import nearest
from slicer.errors import ModelError
from slicer.models.checkpoint_file import State, read_groups
from slicer.models.checkpoint_fit import Trial, best_trial, classifier_layers, endings, some
from slicer.models.weights import refuse_foreign

logger = logging.getLogger("headtail.models")


class OtherClasses(ModelError):
    """The checkpoint has another number of classes than the model, and nothing else differs.

    Attributes:
        classes: of the checkpoint.
        instead_of: classes of the model.
    """

    def __init__(self, message: str, classes: int, instead_of: int) -> None:
        super().__init__(message)
        self.classes, self.instead_of = classes, instead_of


def load_checkpoint(
    module: nn.Module,
    path: str,
    key: str | None = None,
    *,
    groups: Mapping[str, State] | None = None,
    open_classes: bool = False,
) -> None:
    """Copy the weights of the file `path` into `module`; the parameters keep their dtype.

    Args:
        key: where in the file they lie, or what their names begin with, or both: ``model_ema``, ``teacher.backbone``.
            None: the only tensors in it that fit; of a model and its average (``model_ema`` beside ``model``) the
            average, as timm does.
        groups: the file's, if it was read before.
        open_classes: nobody said how many classes there are to be. Else weights of as many win over others in the same
            file, and a model without classes leaves the checkpoint's classifier out.

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
        groups, notes = _at(groups, key, own, source)
    best = {name: best_trial(module, own, state, open_classes) for name, state in groups.items()}
    fitting = [name for name, trial in best.items() if not trial.complaint]
    if not fitting or open_classes:
        fitting += [name for name, trial in best.items() if trial.classes]
    if not fitting:
        name = min(best, key=lambda name: best[name].wrong)
        for state in (groups[name], best[name].state):  # of a quantised model the scales are left over: says less
            refuse_foreign(own, state, source)
        raise ModelError(_refusal(module, own, path, groups, name, best[name]))
    if len(fitting) > 1:
        fitting, more = _one_of({name: best[name].state for name in fitting}, source)
        notes += more
    trial, average = best[fitting[0]], f"{fitting[0]}_ema"
    if fitting[0] and average in best and best[average].complaint and not trial.classes:
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


def _at(
    groups: Mapping[str, State], key: str, own: Mapping[str, torch.Tensor], source: str
) -> tuple[dict[str, State], tuple[str, ...]]:
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
                    notes.append(f"left out, since {key!r} was asked for: {some(beside)}")
        if found:
            return found, tuple(notes)
    known = [name for name in groups if name]
    firsts = {one.partition(".")[0] for state in groups.values() for one in state if "." in one}
    known += sorted(firsts - {one.partition(".")[0] for one in own})
    raise ModelError(
        f"{source}: nothing in it is at checkpoint_key={key!r}{nearest(key, known)}; it has {some(known) or 'none'}"
    )


def _one_of(groups: Mapping[str, State], source: str) -> tuple[list[str], tuple[str, ...]]:
    """Of several places that fit the one that is meant, and why; ModelError if that cannot be known."""
    fitting = list(groups)
    averages = [name for name in fitting if _averaged(name) is not None]
    plain = [name for name in fitting if name not in averages]
    if all(_same(groups[fitting[0]], groups[other]) for other in fitting[1:]):
        return plain or fitting, ()
    if len(averages) == 1 and plain and all(_same(groups[plain[0]], groups[other]) for other in plain[1:]):
        average, of = averages[0], str(_averaged(averages[0]))
        for name in plain:
            if name == of or name.startswith(f"{of}."):
                note = f"it has {name!r} and their average {average!r}, which was taken, as timm does"
                return [average], (f"{note}; checkpoint_key={name!r} takes the others",)
    places = " and ".join(repr(name) if name else "its top" for name in fitting)
    raise ModelError(
        f"{source}: there are weights that fit at {places}, and they differ; say which ones are meant: "
        f"checkpoint_key={' or '.join(repr(name) for name in fitting if name)}"
    )


def _averaged(name: str) -> str | None:
    """Of which place the place `name` is the average: ``model`` of ``model_ema`` and of ``model_ema.module``."""
    parts = name.split(".")
    number = next((number for number, part in enumerate(parts) if part.endswith("_ema")), None)
    return None if number is None else ".".join([*parts[:number], parts[number].removesuffix("_ema")])


def _same(one: State, other: State) -> bool:
    try:
        return one.keys() == other.keys() and all(
            tensor.shape == other[key].shape and tensor.dtype == other[key].dtype and torch.equal(tensor, other[key])
            for key, tensor in one.items()
        )
    except (RuntimeError, NotImplementedError):  # of tensors that cannot be compared, which are no weights either
        return False


# ---- what to say ----


def _refusal(
    module: nn.Module,
    own: Mapping[str, torch.Tensor],
    path: str,
    groups: Mapping[str, State],
    name: str,
    trial: Trial,
) -> str:
    where = f" (its {name!r})" if name else ""
    others = [repr(other) for other in groups if other and other != name]
    beside = f"; it also has {some(others)}, which fit less" if others else ""
    absent = [key for key in own if key not in trial.state]
    layers = tuple(f"{layer}." for layer in classifier_layers(module))
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
        found.update(key[: -len(name)] for name in endings(key) if name in own and name != key)
    counts = [(prefix, count) for prefix, count in found.most_common(4) if count > max(1, len(own) // 2)]
    if not counts:
        return ""
    said = " and ".join(f"{count} behind {prefix!r}" for prefix, count in counts)
    keys = " or ".join(repr(f"{place}.{prefix}".strip(".")) for prefix, _ in counts)
    return (
        f"of its {len(state)} keys the model's are {said}; if these are the weights, give checkpoint_key={keys}; else "
    )
