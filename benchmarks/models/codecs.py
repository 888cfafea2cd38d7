"""Codecs: does the answer stay the same, how many bytes are sent, and is the time well spent?

    nice -n 19 python benchmarks/models/codecs.py                       both demo models, every boundary, all 360 images
    python benchmarks/models/codecs.py --models vit_base_patch16_224 --checkpoint FILE --images DIR --limit 1000

**Agreement**: share of the images whose best class, from the decoded activation through the tail, is that of the fp32
model. Each codec encodes and decodes every single activation as a device and the server do. The least over all
boundaries and models counts.

**Outliers**: channels a hundred times larger than the rest are what ruins per-tensor scales in large transformers; the
demo models have none. So some channels (--outliers, at least one, drawn by the seed per boundary; the channel axis is
`slicer.core.codecs.activations.measured_axis`'s) are multiplied by 100 before they are encoded and divided by 100 after
they are decoded, and the tail runs on that. An exact codec would make no difference: what is seen is the codec's error
alone, as a model would have it whose weights were scaled so. fp16's and bf16's error does not depend on the size, and
a scale per channel grows with its channel; a scale per tensor, and per token, is set by the outliers. These two are
the baselines here (symmetric but `per_tensor`, which is affine over minimum to maximum, as in FQ-ViT's).

**Time**: encode and decode of one 197 x 768 activation (ViT-B at 224 px), median, against the link time that the codec
saves over fp32 at 200 Mbit/s; decode also in batches of 32. ``within`` says whether both stay below 10 % of it.

**Lossless**: zlib's fastest level (and zstandard's and lz4's, where they are installed; nothing else uses them) on what
the codecs made of real activations, joined to about ViT-B's size: what it would save and cost. It pays if compressing
and decompressing cost at most 10 % of the link time that they save, as above.

On the demo models and at 200 Mbit/s it does not, for any codec, so there is none (docs/log/).

Images at cut 0 (rgb8, png, jpeg) are compared with the fp32 model on timm's own transform. One JSON document is the
last line; it goes to --out, too. Nothing is emulated; times of a machine that does other work are upper bounds.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.common.command_line import names, new_parser
from benchmarks.common.results import machine, manifest, publish
from benchmarks.models.codec_cost import MBPS, SHAPE, WANTED, cost, image_cost, lossless
from slicer import slice_model
from slicer.core.codecs import activations
from slicer.core.codecs.images import IMAGE_CODECS, decode_images, encode_image
from slicer.core.images.folders import find_images
from slicer.core.images.image_files import read_image
from slicer.models.images import Preprocess, load_digits
from slicer.slicing.slice_model import SlicedModel

Array = npt.NDArray[np.float32]
Coder = Callable[[Array], Array]

BATCH_ROWS = 60


def round_trip(name: str) -> Coder:
    """[N, ...] to what the server has of it, each row encoded alone."""

    def code(rows: Array) -> Array:
        return activations.decode_batch(name, [activations.encode(name, row) for row in rows], rows.shape[1:])

    return code


def per_tensor(bits: int) -> Coder:
    """Affine, from the row's minimum to its maximum."""

    def code(rows: Array) -> Array:
        axes = tuple(range(1, rows.ndim))
        low, high = rows.min(axis=axes, keepdims=True), rows.max(axis=axes, keepdims=True)
        scale = np.maximum((high - low) / (2**bits - 1), np.float32(1e-30))
        return np.asarray(np.rint((rows - low) / scale) * scale + low, dtype=np.float32)

    return code


def per_token(bits: int) -> Coder:
    """Symmetric, a scale for every token: over the channels."""

    def code(rows: Array) -> Array:
        axis = 1 + activations.measured_axis(rows[0])
        levels = 2 ** (bits - 1) - 1
        scale = np.maximum(np.abs(rows).max(axis=axis, keepdims=True) / levels, np.float32(1e-30))
        return np.asarray(np.rint(rows / scale) * scale, dtype=np.float32)

    return code


CODERS: dict[str, Coder] = {name: round_trip(name) for name in activations.CODECS}
BASELINES: dict[str, Coder] = {
    f"int{bits}_{kind.__name__}": kind(bits) for bits in (8, 4) for kind in (per_tensor, per_token)
}


def outliers(shape: Sequence[int], share: float, seed: int, axis: int) -> Array:
    """[1, *ones except for the channels]: 100 for the drawn channels, 1 for the rest."""
    factors = np.ones(shape[axis], dtype=np.float32)
    count = max(1, round(share * shape[axis]))
    factors[np.random.default_rng(seed).choice(shape[axis], size=count, replace=False)] = 100
    broadcast = [1] * (1 + len(shape))
    broadcast[1 + axis] = -1
    return factors.reshape(broadcast)


def run(module: torch.nn.Module, rows: Array) -> Array:
    """In batches, so that memory stays small."""
    with torch.inference_mode():
        parts = [module(torch.from_numpy(rows[at : at + BATCH_ROWS])) for at in range(0, len(rows), BATCH_ROWS)]
    return np.ascontiguousarray(torch.cat(parts).float().numpy())


def best(module: torch.nn.Module, rows: Array) -> npt.NDArray[np.int64]:
    return np.asarray(run(module, rows).argmax(axis=1))


def boundaries(sliced: SlicedModel, inputs: Array, every: int) -> Iterator[tuple[int, Array]]:
    """(cut, activations [N, ...]) of every `every`-th cut, 0 among them."""
    rows = inputs
    for cut in range(sliced.num_slices):
        if cut:
            rows = run(sliced.span(cut - 1, cut), rows)
        if cut % every == 0:
            yield cut, rows


def images_of(args: argparse.Namespace) -> list[Image.Image]:
    if args.images is None:
        return [Image.fromarray(image) for image in load_digits()[0][: args.limit]]
    return [read_image(file) for file in find_images(args.images, args.labels).files[: args.limit]]


def agreement(args: argparse.Namespace, model: str, samples: dict[str, list[bytes]]) -> dict[str, Any]:
    """One model: per cut and codec ``[plain, with outliers]``; and some payloads for the lossless part."""
    sliced = slice_model(model, "all", checkpoint=args.checkpoint, verify=True)
    assert sliced.spec is not None
    preprocess, images = Preprocess(sliced.spec), images_of(args)
    inputs = np.stack([preprocess(image) for image in images])
    reference = best(sliced.module, inputs)
    cuts: dict[str, Any] = {}
    for cut, rows in boundaries(sliced, inputs, args.every):
        tail, factors = (
            sliced.tail(cut),
            outliers(rows.shape[1:], args.outliers, args.seed + cut, activations.measured_axis(rows[0])),
        )
        found = {}
        for name, coder in {**CODERS, **BASELINES}.items():
            if name == "fp32":  # exact, so the tail need not run: 1 only if every bit came back
                exact = [bool((coder(x) == x).all()) for x in (rows, rows * factors)]
                found[name] = [float(same and (best(tail, rows) == reference).all()) for same in exact]
                continue
            decoded = coder(rows), coder(rows * factors) / factors
            found[name] = [round(float((best(tail, one) == reference).mean()), 5) for one in decoded]
        cuts[str(cut)] = {"shape": list(rows.shape[1:]), "agreement": found}
        if cut and len(rows.shape) > 2:
            for name in activations.CODECS:
                together = max(1, 4 * SHAPE[0] * SHAPE[1] // rows[0].nbytes)
                samples[name].append(b"".join(activations.encode(name, row) for row in rows[:together]))
        print(
            f"{model:12} cut {cut:2} {rows.shape[1:]!s:16} " + "  ".join(f"{n} {a} {b}" for n, (a, b) in found.items())
        )
    return {"images": len(images), "cuts": cuts, "image_codecs": image_agreement(sliced, preprocess, images, reference)}


def image_agreement(
    sliced: SlicedModel, preprocess: Preprocess, images: Sequence[Image.Image], reference: npt.NDArray[np.int64]
) -> dict[str, float]:
    found = {}
    for name in IMAGE_CODECS:
        rows = decode_images(name, [encode_image(name, image, preprocess) for image in images], preprocess)
        found[name] = round(float((best(sliced.module, rows) == reference).mean()), 5)
    return found


def least(models: dict[str, Any], name: str, which: int) -> float:
    return min(float(cut["agreement"][name][which]) for model in models.values() for cut in model["cuts"].values())


def summed_up(args: argparse.Namespace, models: dict[str, Any], samples: dict[str, list[bytes]]) -> dict[str, Any]:
    ends = {
        name: {"agreement_top1_min": least(models, name, 0), "agreement_outliers_min": least(models, name, 1)}
        for name in (*CODERS, *BASELINES)
    }
    codecs: dict[str, Any] = {name: {**ends[name], **cost(name, args.repeats)} for name in CODERS}
    for name in IMAGE_CODECS:
        codecs[name] = {
            "agreement_top1_min": min(model["image_codecs"][name] for model in models.values()),
            "agreement_outliers_min": None,
            **image_cost(name, args.repeats),
        }
    int8, wanted = ends["int8"], WANTED["agreement_int8"]
    return {
        "codecs": codecs,
        "baselines": {name: ends[name] for name in BASELINES},
        "lossless": lossless(samples, max(3, args.repeats // 10)),
        "wanted": WANTED,
        "reached": {
            "int8_agrees": int8["agreement_top1_min"] >= wanted,
            "int8_holds_with_outliers": int8["agreement_outliers_min"] >= wanted,
            "per_tensor_fails_with_outliers": ends["int8_per_tensor"]["agreement_outliers_min"] < wanted,
            "time_within": {name: codecs[name]["within"] for name in CODERS if codecs[name]["within"] is not None},
        },
    }


def parser() -> argparse.ArgumentParser:
    p = new_parser(__doc__)
    p.add_argument("--models", "--model", type=names, default="digits_vit,digits_swin", help="names for slice_model")
    p.add_argument("--checkpoint", help="weights, of the one model that --models then names")
    p.add_argument("--images", type=Path, help="DIR/class/file; default: the 360 held-out digits that ship")
    p.add_argument("--labels", type=Path, help="a CSV of file,label instead of class folders")
    p.add_argument("--limit", type=int, help="so many images; default: all")
    p.add_argument("--every", type=int, default=1, help="only every n-th boundary")
    p.add_argument("--outliers", type=float, default=0.02, help="share of the channels that are made outliers")
    p.add_argument("--repeats", type=int, default=300, help="of each timing")
    p.add_argument("--threads", type=int, default=1, help="of torch, for the models")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="default: benchmarks/results/codecs_MACHINE-CPUScpu_DATE.json")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    args = parser().parse_args(argv)
    if args.checkpoint and len(args.models) != 1:
        raise SystemExit(f"--checkpoint goes with one model, not {', '.join(args.models)}; give --models NAME")
    torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    samples: dict[str, list[bytes]] = defaultdict(list)
    models = {name: agreement(args, name, samples) for name in args.models}
    document = {
        "benchmark": "codecs",
        "emulated": [],
        "shape": list(SHAPE),
        "link_mbps": MBPS,
        **summed_up(args, models, samples),
        "models": models,
        "manifest": manifest(args, before),
    }
    print(table(document))
    publish(document, args.out, f"codecs_{machine()}")
    return 0


def table(document: dict[str, Any]) -> str:
    text = io.StringIO()
    for name, row in {**document["codecs"], **document["baselines"], **document["lossless"]}.items():
        text.write(f"{name:17} " + "  ".join(f"{key} {value}" for key, value in row.items()) + "\n")
    return text.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
