"""`headtail-slice`: show where a model is cut and what each slice costs; write the slices as shards."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slicer.common.error_text import shown
from slicer.common.yaml_files import parse_json
from slicer.errors import ConfigError, HeadTailError
from slicer.planning import table

if TYPE_CHECKING:
    from slicer.shards.manifest import Manifest
    from slicer.slicing.slice_model import SlicedModel

_CODEC_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def parser() -> argparse.ArgumentParser:
    """The command line; also what the README's test reads."""
    p = argparse.ArgumentParser(
        prog="headtail-slice",
        description="Cut a vision model into slices: a device runs the first k of them, the server the rest.",
    )
    p.add_argument(
        "model",
        metavar="MODEL",
        help="a timm name, package.module:callable, a model file (.yaml), or a demo model (digits_vit, digits_swin)",
    )
    p.add_argument("--slices", type=_slices, metavar="N", help="even in FLOPs (default 4); or: all")
    p.add_argument("--at", type=_places, metavar="A,B", help="cut here instead: after these blocks or boundaries")
    p.add_argument("--boundaries", action="store_true", help="list every place where the model can be cut, and stop")
    p.add_argument("--checkpoint", metavar="F", help="weights file (.safetensors, .pth, .ckpt, ...)")
    p.add_argument("--pretrained", action="store_true", help="timm's pretrained weights (model hub or its local cache)")
    p.add_argument("--img-size", type=int, metavar="PX", help="side of the square input, if not the model's own")
    p.add_argument("--kwargs", type=_kwargs, metavar="JSON", help='more arguments, such as {"depth": 6}')
    p.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="of weights and activations (default fp32)")
    p.add_argument("--seed", type=int, help="of random weights, where none are given (default 0)")
    p.add_argument("--export", metavar="DIR", help="write one safetensors file per slice and a manifest")
    p.add_argument("--profile", metavar="FILE", help="time every slice on this machine and write a device profile")
    p.add_argument("--batches", type=_batches, metavar="1,2,..", help="of --profile (default 1)")
    p.add_argument("--threads", type=_threads, metavar="N", help="of torch, for --profile (default: torch's own)")
    table.add_arguments(p)
    p.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after a message on stderr when the input is wrong."""
    args = parser().parse_args(argv)
    if "" not in sys.path:
        sys.path.append("")  # own models in the current folder are found, as with python -m
    try:
        print(_run(args))
    except HeadTailError as error:
        print(f"headtail-slice: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> str:
    # Here, so that --help and wrong arguments do not wait for torch.
    from slicer import shards
    from slicer.models import zoo
    from slicer.slicing.slice_model import slice_spec

    _check(args)
    kwargs = args.kwargs or {}
    if args.img_size is not None:
        kwargs = {**kwargs, "img_size": args.img_size}
    spec = zoo.resolve(
        args.model,
        kwargs=kwargs,
        checkpoint=args.checkpoint,
        pretrained=args.pretrained,
        dtype=args.dtype,
        seed=args.seed,
    )
    if args.seed is not None and (spec.checkpoint or spec.pretrained):
        what = f"the weights of {spec.checkpoint}" if spec.checkpoint else "pretrained weights"
        raise ConfigError(f"--seed {args.seed} is for random weights, but {args.model} has {what}; leave it out")
    sliced = slice_spec(spec, 4 if args.slices is None else args.slices, at=args.at)
    if args.boundaries:
        return json.dumps(_boundaries(sliced)) if args.json else _boundary_table(args.model, sliced)
    if args.profile:
        return _profile(args, sliced)
    if args.plan:
        return _plan(args, sliced)
    manifest = shards.export(sliced, args.export) if args.export else None
    if args.json:
        return json.dumps(describe(args.model, sliced, manifest, args.export))
    return _report(args.model, sliced, manifest, args.export)


def _check(args: argparse.Namespace) -> None:
    """Refuse what would do nothing: flags of something that is not asked for, and two answers to one question."""
    given = [flag for flag, value in vars(args).items() if value is not None and value is not False]
    asked = [flag for flag in ("boundaries", "profile", "plan", "export") if flag in given]
    if len(asked) > 1:
        names = " and ".join(f"--{flag}" for flag in asked)
        raise ConfigError(f"{names}: one at a time; run the command once for each")
    for flag in given:
        name = f"--{flag.replace('_', '-')}"
        if flag in ("batches", "threads") and "profile" not in given:
            raise ConfigError(f"{name} is for measuring; give --profile FILE, or leave it out")
        if flag in table.FLAGS and "plan" not in given:
            raise ConfigError(f"{name} is for the planner; give --plan PROFILE, or leave it out")
        if flag in ("slices", "at") and "boundaries" in given:
            raise ConfigError(f"{name}: --boundaries lists every place where the model can be cut; leave it out")
    if "slices" in given and "at" in given:
        raise ConfigError(f"--slices {args.slices}: --at says where to cut, and so into how many; leave one out")


def _profile(args: argparse.Namespace, sliced: SlicedModel) -> str:
    import torch

    from slicer.profiles import measure

    path = Path(args.profile)
    _check_writable(path)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    profile = measure.measure_profile(
        sliced,
        name=path.stem,
        model=args.model,
        batches=args.batches or [1],
        progress=lambda line: print(f"headtail-slice: {line}", file=sys.stderr, flush=True),
    )
    text = measure.to_yaml(profile)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(text)  # what was measured is not lost
        raise ConfigError(f"--profile {path}: cannot be written ({error.strerror}); it is printed above") from error
    if args.json:
        return json.dumps(profile.model_dump(mode="json"))
    lines = [f"written to {path}; a fleet's group takes it as `profile: {path}`, --plan as `--plan {path}`"]
    if note := measure.unsteady(profile):
        lines.append(f"NOTE: {note}")
    return "\n".join([text, *lines])


def _check_writable(path: Path) -> None:
    """Before a minute of measuring. Raises ConfigError."""
    try:
        there = path.exists()
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigError(
            f"--profile {path}: cannot be written ({error.strerror}); give a file in a folder that can"
        ) from None


def _plan(args: argparse.Namespace, sliced: SlicedModel) -> str:
    from slicer.profiles.device_profile import load_device_profile

    profile = load_device_profile(args.plan)
    on_server = load_device_profile(args.server_profile) if args.server_profile is not None else None
    estimates, chosen = table.plan(args, sliced, profile, on_server)
    n, told = sliced.num_slices, table.told(args)
    if args.json:
        return json.dumps(table.document(estimates, chosen, n, told))
    said = f"{args.model} on device {profile.name!r} ({', '.join(profile.emulated)})"
    if on_server is not None:
        said += f", its rest on {on_server.name!r} ({', '.join(on_server.emulated)})"
    lines = [said, ""]
    lines += _table(table.rows(estimates, chosen, n, told))
    if not told:
        lines += ["", table.UNTOLD]
    elif args.wait_ms is None:
        lines += ["", "Nobody else uses the server in this table: --wait-ms says how long requests wait in its queues."]
    return "\n".join(lines)


def describe(name: str, sliced: SlicedModel, manifest: Manifest | None, directory: str | None) -> dict[str, Any]:
    """What --json prints: bytes are of one activation, FLOPs of one image (a multiply-add is two)."""
    document: dict[str, Any] = {
        "model": name,
        "num_slices": sliced.num_slices,
        "cuts": [cut.name for cut in sliced.cuts],
        "input_shape": sliced.input_shape,
        "boundaries": len(sliced.boundaries),
        "slices": [
            {
                "slice": f"S{part.index + 1}",
                "units": part.units,
                "parameters": part.parameters,
                "weight_bytes": part.weight_bytes,
                "flops": part.flops,
                "shape_out": part.shape,
                "activation_bytes": _activation_bytes(part.shape),
            }
            for part in sliced.slices
        ],
    }
    if manifest is not None:
        document["export"] = {
            "directory": directory,
            "manifest": manifest.digest,
            "files": {shard.file: shard.size_bytes for shard in manifest.shards},
        }
    return document


def _boundaries(sliced: SlicedModel) -> list[dict[str, Any]]:
    return [
        {"name": b.name, "block": b.block, "shape": b.shape, "activation_bytes": _activation_bytes(b.shape)}
        for b in sliced.boundaries
    ]


def _report(name: str, sliced: SlicedModel, manifest: Manifest | None, directory: str | None) -> str:
    total = sum(part.flops for part in sliced.slices)
    rows = [["slice", "units", "parameters", "weights", "FLOPs", "share", "activation out", "fp32", "fp16", "int8"]]
    rows.append(["input", "", "", "", "", "", *_activation(sliced.input_shape)])
    for part in sliced.slices:
        rows.append(
            [
                f"S{part.index + 1}",
                _short(part.units),
                _amount(part.parameters),
                f"{_amount(part.weight_bytes)}B",
                _amount(part.flops),
                f"{part.flops / total:.0%}" if total else "-",
                *_activation(part.shape),
            ]
        )
    n = sliced.num_slices
    lines = [
        f"{name}: {n} slice{'s' * (n > 1)}, {len(sliced.boundaries)} boundaries, "
        f"input {_shape(sliced.input_shape)}, {_amount(total)}FLOPs per image; {_weights(sliced)}",
        "",
        *_table(rows),
        "",
        "With cut k a device runs S1..Sk and sends what leaves Sk; the server runs the rest.",
        "fp32, fp16, int8: size of one image's activation when it is sent so. FLOPs: a multiply-add is two.",
    ]
    if sliced.shared_names:
        lines.append(f"Held by more than one slice: {', '.join(sliced.shared_names)}")
    if manifest is not None:
        size = sum(shard.size_bytes for shard in manifest.shards)
        lines.append(
            f"Exported {n} shard{'s' * (n > 1)} ({_amount(size)}B) to {directory}, manifest {manifest.digest[:12]}"
        )
    return "\n".join(lines)


def _weights(sliced: SlicedModel) -> str:
    spec = sliced.spec
    assert spec is not None
    if spec.checkpoint:
        return f"weights from {Path(spec.checkpoint).name}"
    return "pretrained weights" if spec.pretrained else f"random weights (seed {spec.seed})"


def _boundary_table(name: str, sliced: SlicedModel) -> str:
    rows = [["boundary", "block", "activation", "fp32", "fp16", "int8"]]
    rows += [[b.name, "" if b.block is None else str(b.block), *_activation(b.shape)] for b in sliced.boundaries]
    return "\n".join(
        [f"{name}: {len(sliced.boundaries)} boundaries; --at takes names or block numbers", "", *_table(rows)]
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side; the first two are text, the rest is aligned on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _activation(shape: Sequence[int]) -> list[str]:
    return [_shape(shape), *(f"{_amount(size)}B" for size in _activation_bytes(shape).values())]


def _activation_bytes(shape: Sequence[int]) -> dict[str, int]:
    return {codec: math.prod(shape) * size for codec, size in _CODEC_BYTES.items()}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _amount(value: float) -> str:
    """Three digits and a decimal prefix with a space before it: 1.52 M; callers append the unit."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            digits = 2 if value < 9.995 * scale else 1 if value < 99.95 * scale else 0
            return f"{value / scale:.{digits}f} {prefix}"
    return f"{value:.0f} "


def _short(units: Sequence[str]) -> str:
    """Names of units, runs of numbered ones as a range: patch_embed, blocks.0-2."""
    runs: list[tuple[str, str, str]] = []
    for unit in units:
        match = re.fullmatch(r"(.*\.)(\d+)", unit)
        stem, number = (match[1], match[2]) if match else (unit, "")
        if runs and number and runs[-1][0] == stem and int(runs[-1][2]) + 1 == int(number):
            runs[-1] = (stem, runs[-1][1], number)
        else:
            runs.append((stem, number, number))
    return ", ".join(stem + (first if first == last else f"{first}-{last}") for stem, first, last in runs)


def _slices(text: str) -> int | Literal["all"]:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor all")
    return "all" if text == "all" else int(text)


def _places(text: str) -> list[str | int]:
    return [int(place) if place.isdecimal() else place for place in (part.strip() for part in text.split(","))]


def _batches(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
        if not all(1 <= size <= 4096 for size in sizes):
            raise ValueError
        return sizes
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no list of batch sizes such as 1,2,4") from None


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= len(text) <= 4 or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no number of threads from 1 to 1024")
    return int(text)


def _kwargs(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text, "JSON")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{shown(repr(text))} is not a JSON object such as {{"depth": 6}}')
    return value


if __name__ == "__main__":
    sys.exit(main())
