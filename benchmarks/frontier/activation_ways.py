"""What is sent from a cut on: the activation as fp16, int8 and int4, and by `transform` with tables of other photos."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.frontier.answers import Floats, Judge
from benchmarks.frontier.clock import Times
from benchmarks.frontier.sent import Sent
from slicer.calibration.collect import run, sensitivity
from slicer.calibration.fit import fit
from slicer.calibration.layout import layout_of
from slicer.core.codecs import activations
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.slicing.sliced_model import SlicedModel

PLAIN = ("fp16", "int8", "int4")

#: Of `transform`, in units of `slicer.calibration.fit.STEPS`. The coarse ones are for models of few classes, which
#: bear much: where every step is good enough, the fewest bytes are not found.
STEPS = (0.35, 0.45, 0.6, 0.75, 0.9, 1.05, 1.25, 1.5, 1.8, 2.2, 3.0, 4.2, 6.0)


@dataclass(frozen=True)
class Cut:
    """What one cut gave.

    Attributes:
        sent: by codec, every quality. tables_bytes: of `transform`'s tables, and fitted_s, how long they took.
    """

    sent: dict[str, list[Sent]]
    tables_bytes: int
    fitted_s: float


def at_cut(sliced: SlicedModel, cut: int, axis: int, inputs: Floats, calibration: Floats, judge: Judge) -> Cut:
    """Sends the activations of all images in all ways.

    Args:
        axis: of the channels there, as an export says it (`slicer.shards.channel_axes`); no image tells it reliably.
        inputs: of the images. calibration: inputs that tables are fitted on.

    Raises:
        CodecError: activations of this cut have no places, so that `transform` is not for them.
    """
    rows = run(sliced.head(cut), inputs)
    _, height, width = sliced.input_shape
    layout = layout_of(rows.shape[1:], axis, (height, width))
    sent = {name: [_plain(name, rows, axis, cut, judge)] for name in PLAIN}
    seen = run(sliced.head(cut), calibration)
    began_s = time.perf_counter()
    tables = fit(seen, layout, sensitivity(sliced.tail(cut), seen[::2]), STEPS)
    fitted_s = time.perf_counter() - began_s
    codec = BoundaryCodec(tables)
    sent["transform"] = [_transformed(codec, rows, quality, cut, judge) for quality in range(len(STEPS))]
    return Cut(sent, len(tables.to_bytes()), fitted_s)


def _plain(name: str, rows: Floats, axis: int, cut: int, judge: Judge) -> Sent:
    encode, decode = Times(), Times()

    def decoded(payload: bytes) -> Floats:
        found: Floats = activations.decode_batch(name, [payload], rows.shape[1:], axis=axis)[0]
        return found

    payloads = [encode.of(activations.encode, name, row, axis) for row in rows]
    back = np.stack([decode.of(decoded, payload) for payload in payloads])
    sizes = np.array([len(payload) for payload in payloads], np.float64)
    return Sent(None, sizes, judge.worth(cut, back), encode.ms, decode.ms)


def _transformed(codec: BoundaryCodec, rows: Floats, quality: int, cut: int, judge: Judge) -> Sent:
    encode, decode = Times(), Times()

    payloads = [encode.of(codec.encode, row, quality) for row in rows]
    # Into memory that was used before, as a server's is: fresh memory costs as much as half of the decoding.
    back, out = np.empty_like(rows), np.zeros(codec.tables.shape, np.float32)
    for row, payload in zip(back, payloads, strict=True):
        decode.of(codec.decode, payload, out)
        row[...] = out
    sizes = np.array([len(payload) for payload in payloads], np.float64)
    return Sent(quality, sizes, judge.worth(cut, back), encode.ms, decode.ms)
