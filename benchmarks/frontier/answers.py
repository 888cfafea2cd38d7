"""What an answer is worth, beside the exact one: cosine, neighbours, patch tokens, the class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.frontier.rate import Numbers
from slicer.calibration.collect import run
from slicer.calibration.layout import layout_of
from slicer.core.codecs import activations
from slicer.errors import CodecError, ConfigError
from slicer.slicing.slice_model import slice_module
from slicer.slicing.sliced_model import SlicedModel

Floats = npt.NDArray[np.float32]

#: So many of an answer's nearest photos are looked at.
NEIGHBOURS = 5


@dataclass(frozen=True)
class Worth:
    """Of the answers to all images, sent one way at one quality. Each is [images].

    Attributes:
        cosine: to the exact answer. neighbours: share of its nearest calibration photos that stay; None: there are
            too few photos. patches: relative squared error of the final patch tokens; None: the model has none.
        right: whether the best class is the label; None: there are no labels.
    """

    cosine: Numbers
    neighbours: Numbers | None
    patches: Numbers | None
    right: Numbers | None


class Judge:
    """Runs the rest of the model, and compares.

    Args:
        sliced: the model at the cuts to measure.
        inputs: exact ones of the images, [images, ...]; references: of the calibration photos.
        labels: numbers of classes.

    Attributes:
        exact: answers [images, any]. right: as `Worth`, of these.

    Raises:
        ConfigError: there are labels, and the model has other classes.
    """

    def __init__(
        self, sliced: SlicedModel, inputs: Floats, references: Floats, labels: tuple[int, ...] | None = None
    ) -> None:
        self._sliced, self._prefix = _to_patches(sliced)
        self._last = self._sliced.num_slices - (self._prefix is not None)
        self._labels = None if labels is None else np.asarray(labels)
        self.exact, self._patches = self._run(0, inputs)
        if self._labels is not None and self._labels.max() >= self.exact.shape[1]:
            raise ConfigError(
                f"there are labels up to {self._labels.max()}, and the model answers with {self.exact.shape[1]} "
                "classes; give a model of the folders' classes, in the order of their names"
            )
        self._photos = self._run(0, references)[0]
        self._nearest = _nearest(self.exact, self._photos)
        self.right = self._right(self.exact)

    def worth(self, cut: int, rows: Floats) -> Worth:
        """Of activations at a cut, [images, *shape]; at cut 0, of inputs."""
        answers, patches = self._run(cut, rows)
        stays = None
        if self._nearest is not None and (found := _nearest(answers, self._photos)) is not None:
            stays = np.array([len({*a} & {*b}) / NEIGHBOURS for a, b in zip(found, self._nearest, strict=True)])
        error = None
        if patches is not None and self._patches is not None:
            off = np.square(patches - self._patches, dtype=np.float64).sum(axis=1)
            error = off / np.square(self._patches, dtype=np.float64).sum(axis=1)
        return Worth(_cosines(answers, self.exact), stays, error, self._right(answers))

    def _run(self, cut: int, rows: Floats) -> tuple[Floats, Floats | None]:
        """Answers [images, any], and patch tokens [images, any]."""
        if self._prefix is None:
            return run(self._sliced.tail(cut), rows).reshape(len(rows), -1), None
        tokens = run(self._sliced.span(cut, self._last), rows)
        answers = run(self._sliced.tail(self._last), tokens).reshape(len(rows), -1)
        return answers, np.ascontiguousarray(tokens[:, self._prefix :]).reshape(len(rows), -1)

    def _right(self, answers: Floats) -> Numbers | None:
        if self._labels is None:
            return None
        found: Numbers = (answers.argmax(axis=1) == self._labels).astype(np.float64)
        return found


def _to_patches(sliced: SlicedModel) -> tuple[SlicedModel, int | None]:
    """The model cut at its last patch tokens, too, and how many tokens stand before them; None: it has none.

    Behind a map, all places count as patches.
    """
    _, height, width = sliced.input_shape
    for boundary in reversed(sliced.boundaries):
        if len(boundary.shape) < 2:
            continue
        axis = activations.measured_axis(np.zeros(boundary.shape, np.float32))
        try:
            prefix = layout_of(boundary.shape, axis, (height, width)).prefix
        except CodecError:
            return sliced, None
        names = [cut.name for cut in sliced.cuts if cut.index < boundary.index]
        if len(names) < len(sliced.cuts):  # a cut lies there, or behind: leave the cuts as they are numbered
            return sliced, None
        more = slice_module(
            sliced.module, at=[*names, boundary.name], input_shape=sliced.input_shape, spec=sliced.spec, verify=False
        )
        return more, prefix
    return sliced, None


def _cosines(answers: Floats, exact: Floats) -> Numbers:
    a, b = answers.astype(np.float64), exact.astype(np.float64)
    found: Numbers = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-300)
    return found


def _nearest(answers: Floats, photos: Floats) -> npt.NDArray[np.intp] | None:
    """[answers, NEIGHBOURS]: the photos of the largest cosine; None: there are not more photos than that."""
    if len(photos) <= NEIGHBOURS:
        return None
    towards = photos / np.maximum(np.linalg.norm(photos, axis=1, keepdims=True), 1e-30)
    found: npt.NDArray[np.intp] = np.argsort(-(answers @ towards.T), axis=1, kind="stable")[:, :NEIGHBOURS]
    return found
