"""Fits the tables of the codec `transform` for one boundary: numpy only, from activations that images gave there.

Channels are transformed so that an error of a coefficient counts alike whichever coefficient it is in: the covariance
is diagonalised where the mean gradient of the model's answer is white (`sensitivity`). Without gradients that is
the Karhunen-Loeve transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from slicer.calibration.layout import Layout
from slicer.core.codecs.transform import rans
from slicer.core.codecs.transform.groups import pattern_of
from slicer.core.codecs.transform.linear import LinearTransform
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import CLASSES, LEVEL_OF_ONE, MAGNITUDES, PATTERNS, TransformTables
from slicer.errors import CodecError

Floats = npt.NDArray[np.float32]

#: How much of the metric is the gradients'; the rest says that all channels count alike, which no gradient of few
#: images should overrule.
SENSITIVITY = 0.9

#: Steps of qualities over the root of the mean variance of a coefficient, the finest first.
STEPS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)

#: Coefficients are never made larger than by this when they are given back the energy that rounding took.
MOST_GAIN = 1.5

#: Weights of gradients and activations are taken over so many images at most.
_TABLE_IMAGES = 128


def fit(
    activations: Floats, layout: Layout, gradients: Floats | None = None, steps: Sequence[float] = STEPS
) -> TransformTables:
    """Tables of one boundary; their `qualities` are 0, since only the rest of the model can tell them.

    Args:
        activations: [images, *shape].
        layout: of them.
        gradients: [any number, *shape], of directions of the model's answer; None: all channels count alike.
        steps: see `STEPS`.

    Raises:
        CodecError: fewer than two images, or activations that are not finite.
    """
    if len(activations) < 2 or not np.isfinite(activations).all():
        raise CodecError(f"{len(activations)} activations; calibration takes at least two, all finite")
    tokens = _tokens(activations, layout)
    mean = tokens.mean(axis=0).astype(np.float16)
    centred = tokens - mean.astype(np.float32)
    prefix, patches = centred[:, : layout.prefix], centred[:, layout.prefix :]
    slopes = None if gradients is None else _tokens(gradients, layout)
    whitening = _whitening(None if slopes is None else slopes[:, layout.prefix :], layout.channels)
    analysis = _decorrelated(patches, whitening)
    of_prefix, worth = analysis, 1.0
    if layout.prefix:
        if slopes is not None:
            power = [
                float(np.square(part, dtype=np.float64).mean()) for part in np.split(slopes, [layout.prefix], axis=1)
            ]
            worth = float(np.sqrt(power[0] / max(power[1], 1e-30)))
        of_prefix = _decorrelated(prefix, np.eye(layout.channels)) * np.float32(worth)
    tables = _untrained(layout, mean, analysis, of_prefix)
    linear = LinearTransform(tables)
    rows = activations[:: max(len(activations) // _TABLE_IMAGES, 1)]
    variance = np.mean([np.square(linear.analyse(row), dtype=np.float64) for row in activations], axis=0)
    scales = np.sqrt(variance)
    unit = float(np.sqrt(variance[layout.prefix * layout.channels :].mean()))
    tables = replace(
        tables,
        levels=_levels(scales),
        steps=_levels(np.maximum(unit * np.asarray(steps, np.float64), 1e-9)),
        qualities=np.zeros(len(steps), np.uint16),
    )
    return _with_frequencies(tables, rows)


def _tokens(activations: Floats, layout: Layout) -> Floats:
    """[images, tokens, channels]."""
    if layout.name == "planes":
        return np.ascontiguousarray(activations.reshape(len(activations), layout.channels, -1).transpose(0, 2, 1))
    return activations.reshape(len(activations), -1, layout.channels)


def _whitening(slopes: Floats | None, channels: int) -> npt.NDArray[np.float64]:
    """[C, C], the symmetric root of the metric of the channels."""
    if slopes is None:
        return np.eye(channels)
    flat = slopes.reshape(-1, channels).astype(np.float64)
    metric = flat.T @ flat
    metric *= channels / max(float(np.trace(metric)), 1e-300)
    metric = SENSITIVITY * metric + (1 - SENSITIVITY) * np.eye(channels)
    values, vectors = np.linalg.eigh(metric)
    root: npt.NDArray[np.float64] = (vectors * np.sqrt(values)) @ vectors.T
    return root


def _decorrelated(tokens: Floats, whitening: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    """[C, C], rows by falling variance."""
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64) @ whitening
    _, vectors = np.linalg.eigh(flat.T @ flat)
    rows: npt.NDArray[np.float16] = (vectors[:, ::-1].T @ whitening).astype(np.float16)
    return rows


def _inverse(analysis: npt.NDArray[np.float16]) -> Floats:
    """Of the very numbers that devices have."""
    found: Floats = np.linalg.inv(analysis.astype(np.float64)).astype(np.float32)
    return found


def _untrained(
    layout: Layout, mean: npt.NDArray[np.float16], analysis: npt.NDArray[np.float16], prefix: npt.NDArray[np.floating]
) -> TransformTables:
    of_prefix = prefix.astype(np.float16)
    return TransformTables(
        grid=layout.grid,
        prefix=layout.prefix,
        layout=layout.name,
        mean=mean,
        analysis=analysis,
        synthesis=_inverse(analysis),
        prefix_analysis=of_prefix,
        prefix_synthesis=_inverse(of_prefix),
        levels=np.zeros(mean.size, np.uint8),
        steps=np.zeros(1, np.uint8),
        qualities=np.zeros(1, np.uint16),
        patterns=rans.fitted(np.ones((CLASSES, PATTERNS))).astype(np.uint16),
        magnitudes=rans.fitted(np.ones((CLASSES, MAGNITUDES))).astype(np.uint16),
        gains=np.ones(CLASSES, np.float32),
    )


def _levels(scales: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    levels = np.rint(4 * np.log2(np.maximum(scales, 1e-9))) + LEVEL_OF_ONE
    found: npt.NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return found


def _with_frequencies(tables: TransformTables, activations: Floats) -> TransformTables:
    """Count what each class gives at each step."""
    codec = BoundaryCodec(tables)
    patterns, magnitudes = np.zeros((CLASSES, PATTERNS)), np.zeros((CLASSES, MAGNITUDES))
    energy, kept = np.zeros(CLASSES), np.zeros(CLASSES)
    for row in activations:
        for quality in range(len(tables.steps)):
            exact = codec.in_steps(row, quality)
            integers = np.rint(exact)
            classes, present = codec.classes(quality), integers != 0
            np.add.at(patterns, (classes, pattern_of(present)), 1)
            above = np.minimum(np.abs(integers[present]), MAGNITUDES).astype(np.intp) - 1
            np.add.at(magnitudes, (np.repeat(classes, present.sum(axis=1)), above), 1)
            np.add.at(energy, classes, np.square(exact).sum(axis=1))
            np.add.at(kept, classes, np.square(integers).sum(axis=1))
    gains = np.sqrt(energy / np.maximum(kept, 1e-9))
    return replace(
        tables,
        patterns=rans.fitted(patterns + 0.5).astype(np.uint16),
        magnitudes=rans.fitted(magnitudes + 0.2 * 2.0 ** -np.arange(MAGNITUDES)).astype(np.uint16),
        gains=np.clip(np.where(kept > 0, gains, 1), 1, MOST_GAIN).astype(np.float32),
    )
