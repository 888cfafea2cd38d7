"""One way to send the images at one quality: bytes, what the answers are worth, and the time it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.frontier.answers import Worth
from benchmarks.frontier.rate import Curve, Numbers


@dataclass(frozen=True)
class Sent:
    """All images, sent.

    Attributes:
        quality: the codec's own number; None: it has none.
        sizes: bytes [images]. encode_ms, decode_ms: medians over images.
    """

    quality: int | None
    sizes: Numbers
    worth: Worth
    encode_ms: float
    decode_ms: float


@dataclass(frozen=True)
class Around:
    """What the models add to the codec's times, of one image, in ms.

    Attributes:
        device: normalising and head. server: the tail, and normalising where images arrive. tail: the tail alone,
            which is what an accelerator runs.
    """

    device: float
    server: float
    tail: float


def curve(sent: Sequence[Sent]) -> Curve:
    """Of all qualities of a way."""
    return Curve(np.array([one.sizes for one in sent], np.float64), np.array([one.worth.cosine for one in sent]))


def point(sent: Sent, around: Around) -> dict[str, Any]:
    """One quality in a document; figures that do not exist are None."""
    worth = sent.worth
    device_ms, server_ms = around.device + sent.encode_ms, sent.decode_ms + around.server
    return {
        "quality": sent.quality,
        "bytes": float(np.median(sent.sizes)),
        "cosine": round(float(np.median(worth.cosine)), 6),
        "cosine_p10": round(float(np.quantile(worth.cosine, 0.1)), 6),
        "neighbours": _mean(worth.neighbours, 4),
        "patch_error": None if worth.patches is None else round(float(np.median(worth.patches)), 6),
        "top1": _mean(worth.right, 4),
        "encode_ms": round(sent.encode_ms, 3),
        "decode_ms": round(sent.decode_ms, 3),
        "device_ms": round(device_ms, 3),
        "server_ms": round(server_ms, 3),
        "joint_ms": round(device_ms + server_ms, 3),
        "tail_ms": round(around.tail, 3),
    }


def _mean(values: Numbers | None, digits: int) -> float | None:
    return None if values is None else round(float(values.mean()), digits)
