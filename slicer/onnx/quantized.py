"""The form of a slice with weights of 8 bits: MatMul and Gemm with integers, the rest in float32."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from slicer.onnx.graph import clean

#: onnxruntime's quantiser asks for a model that its own preprocessing has seen, which would fold what the exporter has
#: folded already; without this mark it complains through the root logger.
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose constant factors of MatMul and Gemm are 8 bits, one scale for each output.

    The other factor, the activation, is rounded to 8 bits while it runs, with one scale for the whole batch: the result
    of a row depends, within the rounding, on what shares its batch. The same model gives the same copy.

    Weights are unsigned: where a processor lacks instructions for it (VNNI), products of unsigned activations and
    signed weights saturate, and results were 3 to 16 times as far off.
    """
    given = onnx.ModelProto()
    given.CopyFrom(model)
    given.metadata_props.add(key=_PREPROCESSED[0], value=_PREPROCESSED[1])
    with tempfile.TemporaryDirectory(prefix="headtail-int8-") as scratch:
        path = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            given,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
        )
        found = onnx.load(path)
    clean(found)
    return found
