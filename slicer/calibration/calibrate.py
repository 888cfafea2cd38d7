"""Calibrates a sliced model on images without labels: tables for every cut, and what each codec keeps at each cut.

    headtail slice MODEL --export DIR --calibrate IMAGES

Three quarters of the images are for the tables (`fit`), each in several crops; on the others all codecs are measured by
the model's own answer. Files go beside the shards (`slicer.core.protocol.calibration_index`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from slicer.calibration.best import Best
from slicer.calibration.collect import Floats, OwnResult, run, sensitivity
from slicer.calibration.fit import fit
from slicer.calibration.layout import layout_of
from slicer.calibration.measure import Answer, Judge
from slicer.calibration.photos import LEAST_IMAGES, crops, crops_each, find_photos, parted
from slicer.calibration.refine import refined
from slicer.core.codecs import activations
from slicer.core.codecs.registry import CODECS, IMAGE_CODECS
from slicer.core.codecs.transform.names import named
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import TransformTables
from slicer.core.images.image_files import read_image
from slicer.core.protocol.calibration_index import FILE, CalibratedCut, CalibrationIndex, Measured
from slicer.core.shards.described import describe
from slicer.core.shards.manifest import Manifest
from slicer.errors import CodecError, ConfigError, ShardError
from slicer.models.images import Preprocess
from slicer.models.outputs import classifies
from slicer.slicing.sliced_model import SlicedModel

#: Of the activations that tables of one cut are fitted on, so that fitting stays below some GB.
_MOST_VALUES = 1 << 26


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` wrote.

    Attributes:
        index: of it. left_out: why cuts have no tables, by cut.
        ways: by cut, which tables took the fewest bytes: ``weighted`` by what the answer is sensitive to, ``plain``,
            or ``refined``, if that was asked for.
    """

    index: CalibrationIndex
    left_out: dict[int, str]
    ways: dict[int, str]


def calibrate(
    sliced: SlicedModel,
    manifest: Manifest,
    images: str | Path,
    directory: str | Path,
    *,
    seed: int = 0,
    refine_s: float = 0.0,
    progress: Callable[[int], object] = lambda cuts: None,
) -> Calibration:
    """Fit tables for all cuts but 0 and n, measure all codecs, and write both into a folder of shards.

    Minutes on a CPU. Files of an earlier calibration are replaced; the index comes last.

    Args:
        manifest: of the shards in `directory`.
        images: a folder of images, labelled or not; some hundred photos of what devices will see.
        seed: of which images are held out, and of the crops.
        refine_s: so long a learned step may take, over all cuts (`slicer.calibration.refine`); it is kept at the cuts
            where held-out images take fewer bytes by it.
        progress: is told how many cuts are done.

    Raises:
        ConfigError: the model takes no images. ImageError: there are too few, or one cannot be read.
        ShardError: the folder cannot be written.
    """
    photos, held = parted(find_photos(images), seed)
    if sliced.spec is None or len(sliced.input_shape) != 3:
        raise ConfigError("--calibrate is for models of images")
    preprocess = Preprocess(sliced.spec)
    rng = np.random.default_rng(seed)
    each = crops_each(len(photos))
    seen = _inputs(preprocess, [part for photo in photos for part in crops(read_image(photo), preprocess, rng, each)])
    test = [preprocess.crop(photo) for photo in held]
    rows = _inputs(preprocess, test)
    own = sliced.outputs[0]
    answer = partial(run, OwnResult(sliced.tail(0), own))
    judge = Judge(answer(rows), len(own.shape) == 1 and classifies(sliced.module, sliced.spec))
    measured = _of_images(preprocess, test, answer, judge)
    tables: dict[int, tuple[TransformTables, list[str]]] = {}
    left_out: dict[int, str] = {}
    ways: dict[int, str] = {}
    for cut in range(1, sliced.num_slices):
        part = sliced.span(cut - 1, cut)
        seen, rows = run(part, seen), run(part, rows)
        tail = OwnResult(sliced.tail(cut), own)
        answer = partial(run, tail)
        measured += _of_codecs(cut, rows, manifest.channel_axes[cut], answer, judge)
        try:
            layout = layout_of(rows.shape[1:], manifest.channel_axes[cut], preprocess.shape[1:])
            some = seen[: max(_MOST_VALUES // rows[0].size, LEAST_IMAGES)]
            best = Best(rows, answer, judge)
            best.offer("weighted", fit(some, layout, sensitivity(tail, some[::2])))
            best.offer("plain", fit(some, layout))
            if refine_s:
                best.offer(
                    "refined", refined(best.found.fitted, some, tail, refine_s / (sliced.num_slices - 1), seed=seed)
                )
            found = best.found
        except CodecError as error:
            left_out[cut] = str(error)
        else:
            names = [named(fidelity) for fidelity in found.tried]
            tables[cut], ways[cut] = (found.tables, names), found.way
            tried = zip(names, found.tried.values(), strict=True)
            measured += [judge.measured(cut, name, one.sizes, one.answers) for name, one in tried]
        progress(cut)
    index = _write(Path(directory), manifest, tables, measured, len(photos), len(held))
    return Calibration(index, left_out, ways)


def _inputs(preprocess: Preprocess, images: Sequence[Image.Image]) -> Floats:
    channels, height, width = preprocess.shape
    return preprocess.normalise(np.stack([np.asarray(one).reshape(height, width, channels) for one in images]))


def _of_images(preprocess: Preprocess, test: Sequence[Image.Image], answer: Answer, judge: Judge) -> list[Measured]:
    """The codecs of images of the model's size; a camera's own file is of its own size."""
    found = []
    for name, codec in IMAGE_CODECS.items():
        if codec.planned and not codec.as_taken:
            payloads = [codec.encode(image, preprocess, 90) for image in test]
            answers = answer(np.concatenate([codec.decode([payload], preprocess) for payload in payloads]))
            found.append(judge.measured(0, name, [len(payload) for payload in payloads], answers))
    return found


def _of_codecs(cut: int, rows: Floats, axis: int, answer: Answer, judge: Judge) -> list[Measured]:
    found = []
    for name in CODECS:
        if name == "fp32":  # exact: there is nothing to find out
            continue
        try:
            payloads = [activations.encode(name, row, axis) for row in rows]
        except CodecError:  # such as more than it can hold; nobody can use it here
            continue
        back = activations.decode_batch(name, payloads, rows.shape[1:], axis=axis)
        found.append(judge.measured(cut, name, [len(payload) for payload in payloads], answer(back)))
    return found


def _write(
    target: Path,
    manifest: Manifest,
    tables: Mapping[int, tuple[TransformTables, Sequence[str]]],
    measured: Sequence[Measured],
    images: int,
    held_out: int,
) -> CalibrationIndex:
    try:
        with tempfile.TemporaryDirectory(prefix=".calibrate-", dir=target) as scratch:
            cuts = []
            for cut, (one, names) in tables.items():
                name = f"transform_{cut}.safetensors"
                (Path(scratch) / name).write_bytes(one.to_bytes())
                described = describe(Path(scratch) / name, name)
                qualities = {quality: at for at, quality in enumerate(names)}
                cuts.append(CalibratedCut(cut, described, qualities, BoundaryCodec(one).most_bytes))
            index = CalibrationIndex(manifest.digest, images, held_out, tuple(cuts), tuple(measured))
            (Path(scratch) / FILE).write_text(index.to_json())
            (target / FILE).unlink(missing_ok=True)
            for file in (*(one.tables.file for one in cuts), FILE):
                (Path(scratch) / file).replace(target / file)
    except OSError as error:
        raise ShardError(f"cannot calibrate into {target}: {error}; give a directory that can be written") from error
    return index
