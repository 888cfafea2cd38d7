"""Which class number of a model an image's label is: what accuracy may be measured against, or why it may not.

An image folder has names, a model has numbers. They are matched by the model's own class names where it states them, by
numbers where the labels are numbers, and by sorted order only where both sides have as many classes and neither says
more. Whatever is left is no label: an accuracy against a guessed order would be a wrong figure without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

from slicer.core.images.folders import LabelledImages
from slicer.errors import ImageError
from slicer.models.labels import stated

_REMEDY = (
    "To measure it, give images of its classes: --images DIR with a folder for each class, or --images DIR "
    "--labels CSV with rows of file,class number"
)
_STATE = "kwargs: {pretrained_cfg_overlay: {label_names: [...]}} in a model file, or pretrained_cfg of an own module"


@dataclass(frozen=True)
class Labels:
    """The images' classes as one model numbers them.

    Attributes:
        of: class number per image, None where accuracy may not be measured.
        matched: by what; empty: not at all, and then no image has a class.
        note: what a person must know about it; empty when there is nothing to say.
    """

    of: tuple[int | None, ...]
    matched: Literal["names", "WordNet ids", "numbers", "order", ""]
    note: str = ""


def class_names(module: nn.Module, classes: int) -> tuple[str, ...]:
    """What the model itself says its classes are, in the order of its logits; empty: it does not say.

    As `slicer.models.labels.stated`, but by names that are no two classes'.
    """
    found = stated(module, classes, described=False)
    return found if len(set(found)) == len(found) else ()


def match(
    model: str, images: LabelledImages, classes: int | None, names: tuple[str, ...], *, shipped: bool, csv: bool
) -> Labels:
    """The images' class numbers for `model`.

    Args:
        model: for the messages.
        classes: the model's number of logits; None: unknown, it could not be built here.
        names: as `class_names` gives them.
        shipped: the images are the digits that come with the package, not ones that were given for this model.
        csv: the labels are rows of a file, not names of folders.

    Raises:
        ImageError: a row of the CSV holds a class number that the model does not have.
    """
    used = [images.classes[label] for label in images.labels]
    numbers = all(name.isdecimal() for name in used)
    if set(used) <= set(names) and not (csv and numbers):  # a number in a CSV is the class number, whatever its name
        index = {name: number for number, name in enumerate(names)}
        return Labels(tuple(index[name] for name in used), "names")
    if shipped:
        why = f"the shipped digits are for models of the digits 0 to 9, and {_said(classes, names)}"
        return _none(images, model, why, unnamed=classes is not None and not names)
    if ids := _wordnet(used, classes):
        return Labels(tuple(ids[name] for name in used), "WordNet ids")
    if numbers:
        beyond = [name for name in used if classes is not None and int(name) >= classes]
        if not beyond:
            return Labels(tuple(map(int, used)), "numbers")
        if csv:
            raise ImageError(
                f"--labels: class {beyond[0]} of {images.files[used.index(beyond[0])].name}, but model {model} has the "
                f"classes 0 to {(classes or 0) - 1}; correct the row, or load the model that it is for"
            )
        return _none(images, model, f"folder {beyond[0]} is none of its classes 0 to {(classes or 0) - 1}")
    what = "labels" if csv else "folders"
    if classes is None:
        return _none(images, model, f"it cannot be built here, so nothing says in which order it has the {what}")
    if names:
        strange = next(name for name in used if name not in names)
        return _none(images, model, f"its classes are {_few(names)}, and {strange!r} is none of them")
    if len(images.classes) != classes:
        return _none(images, model, f"{len(images.classes)} {what}, but {_said(classes, names)}", unnamed=True)
    note = (
        f"top-1 of {model}: the {classes} {what} in sorted order ({_few(images.classes)}) are taken for its classes 0 "
        f"to {classes - 1}, since it does not name them ({_STATE})"
    )
    return Labels(images.labels, "order", note)


def _none(images: LabelledImages, model: str, why: str, *, unnamed: bool = False) -> Labels:
    """No labels, and why; `unnamed`: they might have been found, had the model stated its class names."""
    remedy = f"{_REMEDY}; or let the model state its class names ({_STATE})" if unnamed else _REMEDY
    return Labels((None,) * len(images), "", f"no top-1 for {model}: {why}. {remedy}. All other figures hold")


def _said(classes: int | None, names: tuple[str, ...]) -> str:
    if classes is None:
        return "it cannot be built here, so what it classifies is unknown"
    return f"it has {classes} classes, " + (_few(names) if names else "without saying what they are")


def _few(names: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _wordnet(used: list[str], classes: int | None) -> dict[str, int]:
    """ImageNet's numbers by WordNet id, where all labels are such ids and the model has the classes of an ImageNet."""
    if classes is None or not all(re.fullmatch(r"n\d{8}", name) for name in used):
        return {}
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    ids = {name: number for number, name in enumerate(ImageNetInfo(subset).label_names())} if subset else {}
    return ids if set(used) <= set(ids) else {}
