"""What `headtail slice` prints: tables for people, documents for programs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slicer.core.protocol.calibration_index import CalibrationIndex
    from slicer.core.protocol.onnx_index import OnnxFile, OnnxIndex
    from slicer.core.shards.manifest import Manifest
    from slicer.slicing.slice_model import SlicedModel

_CODEC_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Exported:
    """What was written, and where; `onnx`, `calibration`: what lies beside the shards, if there is any; `left_out`: why
    cuts have no tables; `ways`: how they were made."""

    directory: str
    manifest: Manifest
    onnx: OnnxIndex | None = None
    calibration: CalibrationIndex | None = None
    left_out: Mapping[int, str] = field(default_factory=dict)
    ways: Mapping[int, str] = field(default_factory=dict)


def describe(name: str, sliced: SlicedModel, exported: Exported | None) -> dict[str, Any]:
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
    if exported is not None:
        document["export"] = {
            "directory": exported.directory,
            "manifest": exported.manifest.digest,
            "files": {shard.file: shard.size_bytes for shard in exported.manifest.shards},
        }
        if exported.onnx is not None:
            document["export"]["onnx"] = exported.onnx.digest
            document["export"]["files"] |= {file.file: file.size_bytes for file in exported.onnx.all_files}
        if (calibration := exported.calibration) is not None:
            document["export"]["files"] |= {one.tables.file: one.tables.size_bytes for one in calibration.cuts}
            document["export"]["calibration"] = {
                "images": calibration.images,
                "held_out": calibration.held_out,
                "measured": [asdict(one) for one in calibration.measured],
                "ways": {str(cut): way for cut, way in exported.ways.items()},
                "left_out": {str(cut): why for cut, why in exported.left_out.items()},
            }
    return document


def boundaries(sliced: SlicedModel) -> list[dict[str, Any]]:
    """What --boundaries --json prints; bytes are of one activation."""
    return [
        {"name": b.name, "block": b.block, "shape": b.shape, "activation_bytes": _activation_bytes(b.shape)}
        for b in sliced.boundaries
    ]


def report(name: str, sliced: SlicedModel, exported: Exported | None) -> str:
    """The table of slices, and where they were exported to."""
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
        *columns(rows),
        "",
        "With cut k a device runs S1..Sk and sends what leaves Sk; the server runs the rest.",
        "fp32, fp16, int8: size of one image's activation when it is sent so. FLOPs: a multiply-add is two.",
    ]
    if sliced.shared_names:
        lines.append(f"Held by more than one slice: {', '.join(sliced.shared_names)}")
    if exported is not None:
        size = sum(shard.size_bytes for shard in exported.manifest.shards)
        where = f"to {exported.directory}, manifest {exported.manifest.digest[:12]}"
        lines.append(f"Exported {n} shard{'s' * (n > 1)} ({_amount(size)}B) {where}")
        lines += _onnx(exported.onnx)
        lines += _calibration(exported)
    return "\n".join(lines)


def _onnx(index: OnnxIndex | None) -> list[str]:
    if index is None:
        return []
    forms = [("float32", index.files(0, index.num_slices))]
    if index.has_int8:
        forms.append(("int8", index.files(0, index.num_slices, int8=True)))
    return [_form(name, files) for name, files in forms]


def _calibration(exported: Exported) -> list[str]:
    index = exported.calibration
    if index is None:
        return []
    rows = [["cut", "codec", "bytes", "fidelity", "of the worst tenth", "agreement"]]
    rows += [
        [
            str(one.cut),
            one.codec,
            f"{one.payload_bytes:.0f}",
            f"{one.fidelity:.4f}",
            f"{one.fidelity_p10:.4f}",
            f"{one.agreement:.3f}",
        ]
        for one in index.measured
    ]
    size = _amount(sum(one.tables.size_bytes for one in index.cuts))
    return [
        f"Calibrated {len(index.cuts)} cut{'s' * (len(index.cuts) != 1)} on {index.images} images ({size}B of tables); "
        f"measured on {index.held_out} others:",
        "",
        *columns(rows),
        "",
        "fidelity: cosine of the model's answer to the exact one. agreement: images whose first class stays; without "
        "classes, the fidelity.",
        "tables with the fewest bytes (weighted: by what the answer is sensitive to; refined: by a learned step): "
        + ", ".join(f"cut {cut} {way}" for cut, way in exported.ways.items()),
        *(f"cut {cut} has no tables: {why}" for cut, why in exported.left_out.items()),
    ]


def _form(name: str, files: Sequence[OnnxFile]) -> str:
    size = _amount(sum(file.size_bytes for file in files))
    worst = max(max(file.max_difference, file.chain_difference) for file in files)
    number = f"{len(files)} ONNX file{'s' * (len(files) > 1)}"
    return f"Exported {number} of {name} ({size}B); at most {worst:.1e} of an activation's size from torch"


def _weights(sliced: SlicedModel) -> str:
    spec = sliced.spec
    assert spec is not None
    if spec.checkpoint:
        return f"weights from {Path(spec.checkpoint).name}"
    return "pretrained weights" if spec.pretrained else f"random weights (seed {spec.seed})"


def boundary_table(name: str, sliced: SlicedModel) -> str:
    """What --boundaries prints."""
    rows = [["boundary", "block", "activation", "fp32", "fp16", "int8"]]
    rows += [[b.name, "" if b.block is None else str(b.block), *_activation(b.shape)] for b in sliced.boundaries]
    return "\n".join(
        [f"{name}: {len(sliced.boundaries)} boundaries; --at takes names or block numbers", "", *columns(rows)]
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
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
