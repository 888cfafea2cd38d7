"""The frontier of bytes and fidelity: is an activation that is coded by transform smaller than the image?

    headtail bench frontier --model vit_small_patch14_dinov2 --image-size 224 --embedding --at 6 \\
        --checkpoint FILE --calibrate DIR --images DIR

Every image of --images is sent in each way, by the real coder, and answered by the rest of the model; **fidelity** is
the cosine of that answer to the answer from the exact input. Ways: JPEG (Pillow's default, and optimised 4:2:0), WebP
and AVIF of the image as the model crops it; fp16, int8 and int4 of the activation; `transform` with tables fitted on
--calibrate, which must hold other photos (files with equal bytes are refused).

**BD-rate**: how many more bytes `transform` takes than another way at equal fidelity, per image, over .985 to .997 of
log(1 - cosine); then the median over images, its 95 % interval by resampling photos, the 10th and 90th percentile.
Cuts are numbered as the slices are.
Curves are not drawn on beyond what was measured: an image whose curves share too little of the range is left out, and
counted. Times are of one thread of this machine, medians. The server's compiled decoder does not exist yet:
decoding is numpy.

One JSON document is the last line; it goes to --out, too.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.common.command_line import names, new_parser, say
from benchmarks.common.results import manifest, publish
from benchmarks.models.rate import Curve, bd_rate, bytes_at, summary
from slicer import slice_model
from slicer.calibration.collect import run, sensitivity
from slicer.calibration.fit import fit
from slicer.calibration.layout import layout_of
from slicer.core.codecs import activations
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.images.image_files import read_image
from slicer.errors import ConfigError
from slicer.models.images import Preprocess
from slicer.slicing.sliced_model import SlicedModel

Floats = npt.NDArray[np.float32]

JPEG_QUALITIES = (20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95)
WEBP_QUALITIES = (5, 15, 30, 45, 60, 75, 90)
AVIF_QUALITIES = (25, 40, 50, 60, 70, 80, 90)
STEPS = (0.6, 0.75, 0.9, 1.05, 1.25, 1.5, 1.8, 2.2)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
OPPONENT = "jpeg optimised"

#: Each photo of calibration is cropped so often.
CROPS = 8


def crops(photo: Image.Image, preprocess: Preprocess, rng: np.random.Generator) -> list[Image.Image]:
    """The model's own crop, and some of other places and sizes, every second one mirrored."""
    found = [preprocess.crop(photo)]
    for number in range(1, CROPS):
        side = rng.uniform(0.45, 1) * min(photo.size)
        left, top = (rng.uniform(0, size - side) for size in photo.size)
        part = preprocess.crop(photo.crop((int(left), int(top), int(left + side), int(top + side))))
        found.append(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else part)
    return found


def photos(folder: Path, limit: int | None) -> tuple[list[Image.Image], set[str]]:
    """In the order of their names, and the digests of the files."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:limit]
    if not files:
        raise ConfigError(f"{folder}: there is no image ({', '.join(SUFFIXES)})")
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return [read_image(file).convert("RGB") for file in files], digests


class Frontier:
    """All ways on the same images.

    Args:
        sliced: the model. preprocess: of it.
        test: crops, uint8. exact: answers from the exact inputs.
    """

    def __init__(self, sliced: SlicedModel, preprocess: Preprocess, test: Sequence[Image.Image]) -> None:
        self.sliced, self.preprocess, self.test = sliced, preprocess, test
        self._known: dict[bytes, npt.NDArray[np.float64]] = {}
        self.inputs = self.of(test)
        self.exact = run(sliced.module, self.inputs).reshape(len(test), -1)

    def of(self, images: Sequence[Image.Image]) -> Floats:
        """The model's inputs."""
        return self.preprocess.normalise(np.stack([np.asarray(image) for image in images]))

    def fidelity(self, answers: Floats) -> npt.NDArray[np.float64]:
        """Cosine of each to the exact one."""
        a, b = answers.reshape(len(self.test), -1).astype(np.float64), self.exact.astype(np.float64)
        found: npt.NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return found

    def images(self, form: str, qualities: Sequence[int], **options: Any) -> tuple[Curve, dict[str, float]]:
        """A codec of images, and its times."""
        sizes, reached, encode, decode = [], [], Times(), Times()
        for quality in qualities:
            files = [encode.of(_file, image, form, quality, options) for image in self.test]
            back = [decode.of(_opened, file) for file in files]
            sizes.append([len(file) for file in files])
            reached.append(self._answered(self.of(back)))
        return Curve(np.array(sizes, np.float64), np.array(reached)), {"encode": encode.ms, "decode": decode.ms}

    def _answered(self, inputs: Floats) -> npt.NDArray[np.float64]:
        """Fidelity of images; equal ones are run once, such as JPEG's with other Huffman tables."""
        key = hashlib.sha256(inputs.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self.fidelity(run(self.sliced.module, inputs))
        return self._known[key]

    def activations(self, cut: int, calibration: Floats) -> dict[str, Any]:
        """All codecs of activations at a cut."""
        head, tail = self.sliced.head(cut), self.sliced.tail(cut)
        rows = run(head, self.inputs)
        axis = activations.measured_axis(rows[0])
        seen = run(head, calibration)
        _, height, width = self.preprocess.shape
        began = time.perf_counter()
        layout = layout_of(rows.shape[1:], axis, (height, width))
        tables = fit(seen, layout, sensitivity(tail, seen[::2]), STEPS)
        codec, fitted_s = BoundaryCodec(tables), time.perf_counter() - began
        sizes, reached, encode, decode = [], [], Times(), Times()
        for quality in range(len(STEPS)):
            payloads = [encode.of(codec.encode, row, quality) for row in rows]
            back = np.stack([decode.of(_decoded, codec, payload) for payload in payloads])
            sizes.append([len(payload) for payload in payloads])
            reached.append(self.fidelity(run(tail, back)))
        found: dict[str, Any] = {
            "curve": Curve(np.array(sizes, np.float64), np.array(reached)),
            "ms": {"encode": encode.ms, "decode": decode.ms},
            "tables_bytes": len(tables.to_bytes()),
            "fitted_s": round(fitted_s, 1),
            "plain": {},
        }
        for name in ("fp16", "int8", "int4"):
            back = np.stack(
                [
                    activations.decode_batch(name, [activations.encode(name, row, axis)], row.shape, axis=axis)[0]
                    for row in rows
                ]
            )
            cosine = self.fidelity(run(tail, back))
            size = activations.encoded_bytes(name, rows.shape[1:], axis)
            found["plain"][name] = {"bytes": size, **_fidelities(cosine)}
        return found


class Times:
    """Of calls; `ms` is their median."""

    def __init__(self) -> None:
        self._taken: list[float] = []

    def of(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make a call."""
        began = time.perf_counter()
        answer = call(*args)
        self._taken.append(time.perf_counter() - began)
        return answer

    @property
    def ms(self) -> float:
        """Milliseconds."""
        return round(float(np.median(self._taken)) * 1e3, 3)


def _file(image: Image.Image, form: str, quality: int, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality, **options)
    return buffer.getvalue()


def _opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def _decoded(codec: BoundaryCodec, payload: bytes) -> Floats:
    out = np.empty(codec.tables.shape, np.float32)
    codec.decode(payload, out)
    return out


def _fidelities(cosine: npt.NDArray[np.float64]) -> dict[str, float]:
    return {"cosine": round(float(np.median(cosine)), 5), "cosine_p10": round(float(np.quantile(cosine, 0.1)), 5)}


def _points(curve: Curve) -> list[dict[str, float]]:
    return [
        {"bytes": float(np.median(sizes)), **_fidelities(reached)}
        for sizes, reached in zip(curve.sizes, curve.fidelity, strict=True)
    ]


def _median_over(sizes: npt.NDArray[np.float64], base: float) -> float | None:
    """The median of the images that reach the fidelity, over a size; None: none does."""
    known = sizes[np.isfinite(sizes)]
    return round(float(np.median(known)) / base, 4) if len(known) else None


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The document."""
    options: dict[str, Any] = {"num_classes": 0} if args.embedding else {}
    if args.image_size:
        options["img_size"] = args.image_size
    sliced = slice_model(args.model, 2, at=args.at, checkpoint=args.checkpoint, verify=False, **options)
    assert sliced.spec is not None
    preprocess = Preprocess(sliced.spec)
    test, tested = photos(args.images, args.limit)
    calibration, calibrated = photos(args.calibrate, None)
    if tested & calibrated:
        raise ConfigError(
            f"{len(tested & calibrated)} files are in --images and --calibrate; tables must not know them"
        )
    rng = np.random.default_rng(args.seed)
    frontier = Frontier(sliced, preprocess, [preprocess.crop(photo) for photo in test])
    seen = frontier.of([crop for photo in calibration for crop in crops(photo, preprocess, rng)])
    ways: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
        "jpeg": ("JPEG", JPEG_QUALITIES, {}),
        OPPONENT: ("JPEG", JPEG_QUALITIES, {"optimize": True, "subsampling": 2}),
        "webp": ("WEBP", WEBP_QUALITIES, {"method": 6}),
        "avif": ("AVIF", AVIF_QUALITIES, {}),
    }
    curves: dict[str, Curve] = {}
    images: dict[str, dict[str, Any]] = {}
    for name, (form, qualities, saved) in ways.items():
        curve, ms = frontier.images(form, qualities, **saved)
        curves[name], images[name] = curve, {"points": _points(curve), "ms": ms}
        say(f"{name}: {images[name]['points'][len(qualities) // 2]}")
    cuts = {}
    for cut in range(1, sliced.num_slices):
        found = frontier.activations(cut, seen)
        curve = found.pop("curve")
        at = bytes_at(curve, 0.995)
        cuts[str(cut)] = {
            **found,
            "points": _points(curve),
            "bd_rate_vs": {name: summary(bd_rate(curve, other)) for name, other in curves.items()},
            "bytes_over_int8_at_995": _median_over(at, found["plain"]["int8"]["bytes"]),
            "decode_over_jpeg_decode": round(found["ms"]["decode"] / images[OPPONENT]["ms"]["decode"], 1),
        }
        say(f"{cut!s}: {cuts[str(cut)]['points']}\n{cuts[str(cut)]['bd_rate_vs']}")
    document = {"model": args.model, "photos": {"test": len(test), "calibration": len(calibration), "crops": CROPS}}
    return {"benchmark": "frontier", **document, "images": images, "cuts": cuts}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    p = new_parser(__doc__)
    p.add_argument("--model", required=True, help="a name for slice_model")
    p.add_argument("--checkpoint", help="its weights; without them, fidelity is that of random ones")
    p.add_argument("--embedding", action="store_true", help="without the classifier: the answer is the embedding")
    p.add_argument("--image-size", type=int, help="pixels, where it is not the model's own")
    p.add_argument("--calibrate", type=Path, required=True, help="a folder of photos for the tables")
    p.add_argument("--images", type=Path, required=True, help="a folder of other photos; at least 30")
    p.add_argument("--limit", type=int, help="so many of --images")
    p.add_argument(
        "--at", type=names, help="cut here: names of boundaries or numbers of blocks; default: half of the work"
    )
    p.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the crops")
    p.add_argument("--out", type=Path, help="default: benchmarks/results/frontier_...")
    return p


def main() -> None:
    """Run it."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    if args.at:
        args.at = [int(place) if place.isdigit() else place for place in args.at]
    load_before = os.getloadavg()[0]
    document = measured(args)
    document["manifest"] = manifest(args, load_before, without=("out", "checkpoint", "images", "calibrate"))
    publish(document, args.out, "frontier")


if __name__ == "__main__":
    main()
