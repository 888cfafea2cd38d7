"""The frontier of bytes and fidelity: is an activation that is coded by transform smaller than the image?

    headtail bench frontier --model vit_small_patch14_dinov2 --image-size 224 --embedding --at 3,6,9 \\
        --checkpoint FILE --calibrate DIR --images DIR
    headtail bench frontier --model digits_vit --digits --at 2,5,8        the digits that ship, with their classes
    headtail bench frontier --from FILE                                   tables and pictures of a results file again

Every image is sent in each way, by the real coder, and answered by the rest of the model. Ways: JPEG (Pillow's default;
with optimised tables, 4:2:0 and 4:4:4; of an image with 3/4 and 1/2 of the side, which the server enlarges), WebP and
AVIF of the image as the model crops it; fp16, int8 and int4 of the activation; `transform` with tables fitted on
--calibrate, which must hold other photos (files with equal bytes are refused). Images that are no larger than what the
model takes are also sent as they are, without loss.

**Fidelity** is the cosine of the answer to the answer from the exact input. Beside it: how many of the answer's 5
nearest photos of --calibrate stay (by their exact answers), the relative squared error of the final patch tokens, and
with --labelled or --digits the share of right classes.

**BD-rate**: how many more bytes `transform` takes than another way at equal fidelity, per image, over .985 to .997 of
log(1 - cosine); then the median over images, its 95 % interval by resampling photos, the 10th and 90th percentile.
Curves are not drawn on beyond what was measured: an image whose curves share too little of the range is left out, and
counted. Bytes at a fidelity are of all images: of one that is always better its fewest. Cuts are numbered as the slices
are.

**Times** are medians, one image at a time, with --threads threads of torch and one of numpy: the device normalises,
runs the head and encodes; the server decodes and runs the tail. Cropping is left out: every way needs it. What follows
from them is arithmetic: the inference time over a link that is its rate alone, and the tails that run per second, one
at a time, where this CPU is the accelerator.

Learned codecs (Entropic Student, FrankenSplit, SLICER) are not among the ways. None was run, and no table of their
papers was at hand to be quoted.

One JSON document is the last line; it goes to --out, too. Pictures go to --pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Codecs are timed on one core: numpy's matrices, too, which takes this before it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.common.command_line import names, new_parser, say
from benchmarks.common.results import manifest, publish, put
from benchmarks.frontier import photos, pictures, tables
from benchmarks.frontier.activation_ways import Cut, at_cut
from benchmarks.frontier.answers import Judge
from benchmarks.frontier.clock import Clock
from benchmarks.frontier.image_ways import NATIVE, OPPONENT, WAYS, ImageWays, inputs_of, native
from benchmarks.frontier.meaning import GOAL, cheapest, link_ms, meanings
from benchmarks.frontier.rate import RANGE, Curve, bd_rate, bytes_for, summary
from benchmarks.frontier.sent import Around, curve, point
from slicer import slice_model
from slicer.calibration.collect import run
from slicer.calibration.photos import crops
from slicer.errors import ConfigError, HeadTailError
from slicer.models.images import Preprocess
from slicer.shards.channel_axes import channel_axes

#: Fidelities that bytes are given at.
GOALS = (0.99, GOAL)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The document, without its manifest."""
    found = (
        photos.shipped_digits(args.limit)
        if args.digits
        else photos.from_folders(
            args.calibrate, args.labelled or args.images, labelled=args.labelled is not None, limit=args.limit
        )
    )
    options: dict[str, Any] = {"num_classes": 0} if args.embedding else {}
    if args.image_size:
        options["img_size"] = args.image_size
    sliced = slice_model(args.model, 2, at=args.at, checkpoint=args.checkpoint, verify=False, **options)
    assert sliced.spec is not None
    preprocess = Preprocess(sliced.spec)
    rng = np.random.default_rng(args.seed)
    test = [preprocess.crop(photo) for photo in found.test]
    inputs = inputs_of(test, preprocess)
    cropped = [crops(photo, preprocess, rng, found.crops) for photo in found.calibration]
    judge = Judge(sliced, inputs, inputs_of([of_one[0] for of_one in cropped], preprocess), found.labels)
    document: dict[str, Any] = {
        "benchmark": "frontier",
        "emulated": [],
        "model": _name(args.model),
        "answers": "embedding" if args.embedding else "classes",
        "photos": {"test": len(test), "calibration": len(cropped), "crops": found.crops, "digits": args.digits},
        "range": list(RANGE),
        "goal": GOAL,
        "top1_exact": None if judge.right is None else round(float(judge.right.mean()), 4),
        "images": {},
        "cuts": {},
    }

    clock = Clock(args.threads)
    normalise_ms = clock.ms(lambda: inputs_of(test[:1], preprocess))
    whole_ms = clock.ms(lambda: run(sliced.module, inputs[:1]))
    around = Around(0.0, normalise_ms + whole_ms, whole_ms)
    ways, curves = ImageWays(test, preprocess, judge), dict[str, Curve]()
    for name, way in WAYS.items():
        sent = ways.sent(way)
        curves[name] = curve(sent)
        document["images"][name] = {
            "points": [point(one, around) for one in sent],
            "bytes_at": _bytes_at(curves[name]),
        }
        say(f"{name}: {document['images'][name]['bytes_at']}")
    for name in WAYS:
        document["images"][name]["bd_rate_vs_jpeg"] = summary(bd_rate(curves[name], curves[OPPONENT]))
    if (small := native(found.test, preprocess, judge)) is not None:
        document["images"][NATIVE] = {"points": [point(small, around)]}

    calibration = inputs_of([crop for of_one in cropped for crop in of_one], preprocess)
    axes = channel_axes(sliced)
    for cut in range(1, sliced.num_slices):
        one = at_cut(sliced, cut, axes[cut], inputs, calibration, judge)
        head, tail, row = sliced.head(cut), sliced.tail(cut), run(sliced.head(cut), inputs[:1])
        head_ms, tail_ms = (clock.ms(partial(run, module, rows)) for module, rows in ((head, inputs[:1]), (tail, row)))
        document["cuts"][str(cut)] = {
            "boundary": sliced.cuts[cut - 1].name,
            "shape": list(sliced.shape_at(cut)),
            **_of_cut(one, Around(normalise_ms + head_ms, tail_ms, tail_ms), curves, document["images"]),
        }
        say(f"cut {cut}: {document['cuts'][str(cut)]['bd_rate_vs_jpeg']}")
    document["means"] = meanings(document)
    return document


def _name(model: str) -> str:
    """As it stands in a document: of a file or a folder the end of its path, which names no place of this machine."""
    path = Path(model)
    return path.name if path.exists() else model


def _of_cut(one: Cut, around: Around, curves: dict[str, Curve], images: dict[str, Any]) -> dict[str, Any]:
    """The figures of one cut. `curves`, `images`: of the ways to send images, and what the document says of them."""
    ways = {name: [point(sent, around) for sent in found] for name, found in one.sent.items()}
    ours = curve(one.sent["transform"])
    rates = {name: summary(bd_rate(ours, theirs)) for name, theirs in curves.items()}
    sizes, int8 = _bytes_at(ours), ways["int8"][0]["bytes"]
    at_goal = sizes[str(GOAL)]["median"]
    transform, jpeg = (_of_goal(points) for points in (ways["transform"], images[OPPONENT]["points"]))
    saved_ms = link_ms(int8 - transform["bytes"], 20)
    return {
        "ways": ways,
        "tables_bytes": one.tables_bytes,
        "fitted_s": round(one.fitted_s, 1),
        "bytes_at": sizes,
        "bd_rate_vs_jpeg": rates[OPPONENT],
        "bd_rate_vs": rates,
        "bytes_over_int8_at_995": None if at_goal is None else round(at_goal / int8, 4),
        "decode_over_jpeg_decode": round(transform["decode_ms"] / jpeg["decode_ms"], 2),
        "encode_over_link_saved_at_20mbit": round(transform["encode_ms"] / saved_ms, 4) if saved_ms > 0 else None,
    }


def _of_goal(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The cheapest that reaches the goal; where none does, the best."""
    return cheapest(points) or max(points, key=lambda one: float(one["cosine"]))


def _bytes_at(found: Curve) -> dict[str, dict[str, Any]]:
    """Median and largest over all images, of the bytes that reach a fidelity (None: not to be had), and how many do."""
    at: dict[str, dict[str, Any]] = {}
    for goal in GOALS:
        sizes = bytes_for(found, goal)
        median, largest = (
            round(float(one), 1) if np.isfinite(one) else None for one in (np.median(sizes), sizes.max())
        )
        at[str(goal)] = {"median": median, "largest": largest, "images": int(np.isfinite(sizes).sum())}
    return at


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    p = new_parser(__doc__)
    p.add_argument("--model", help="a name for slice_model, or a model file (.yaml)")
    p.add_argument("--checkpoint", help="its weights; without them, fidelity is that of random ones")
    p.add_argument("--embedding", action="store_true", help="without the classifier: the answer is the embedding")
    p.add_argument("--image-size", type=int, help="pixels, where it is not the model's own")
    p.add_argument("--calibrate", type=Path, help="a folder of photos for the tables")
    sent = p.add_mutually_exclusive_group(required=True)
    sent.add_argument("--images", type=Path, help="a folder of other photos; at least 30")
    sent.add_argument("--labelled", type=Path, help="instead: DIR/class/file, classes in the model's order")
    sent.add_argument("--digits", action="store_true", help="instead, and of --calibrate: the digits that ship")
    sent.add_argument("--from", dest="source", type=Path, help="measure nothing: a results file")
    p.add_argument("--limit", type=int, help="so many of the images, spread over all")
    p.add_argument(
        "--at", type=names, help="cut here: names of boundaries or numbers of blocks; default: half of the work"
    )
    p.add_argument("--threads", type=int, default=1, help="of torch, while it is timed (default %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the crops")
    p.add_argument("--out", type=Path, help="default: benchmarks/results/frontier-...")
    p.add_argument("--pictures", type=Path, default=Path("report/frontier"), help="a folder (default %(default)s)")
    return p


def _checked(args: argparse.Namespace) -> None:
    """ConfigError for flags that contradict each other."""
    if args.source is not None:
        return
    if args.model is None:
        raise ConfigError("no model; give --model NAME")
    if args.digits and args.calibrate is not None:
        raise ConfigError("--digits brings its own images for tables; leave out --calibrate")
    if not args.digits and args.calibrate is None:
        raise ConfigError("no photos for the tables; give --calibrate DIR, other photos than those to send")
    if args.embedding and (args.digits or args.labelled is not None):
        raise ConfigError(
            "labels need the classifier, which --embedding leaves out; leave out --embedding, or --images"
        )
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}: send at least one image")
    if args.at:
        args.at = [int(place) if place.isdigit() else place for place in args.at]


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    flags = parser()
    args = flags.parse_args(argv)
    try:
        _checked(args)
        load_before = os.getloadavg()[0]
        document = measured(args) if args.source is None else _read(args.source)
    except HeadTailError as error:
        flags.error(str(error))
    if args.source is None:
        document["manifest"] = manifest(args, load_before, without=_PATHS)
        document["cpu"] = document["manifest"]["hardware"]["cpu"]
    for line in tables.lines(document):
        print(line)
    print(f"\nPictures: {', '.join(map(str, pictures.draw(document, args.pictures)))}")
    rows = [row for cut in document["cuts"] if (row := tables.readme_row(document, cut)) is not None]
    if rows:
        print("\nFor README:\n" + "\n".join(rows))
    if args.source is None:
        publish(document, args.out, "frontier")
    else:
        put(document, None)
    return 0


#: Flags that decide about no figure, or name a place of this machine. The model stands in the document by its name.
_PATHS = ("out", "model", "checkpoint", "images", "labelled", "calibrate", "source", "pictures")


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--from {file} cannot be read ({error}); give a results file of this script") from None
    if document.get("benchmark") != "frontier" or "means" not in document:
        raise ConfigError(f"--from {file} holds no frontier; give a results file that this script wrote")
    return document


if __name__ == "__main__":
    raise SystemExit(main())
