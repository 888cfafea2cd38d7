"""What a codec costs: bytes, time against the link time that it saves, and what compressors would add."""

from __future__ import annotations

import importlib
import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from slicer.core.codecs import activations
from slicer.core.codecs.images import decode_images, encode_image
from slicer.models import zoo
from slicer.models.images import Preprocess

SHAPE = (197, 768)
MBPS = 200.0
WANTED = {"agreement_int8": 0.995, "share_of_saved": 0.10}
DECODED_TOGETHER = 32


def timed_us(call: Callable[[], object], repeats: int) -> float:
    """Median, after a tenth more to warm up."""
    took = []
    for _ in range(repeats + repeats // 10 + 1):
        start = time.perf_counter()
        call()
        took.append(1e6 * (time.perf_counter() - start))
    return statistics.median(took[-repeats:])


def cost(name: str, repeats: int) -> dict[str, Any]:
    """Bytes and time of one 197 x 768 activation."""
    activation = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    payload, out = activations.encode(name, activation), np.empty(SHAPE, dtype=np.float32)
    encode_us = timed_us(lambda: activations.encode(name, activation), repeats)
    decode_us = timed_us(lambda: activations.decode_into(name, payload, out), repeats)
    together = [payload] * DECODED_TOGETHER
    batch_us = timed_us(lambda: activations.decode_batch(name, together, SHAPE), max(3, repeats // DECODED_TOGETHER))
    saved_us = 8 * (activations.encoded_bytes("fp32", SHAPE) - len(payload)) / MBPS
    share = (encode_us + decode_us) / saved_us if saved_us else None
    return {
        "bytes": len(payload),
        "encode_us": round(encode_us, 1),
        "decode_us": round(decode_us, 1),
        "decode_batch_us_per_row": round(batch_us / DECODED_TOGETHER, 1),
        "link_saved_us": round(saved_us, 1),
        "share_of_saved": None if share is None else round(share, 4),
        "within": None if share is None else share <= WANTED["share_of_saved"],
    }


def image_cost(name: str, repeats: int) -> dict[str, Any]:
    """Of one synthetic smooth image of 224 x 224; PNG's and JPEG's bytes are of that image only."""
    small = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC)
    preprocess = Preprocess(zoo.resolve("vit_base_patch16_224"))
    payload = encode_image(name, image, preprocess)
    repeats = max(3, repeats // 10)
    return {
        "bytes": len(payload),
        "encode_us": round(timed_us(lambda: encode_image(name, image, preprocess), repeats), 1),
        "decode_us": round(timed_us(lambda: decode_images(name, [payload], preprocess), repeats), 1),
    }


def lossless(samples: dict[str, list[bytes]], repeats: int) -> dict[str, Any]:
    """Compressors on payloads of about ViT-B's size: the middle boundary, and the median over all for the ratio."""
    found: dict[str, Any] = {}
    for tool, (compress, decompress) in compressors().items():
        for name, payloads in samples.items():
            ratios = [len(compress(payload)) / len(payload) for payload in payloads]
            ratio, payload = statistics.median(ratios), payloads[len(payloads) // 2]
            packed = compress(payload)
            assert decompress(packed) == payload
            cost_us = timed_us(lambda p=payload, c=compress: c(p), repeats)  # type: ignore[misc]
            cost_us += timed_us(lambda p=packed, d=decompress: d(p), repeats)  # type: ignore[misc]
            saved_us = 8 * (1 - ratio) * len(payload) / MBPS
            found[f"{name}+{tool}"] = {
                "bytes_ratio": round(ratio, 4),
                "bytes_ratio_best": round(min(ratios), 4),
                "payload_bytes": len(payload),
                "cost_us": round(cost_us, 1),
                "link_saved_us": round(saved_us, 1),
                "pays": cost_us <= WANTED["share_of_saved"] * saved_us,
            }
    return found


def compressors() -> dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    found: dict[str, Any] = {"zlib1": (lambda data: zlib.compress(data, 1), zlib.decompress)}
    try:
        zstandard: Any = importlib.import_module("zstandard")
        found["zstd1"] = (zstandard.ZstdCompressor(level=1).compress, zstandard.ZstdDecompressor().decompress)
    except ImportError:
        pass
    try:
        frame: Any = importlib.import_module("lz4.frame")
        found["lz4"] = (frame.compress, frame.decompress)
    except ImportError:
        pass
    return found
