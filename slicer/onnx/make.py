"""Make the ONNX files of a model's slices in a scratch folder, and check each against torch."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from slicer.core.protocol.onnx_index import OnnxFile, OnnxSlice
from slicer.errors import NotExportable
from slicer.onnx.graph import MAX_WEIGHT_BYTES, Reason, build, to_bytes
from slicer.onnx.quantized import quantize
from slicer.onnx.runtime import Chain, examples
from slicer.slicing.sliced_model import SlicedModel

#: Names in every graph. The first slice takes what a head takes: images, preprocessed as the manifest's spec says.
PIXELS, ACTIVATION, OUTPUT = "pixels", "activation", "output"

#: How far a float32 file may be from torch, alone and in the chain: `slicer.core.protocol.onnx_index.OnnxFile`.
MAX_DIFFERENCE = 1e-5


def make(sliced: SlicedModel, scratch: Path, int8: bool, progress: Callable[[int], object]) -> tuple[OnnxSlice, ...]:
    """Write ``slice_1.onnx`` and so on into `scratch`, with `int8` also ``slice_1.int8.onnx``; S1 first.

    Raises:
        NotExportable: a slice is no ONNX graph, does not take other batches than the example's, or is not exact.
    """
    _refuse_dtype(sliced)
    references = examples(sliced)
    exact, small = Chain(references), Chain(references)
    made: list[OnnxSlice] = []
    for index, part in enumerate(sliced.slices):
        try:
            if part.weight_bytes > MAX_WEIGHT_BYTES:
                raise Reason(f"its weights have {part.weight_bytes} bytes, a file holds 2 GiB; cut into more slices")
            span = sliced.span(index, index + 1)
            input_name = ACTIVATION if index else PIXELS
            model = build(span, sliced.shape_at(index), input_name, OUTPUT)
            fp32 = _write(scratch / f"slice_{index + 1}.onnx", to_bytes(model), index, exact, MAX_DIFFERENCE)
            if int8:
                data = to_bytes(quantize(model))
                other = _write(scratch / f"slice_{index + 1}.int8.onnx", data, index, small, sys.float_info.max)
        except Reason as error:
            raise NotExportable(
                f"{_name(sliced)}: slice {index + 1} of {sliced.num_slices} ({', '.join(part.units)[:200]}) cannot be "
                f"an ONNX file: {error}. Leave --format onnx out: devices with torch run the shards"
            ) from error
        shapes = sliced.shape_at(index), sliced.shape_at(index + 1)
        made.append(OnnxSlice(input_name, OUTPUT, *shapes, fp32=fp32, int8=other if int8 else None))
        progress(len(made))
    return tuple(made)


def _write(path: Path, data: bytes, index: int, chain: Chain, limit: float) -> OnnxFile:
    """Check slice `index` as it will be read, and write it. Raises Reason where it is off by more than `limit`."""
    alone, after = chain.step(index, data)
    if not max(alone, after) <= limit:
        raise Reason(
            f"its results differ from torch's by {alone:.2g} of their size alone and by {after:.2g} after the slices "
            f"before it, where {limit:.2g} is allowed"
        )
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return OnnxFile(path.name, hashlib.sha256(data).hexdigest(), len(data), alone, after)


def _refuse_dtype(sliced: SlicedModel) -> None:
    if sliced.input_dtype != torch.float32:
        raise NotExportable(
            f"{_name(sliced)} has {str(sliced.input_dtype).removeprefix('torch.')} weights; ONNX slices are "
            "float32, or int8 made of these: export the model with --dtype fp32"
        )


def _name(sliced: SlicedModel) -> str:
    return sliced.spec.architecture if sliced.spec is not None else type(sliced.module).__name__
