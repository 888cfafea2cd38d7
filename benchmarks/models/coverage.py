"""Slice a small model of every model file of timm at every boundary, and say where the result is exact.

    python benchmarks/models/coverage.py               # all files, half an hour on one core; continues where it stopped
    python benchmarks/models/coverage.py --files eva swin_transformer --again

For each model, with seeded random weights, fp32, two images, one thread: the slices run one by one, and after slice k
``tail(k)`` of what crosses there must equal ``model(x)`` bit for bit, at every boundary. At every fourth also:
``head(k)(x)`` is that very activation, and a row that crosses alone keeps its result within 1e-4 (rows are
independent). Results: tests/data/coverage.json, and docs/models.md made from it. Each model has a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import pkgutil
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import timm
import timm.models
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import new_parser
from benchmarks.models import hugging_face
from slicer import SlicedModel
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ModelError
from slicer.models import zoo
from slicer.slicing.slice_model import slice_spec

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "data" / "coverage.json"
TABLE = ROOT / "docs" / "models.md"
ROW_TOLERANCE = 1e-4
SPOT_CHECK_EVERY = 4
LARGE_PX = 384


def model_files() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(timm.models.__path__)]
    return [name for name in names if not name.startswith("_") and timm.list_models(module=name)]


#: Words for small in the names of models, the smallest first. Building all 1300 models only to compare takes too long.
SMALL = (
    "atto",
    "femto",
    "pico",
    "zepto",
    "nano",
    "xxtiny",
    "xxs",
    "xx_small",
    "xtiny",
    "_xs",
    "tiny",
    "mini",
    "_ti",
    "b0",
)
CANDIDATES = 8


def small_model(file: str) -> str:
    """Of the models that sound smallest, the one with the least parameters times input pixels.

    timm's own test models do not count. ConvMixer is taken with its larger patches: a quarter of the work.
    """
    if file == "convmixer":
        return "convmixer_1024_20_ks9_p14"
    names = [name for name in timm.list_models(module=file) if not name.startswith("test_")]
    ranks = {name: min([i for i, word in enumerate(SMALL) if word in name], default=len(SMALL)) for name in names}
    return min(sorted(names, key=lambda name: (ranks[name], len(name), name))[:CANDIDATES], key=_cost)


def _cost(name: str) -> tuple[float, str]:
    config = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size if config is not None else (3, 224, 224)
    try:
        with torch.device("meta"):
            module = timm.create_model(name)
    except Exception:  # some models cannot be built on meta; they only lose the comparison
        return math.inf, name
    return sum(p.numel() for p in module.parameters()) * float(height * width), name


def check(model: str) -> dict[str, Any]:
    """What the report says of one model."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"model": model}
    started = time.monotonic()
    try:
        sliced = _sliced(model)
    except ModelError as error:
        return {**result, "outcome": "refused", "reason": str(error)}
    result.update(boundaries=len(sliced.boundaries), slicing_s=round(time.monotonic() - started, 2))
    result.update(input_shape=list(sliced.input_shape))
    result.update(names=[b.name for b in sliced.boundaries], shared=list(sliced.shared_names))
    result["whole_units"] = {path: reason for path, reason in sliced.kept_whole.items()}
    result.update(_check_boundaries(sliced))
    return {**result, "seconds": round(time.monotonic() - started, 1)}


def _sliced(model: str) -> SlicedModel:
    """At every boundary; models for large images are given smaller ones where they take them, to save time."""
    spec = ModelSpec(architecture=model)
    if max(zoo.data_config(spec)["input_size"]) > LARGE_PX:
        for px in (256, 224):
            with contextlib.suppress(ModelError):
                return slice_spec(ModelSpec(architecture=model, kwargs={"img_size": px}), "all")
    return slice_spec(spec, "all")


def _check_boundaries(sliced: SlicedModel) -> dict[str, Any]:
    x = torch.randn((2, *sliced.input_shape), generator=torch.Generator().manual_seed(2))
    wrong: dict[str, str] = {}
    worst_row = worst_dense = 0.0
    with torch.inference_mode():
        whole = sliced.module(x.clone())
        crossing = x
        for k, boundary in enumerate(sliced.boundaries, start=1):
            crossing, tail = sliced.span(k - 1, k)(crossing), sliced.tail(k)
            result = tail(crossing)
            if not torch.equal(result, whole):
                wrong[boundary.name] = f"not exact: {_distance(result, whole):.2g}"
            if k % SPOT_CHECK_EVERY == 1:
                if not torch.equal(sliced.head(k)(x), crossing):
                    wrong[boundary.name] = "the head differs from its slices one by one"
                worst_row = max(worst_row, _distance(tail(crossing[1:2].contiguous()), whole[1:2]))
                if not crossing.is_contiguous():  # as it arrives after the wire
                    worst_dense = max(worst_dense, _distance(tail(crossing.contiguous()), whole))
    if worst_row > ROW_TOLERANCE or worst_dense > ROW_TOLERANCE:
        wrong["rows"] = f"a row alone differs by {worst_row:.2g}, a contiguous activation by {worst_dense:.2g}"
    found = {"row_difference": worst_row, "contiguous_difference": worst_dense, "output": list(whole.shape[1:])}
    return {**found, "outcome": "wrong" if wrong else "exact", "reason": json.dumps(wrong) if wrong else ""}


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value of `b` where that is above one."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1.0))


def _child(model: str, channel: Any) -> None:
    try:
        channel.send(check(model))
    except Exception as error:
        channel.send({"model": model, "outcome": "failed", "reason": f"{type(error).__name__}: {error}"})


def in_own_process(model: str, timeout_s: float) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(timeout_s):
            return dict(ours.recv())
        return {"model": model, "outcome": "failed", "reason": f"no result within {timeout_s:.0f} s"}
    except EOFError:
        return {"model": model, "outcome": "failed", "reason": "its process died (out of memory?)"}
    finally:
        process.kill()
        process.join()


def write_table(report: dict[str, Any]) -> None:
    rows = report["files"]
    exact = sum(row["outcome"] == "exact" for row in rows.values())
    lines = [
        "# Which of timm's models can be sliced",
        "",
        f"Made by `python benchmarks/models/coverage.py` on {report['date']}, with timm {report['timm']} and "
        f"torch {report['torch']}.",
        f"It takes one small model of each of timm's {len(rows)} model files.",
        f"**{exact} of {len(rows)} are bit-exact in fp32 at every boundary they offer.**",
        "",
        "*Exact*: at every boundary k, `torch.equal(tail(k)(a), model(x))`, where a is what the slices before k made",
        "of x. At every fourth boundary `head(k)(x)` is that a as well. Weights are random and seeded, x is two",
        "images, torch runs on one thread.",
        "",
        "*A row alone*: from a boundary on, an image runs in a batch and alone. The column shows the largest",
        "difference of the two results, relative to the largest logit. It is the rounding of other matrix shapes.",
        "",
        "What cannot be sliced is refused with the reason.",
        "",
        "| model file | model | boundaries | result | a row alone |",
        "|---|---|---|---|---|",
    ]
    for file, row in sorted(rows.items()):
        said = row["outcome"] if row["outcome"] == "exact" else f"{row['outcome']}: {row['reason']}".replace("|", "\\|")
        alone = f"{row['row_difference']:.0e}" if "row_difference" in row else ""
        shape = row.get("input_shape")
        model = f"{row['model']}, {shape[1]} px" if shape else row["model"]
        lines.append(f"| {file} | {model} | {row.get('boundaries', 0)} | {' '.join(said.split())} | {alone} |")
    if hugging_face.RESULTS.exists():
        lines += hugging_face.lines(json.loads(hugging_face.RESULTS.read_text()))
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--files", nargs="*", help="only these model files")
    parser.add_argument("--again", action="store_true", help="do not keep results that are there already")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="per model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"files": {}}
    if report.get("timm") != timm.__version__ or report.get("torch") != torch.__version__:
        report["files"] = {}
    for file in options.files or model_files():
        known = report["files"].get(file)
        if known is not None and not options.again:
            continue
        model = known["model"] if known is not None else small_model(file)
        row = in_own_process(model, options.timeout_s)
        report["files"][file] = row
        report.update(date=f"{datetime.now(timezone.utc):%Y-%m-%d}", timm=timm.__version__, torch=torch.__version__)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        write_table(report)
        print(
            file, row["model"], row.get("boundaries", 0), row["outcome"], row.get("seconds"), row["reason"], flush=True
        )


if __name__ == "__main__":
    main()
