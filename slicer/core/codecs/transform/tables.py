"""What a device and a server must both hold to code the activations of one boundary: linear transforms, scales, tables.

They are fitted on images (`slicer.calibration`), go by a file of their own beside the shards, and have a digest of
their own: a model that is calibrated again keeps its manifest, and devices keep their slices.

The file is of the safetensors format, written in one way only, so equal tables give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ShardError
from ...protocol.told_files import DAMAGED
from .rans import PRECISION

#: Scales and steps are whole levels, so that every host finds the same classes: level l is
#: 2 ** ((l - LEVEL_OF_ONE) / 4).
LEVEL_OF_ONE = 128

#: Classes of coefficients by scale over step: class c holds those of about 2 ** ((c - CLASS_OF_ONE) / 4) steps.
CLASSES, CLASS_OF_ONE = 44, 24

#: Patterns of which of four coefficients are not 0, and magnitudes above 0: 1 to 15, the last one "or more".
PATTERNS, MAGNITUDES = 16, 15

#: How an activation holds its channels and places.
LAYOUTS = ("tokens", "grid", "planes")

_DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1", "U16": "<u2"}
_OF_DTYPE = {np.dtype(name): code for code, name in _DTYPES.items()}
_FORMAT = "headtail-transform-1"


@dataclass(frozen=True, eq=False)
class TransformTables:
    """Of one boundary. Immutable; any thread.

    P prefix tokens, G = height * width patch tokens or places, C channels.

    Attributes:
        grid: height and width of the patch tokens; prefix: how many tokens stand before them.
        layout: of the activation: ``tokens`` [P + G, C], ``grid`` [height, width, C], ``planes`` [C, height, width].
        mean: [P + G, C] float16, what is taken off before.
        analysis: [C, C] float16, rows are the channels' transform; `synthesis`: [C, C] float32, its inverse as it was
            fitted: columns.
        prefix_analysis, prefix_synthesis: the same for prefix tokens, whatever they are worth beside the others.
        levels: [P * C + C * G] uint8, the scale of each coefficient, in the order in which they are computed.
        steps: uint8, the level of each quality's step.
        qualities: uint16, of each step: 10,000 times the median fidelity that it had in calibration.
        patterns: [CLASSES, PATTERNS] uint16, magnitudes: [CLASSES, MAGNITUDES] uint16, frequencies.
        gains: [CLASSES] float32, what decoded coefficients are multiplied by so that they keep their energy.
    """

    grid: tuple[int, int]
    prefix: int
    layout: str
    mean: npt.NDArray[np.float16]
    analysis: npt.NDArray[np.float16]
    synthesis: npt.NDArray[np.float32]
    prefix_analysis: npt.NDArray[np.float16]
    prefix_synthesis: npt.NDArray[np.float32]
    levels: npt.NDArray[np.uint8]
    steps: npt.NDArray[np.uint8]
    qualities: npt.NDArray[np.uint16]
    patterns: npt.NDArray[np.uint16]
    magnitudes: npt.NDArray[np.uint16]
    gains: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the activation, without a batch dimension."""
        (height, width), channels = self.grid, self.analysis.shape[0]
        if self.layout == "tokens":
            return (self.prefix + height * width, channels)
        return (height, width, channels) if self.layout == "grid" else (channels, height, width)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """[n], the coefficients by their scales, the largest first: the order in which they are coded."""
        return np.argsort(-self.levels.astype(np.int16), kind="stable")

    def to_bytes(self) -> bytes:
        """The file."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        facts = {
            "format": _FORMAT,
            "grid": json.dumps(list(self.grid)),
            "prefix": str(self.prefix),
            "layout": self.layout,
        }
        header: dict[str, object] = {"__metadata__": facts}
        parts, at = [], 0
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            array = array.astype(array.dtype.newbyteorder("<"))
            data = array.tobytes()
            header[name] = {
                "dtype": _OF_DTYPE[array.dtype],
                "shape": list(array.shape),
                "data_offsets": [at, at + len(data)],
            }
            parts.append(data)
            at += len(data)
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the tables") -> TransformTables:
        """As `to_bytes` wrote them.

        Raises:
            ShardError: they are damaged, or of another version.
        """
        try:
            return cls(**_read(data))
        except DAMAGED as error:
            raise ShardError(f"{source} hold no transform tables ({error}); calibrate the model again") from error

    def __post_init__(self) -> None:
        _check(self)


def _read(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(len(data) - 8, 1 << 20):
        raise ValueError("the header's length is wrong")
    header = json.loads(data[8 : 8 + length])
    facts = header.pop("__metadata__")
    if facts["format"] != _FORMAT:
        raise ValueError(f"format {facts['format']!r} is not {_FORMAT}")
    body, found = memoryview(data)[8 + length :], {}
    for name, told in header.items():
        begin, end = told["data_offsets"]
        shape, dtype = [int(size) for size in told["shape"]], np.dtype(_DTYPES[told["dtype"]])
        if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(body):
            raise ValueError(f"{name} has a bad shape or place")
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(f"{name} has another size than its shape says")
        found[name] = np.frombuffer(body[begin:end], dtype).reshape(shape)
    return {**found, **_facts(facts)}


def _facts(facts: Mapping[str, str]) -> dict[str, Any]:
    height, width = json.loads(facts["grid"])
    return {
        "grid": (int(height), int(width)),
        "prefix": int(facts["prefix"]),
        "layout": facts["layout"],
    }


def _check(tables: TransformTables) -> None:
    places, channels = math.prod(tables.grid), tables.analysis.shape[0]
    tokens = tables.prefix + places
    wanted = {
        "mean": (tokens, channels),
        "analysis": (channels, channels),
        "synthesis": (channels, channels),
        "prefix_analysis": (channels, channels),
        "prefix_synthesis": (channels, channels),
        "levels": (tokens * channels,),
        "qualities": tables.steps.shape,
        "patterns": (CLASSES, PATTERNS),
        "magnitudes": (CLASSES, MAGNITUDES),
        "gains": (CLASSES,),
    }
    for name, shape in wanted.items():
        array = getattr(tables, name)
        if array.shape != shape:
            raise ValueError(f"{name} is {array.shape}, not {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    if not 0 < tables.steps.size < 256:
        raise ValueError(f"{tables.steps.size} qualities; 1 to 255 are possible")
    if tables.layout not in LAYOUTS:
        raise ValueError(f"layout {tables.layout!r} is none of {', '.join(LAYOUTS)}")
    if tables.prefix < 0 or min(tables.grid) < 1 or (tables.prefix and tables.layout != "tokens"):
        raise ValueError("the grid or the prefix is wrong")
    for name in ("patterns", "magnitudes"):
        rows = np.asarray(getattr(tables, name), np.int64)
        if not (rows.sum(axis=1) == 1 << PRECISION).all() or not (rows > 0).all():
            raise ValueError(f"frequencies of {name} must be above 0 and sum to {1 << PRECISION}")
