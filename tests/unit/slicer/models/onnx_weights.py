"""The tensors of an ONNX file, read without onnx: its protobuf fields by number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

_FLOAT, _INT64 = 1, 7  # of TensorProto.DataType


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a protobuf message; messages, text and bytes as views."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = varint()
        kind, number = key & 7, key >> 3
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield number, data[place : place + size]
        place += size


def _of(data: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in fields(data) if number == wanted and isinstance(value, memoryview))


def _tensor(data: memoryview) -> tuple[str, torch.Tensor | None]:
    """TensorProto: dims=1, data_type=2, name=8, raw_data=9. None for another kind than floats."""
    shape: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in fields(data):
        if number == 1:
            shape += [value] if isinstance(value, int) else [v for v in value]
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == 9 and isinstance(value, memoryview):
            raw = value
    if kind != _FLOAT or not len(raw):
        return name, None
    return name, torch.from_numpy(np.frombuffer(raw, dtype="<f4").reshape(shape).copy())


def read(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, tuple[str, list[str], list[str]]]]:
    """Initialisers and constants by name; and nodes by name: operator, inputs, outputs.

    ModelProto: graph=7. GraphProto: node=1, initializer=5. NodeProto: input=1, output=2, name=3, op_type=4,
    attribute=5. AttributeProto: t=5.
    """
    tensors: dict[str, torch.Tensor] = {}
    nodes: dict[str, tuple[str, list[str], list[str]]] = {}
    (graph,) = _of(memoryview(data), 7)
    for one in _of(graph, 5):
        name, tensor = _tensor(one)
        if tensor is not None:
            tensors[name] = tensor
    for node in _of(graph, 1):
        inputs, outputs = ([bytes(value).decode() for value in _of(node, number)] for number in (1, 2))
        name, kind = (next((bytes(value).decode() for value in _of(node, number)), "") for number in (3, 4))
        nodes[name] = (kind, inputs, outputs)
        for attribute in _of(node, 5):
            for value in _of(attribute, 5):
                tensor = _tensor(value)[1]
                if kind == "Constant" and tensor is not None:
                    tensors[outputs[0]] = tensor
    return tensors, nodes
