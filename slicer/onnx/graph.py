"""One slice as an ONNX graph: torch's exporter, and what it leaves behind taken out.

The same slice gives the same bytes: no names of files, no stack traces, no time, no version of the exporter stay in it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator

import onnx
import torch
from torch import nn

from slicer.onnx.libraries import OPSET

#: The newest form of the file that onnxruntime 1.20 reads.
MAX_IR_VERSION = 10

#: Protobuf's limit for one message is 2 GiB; the graph itself stays below the rest.
MAX_WEIGHT_BYTES = (1 << 31) - (16 << 20)

#: The dimension that is free, in inputs and outputs.
BATCH = "batch"

#: Of the example. One row is what exporters take for a constant.
_EXAMPLE_ROWS = 2


class Reason(Exception):
    """Why a slice is no ONNX graph, without the names of slice and model."""


def build(span: nn.Module, shape: tuple[int, ...], input_name: str, output_name: str) -> onnx.ModelProto:
    """The graph of `span`, whose input is float32 [batch, *shape], with all weights inside.

    Raises:
        Reason: it cannot be exported, or not with a free batch.
    """
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                span,
                (torch.zeros(_EXAMPLE_ROWS, *shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=[input_name],
                output_names=[output_name],
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            model: onnx.ModelProto = program.model_proto
        except Exception as error:  # the exporter's own classes are private, and it raises others too
            raise Reason(_innermost(error)) from error
    clean(model)
    _check(model)
    return model


def clean(model: onnx.ModelProto) -> None:
    """Take out whatever does not change what the graph computes and may differ between machines."""
    model.producer_name, model.producer_version, model.domain, model.doc_string = "headtail", "", "", ""
    model.model_version = 0
    del model.metadata_props[:]
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    _clean_graph(model.graph)
    model.graph.name = "slice"
    for value in (model.graph.input[0], model.graph.output[0]):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param.isidentifier():  # not an expression, such as 2*s77
            first.dim_param = BATCH


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The file. The same graph gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _clean_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]  # whoever needs the types in between derives them
    _forget(graph.input)
    _forget(graph.output)
    _forget(graph.initializer)
    _forget(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _clean_graph(inner)


def _forget(parts: Iterable[onnx.ValueInfoProto | onnx.TensorProto | onnx.NodeProto]) -> None:
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def _check(model: onnx.ModelProto) -> None:
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign or model.functions:
        raise Reason(f"its graph needs operators beside ONNX's own: {', '.join(foreign) or 'functions'}")
    if [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")] != [
        ("", OPSET)
    ]:
        raise Reason(f"the exporter wrote another opset than {OPSET}; this torch is too new or too old")
    for what, values in (("input", model.graph.input), ("output", model.graph.output)):
        if len(values) != 1:
            raise Reason(f"its graph has {len(values)} {what}s instead of one")
        first = values[0].type.tensor_type.shape.dim[0]
        if first.dim_param != BATCH:
            said = first.dim_param or first.dim_value
            raise Reason(
                f"its {what} has a batch of {said}, which must be free: it depends on the example's batch size"
            )


def _innermost(error: BaseException) -> str:
    """What started it: torch wraps the reason in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    # The first line of a conflict of sizes only announces it.
    said = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else ""
    return f"{type(error).__name__}: {said[:400]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes to its own developers. Warnings are the process's: one export at a time."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
