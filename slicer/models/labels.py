"""What a model's classes are called: found beside its weights, or given by a person, in the order of its logits.

A label is text for people. It is no part of a model's identity: manifests do not hold labels, and heads that were
loaded without them stay good. They are looked for in this order, and what does not name each class is passed over:

1. ``labels.json`` of an exported directory, and ``labels`` of a model file,
2. the checkpoint: one of `KEYS` at its top or in one of `PLACES`; the metadata of a .safetensors file, as JSON,
3. the model's own statement: ``label_names`` of its ``pretrained_cfg``, or Hugging Face's ``config.id2label``,
4. timm's names of ImageNet's classes, where timm's pretrained weights were asked for.

A model with random weights has none. Nothing here imports torch or timm before a model is looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import unicodedata
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slicer.common.yaml_files import parse_json, read_small
from slicer.core.common.error_text import shown
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ConfigError
from slicer.models.checkpoint_file import beside_weights

if TYPE_CHECKING:
    from torch import nn

#: Beside the shards of an export.
FILE = "labels.json"

#: Under which names checkpoints hold labels, letters' case apart; the first one that fits counts.
KEYS = ("labels", "class_names", "classes", "label_names", "id2label", "idx_to_class", "class_to_idx", "label2id")

#: In which of a checkpoint's mappings they are looked for, beside its top.
PLACES = ("args", "hyper_parameters", "meta", "dataset_meta", "config", "model_args")

#: Of a label, in letters.
MAX_LETTERS = 500

_FILE = "a text file with a label on each line, or a JSON list"
_PLACEHOLDER = re.compile(r"(LABEL|label)_\d+")  # Hugging Face's, where nobody named the classes
_WORDNET = re.compile(r"n\d{8}")

Labels = tuple[str, ...]


def given_labels(value: object, folder: Path = Path()) -> Labels | Literal["auto"]:
    """What a configuration means: ``auto``; ``none`` (no label); a list of labels; or the path of a file.

    Args:
        folder: where a relative path begins.

    Raises:
        ConfigError: there is no such file, or it holds no labels.
    """
    if value == "auto":
        return "auto"
    if value is None or value == "none":
        return ()
    if isinstance(value, str | os.PathLike):
        path = Path(value).expanduser()
        return read_labels(path if path.is_absolute() else folder / path)
    empty = isinstance(value, list | tuple) and not value
    return () if empty else as_labels(value, "labels")


def read_labels(path: Path) -> Labels:
    """Of a file: a label on each line; or JSON, as `as_labels` takes it, alone or under one of `KEYS`.

    Raises:
        ConfigError: it cannot be read, or does not hold labels.
    """
    what = f"labels {shown(path)}"
    try:
        text = read_small(path, _FILE).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: it is no text in UTF-8; give {_FILE}") from None
    except ConfigError as error:
        raise ConfigError(f"labels {error}") from None
    if path.suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        document = parse_json(text, what)
        found = next((document[key] for key in KEYS if key in document), None) if isinstance(document, dict) else None
        return as_labels(found if isinstance(found, list | dict) else document, what)
    lines = text.rstrip().splitlines()
    if blank := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        raise ConfigError(f"{what}, line {blank[0]} is empty; write a label on each line, in the order of the classes")
    return as_labels(lines, what)


def as_labels(value: object, what: str) -> Labels:
    """A list of labels, or a mapping of them, as a tuple in the order of the classes. Numbers count as text.

    Args:
        value: labels; or number -> label; or label -> number. The numbers begin at 0 and lack none.
        what: was given, for the message.

    Raises:
        ConfigError: it is no such thing, it is empty, or a label is empty, too long, or holds control characters.
    """
    if isinstance(value, Mapping):
        value = _in_order(value, what)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ConfigError(f"{what}: {shown(repr(value))} is no list of labels; give {_FILE}")
    labels = tuple(_label(one, number, what) for number, one in enumerate(value))
    if not labels:
        raise ConfigError(f"{what}: there is no label; give {_FILE}, or labels: none")
    return labels


def labels_of(
    wanted: Labels | Literal["auto"],
    module: nn.Module,
    spec: ModelSpec | None,
    output: Sequence[int],
    *,
    name: str,
    directory: Path | None = None,
) -> Labels:
    """The labels of a model, one per class; none where nobody knows them.

    Args:
        wanted: as `given_labels` made them.
        module: the model itself; only what it says of itself is read.
        spec: what it was built from; its checkpoint is opened, without running code of it.
        output: shape of its output without the batch; labels are for one dimension.
        name: of the model, for messages.
        directory: of an export that it was loaded from.

    Raises:
        ConfigError: there are labels of another number than the model's classes, or the export's cannot be read.
    """
    if wanted != "auto":
        return _fitting(wanted, output, name, "") if wanted else ()
    if len(output) != 1:
        return ()
    classes = output[0]
    if directory is not None and (directory / FILE).exists():
        return _fitting(read_labels(directory / FILE), output, name, f"{directory / FILE} has ")
    if spec is not None and spec.labels:
        return _fitting(spec.labels, output, name, f"the file of model {shown(spec.architecture)} has ")
    found: Labels = ()
    if spec is not None and spec.checkpoint is not None:
        found = of_checkpoint(spec.checkpoint, classes)
    found = found or stated(module, classes)
    if not found and spec is not None and spec.pretrained:
        found = _of_timm(spec, classes)
    return found


def stated(module: nn.Module, classes: int, *, described: bool = True) -> Labels:
    """What a model says of itself: timm's `pretrained_cfg` with `label_names`, which a model file can overlay, or
    Hugging Face's `config.id2label`. Nothing, if these are of another number: then the head was replaced.

    Args:
        described: WordNet's ids of ImageNet's classes as words.
    """
    about: Any = getattr(module, "pretrained_cfg", None)
    names: Any = about.get("label_names") if isinstance(about, Mapping) else getattr(about, "label_names", None)
    if not names:
        names = getattr(getattr(module, "config", None), "id2label", None)
    labels = _if_labels(names, classes)
    return _described(labels, classes) if described else labels


def usable(value: object, classes: int) -> Labels:
    """A list or mapping as labels of so many classes; none if it is something else, or only numbers them (LABEL_0)."""
    return _described(_if_labels(value, classes), classes)


def of_checkpoint(path: str, classes: int) -> Labels:
    """What a weights file holds of them; no code of it runs, and no tensor is read where its form allows it."""
    for place in _places(beside_weights(path)):
        by_key = {str(key).lower(): value for key, value in place.items()}
        for key in KEYS:
            if found := _if_labels(by_key.get(key), classes):
                return found
    return ()


def write_labels(directory: Path, labels: Labels) -> None:
    """Into an export, for whoever serves it; all of the file or nothing. Raises OSError."""
    draft = directory / f".{FILE}.{os.getpid()}"
    draft.write_text(json.dumps(labels, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    draft.replace(directory / FILE)


def _fitting(labels: Labels, output: Sequence[int], name: str, source: str) -> Labels:
    if len(output) != 1:
        raise ConfigError(
            f"model {name!r}: {source}{len(labels)} labels, but it answers {list(output)} per image, not a number per "
            "class; leave labels out"
        )
    if len(labels) != output[0]:
        raise ConfigError(
            f"model {name!r}: {source}{len(labels)} labels for {output[0]} classes; give one for each class, in the "
            "order of the model's outputs, or labels: none"
        )
    return labels


def _label(value: object, number: int, what: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        quoted = " in quotes" if isinstance(value, bool) else ""
        raise ConfigError(f"{what}: label {number} is {shown(repr(value))}; a label is text: write it{quoted}")
    text = str(value).strip()
    if not text or len(text) > MAX_LETTERS or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ConfigError(
            f"{what}: label {number} is {shown(repr(value))}; a label is 1 to {MAX_LETTERS} letters on one line"
        )
    return text


def _in_order(value: Mapping[Any, Any], what: str) -> list[Any]:
    """The labels of number -> label, or label -> number. JSON's keys are text even where they are numbers, so text that
    leads to 0, 1, 2, ... is a label."""
    numbers = list(range(len(value)))
    by_number: dict[int, Any] = {}
    if all(isinstance(key, str) for key in value) and all(type(number) is int for number in value.values()):
        by_number = {number: label for label, number in value.items()}
    if sorted(by_number) != numbers:
        with contextlib.suppress(ValueError, TypeError):
            by_number = {int(key): label for key, label in value.items() if not isinstance(key, bool)}
    if sorted(by_number) != numbers:
        raise ConfigError(f"{what}: the numbers of its {len(value)} labels must be 0 to {len(value) - 1}, each once")
    return [by_number[number] for number in numbers]


def _if_labels(value: object, classes: int) -> Labels:
    """The value as labels, if it is as many; something else of that name is none of ours to complain about."""
    if isinstance(value, str):  # of metadata
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ()
    if not isinstance(value, list | tuple | Mapping) or len(value) != classes:
        return ()
    try:
        labels = as_labels(value, "labels")
    except ConfigError:
        return ()
    return () if all(_PLACEHOLDER.fullmatch(label) for label in labels) else labels


def _places(top: Mapping[Any, Any], depth: int = 2) -> Iterator[Mapping[Any, Any]]:
    """Its top, and the mappings in it, and in these, that hold what is known about the run."""
    yield top
    for name in PLACES if depth else ():
        inner = top.get(name)
        if isinstance(inner, Namespace):
            inner = vars(inner)
        if isinstance(inner, Mapping):
            yield from _places(inner, depth - 1)


def _of_timm(spec: ModelSpec, classes: int) -> Labels:
    """Of timm's pretrained weights; none where their classifier was replaced."""
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    about = timm.get_pretrained_cfg(spec.architecture)
    if about is None or about.num_classes != classes:
        return ()
    if found := _described(_if_labels(about.label_names, classes), classes):
        return found
    subset = infer_imagenet_subset({"num_classes": classes})
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else ()


def _described(labels: Labels, classes: int) -> Labels:
    """In words, where they are WordNet's ids of an ImageNet."""
    if not labels or not all(_WORDNET.fullmatch(label) for label in labels):
        return labels
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    info = ImageNetInfo(subset) if subset else None
    if info is None or not set(labels) <= set(info.label_names()):
        return labels
    return tuple(info.label_name_to_description(label) for label in labels)
