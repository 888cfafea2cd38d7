"""The index of a model's ONNX files: which file is which slice, its digest, its inputs and outputs, how exact it is.

::

    DIR/onnx.json             canonical JSON; written last, so a folder with an index is complete
    DIR/slice_1.onnx          S1 ... Sn in float32
    DIR/slice_1.int8.onnx     the same with weights of 8 bits, where they were asked for

Plain dataclasses and json: no torch, no pydantic, no onnx. A device that runs ONNX needs this file and
`errors` of us, and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import CutError, ShardError
from .told_files import DAMAGED, check_file, digest_of

FILE = "onnx.json"

_FORMAT = 1


@dataclass(frozen=True)
class OnnxFile:
    """One file, and how far its results are from torch's.

    Attributes:
        file: its name in the folder of the index.
        sha256: of its bytes, in hex.
        size_bytes: of it.
        max_difference: of this slice alone: the largest absolute difference to torch's result for the same input, as a
            part of the largest absolute value of that result; the worst of batches of 1, 3 and 8.
        chain_difference: the same after S1 to this slice, each in this form, from the pixels on.
    """

    file: str
    sha256: str
    size_bytes: int
    max_difference: float
    chain_difference: float


@dataclass(frozen=True)
class OnnxSlice:
    """One slice: a graph with one input [batch, *input_shape] and one output [batch, *output_shape], both float32.

    Attributes:
        input, output: names in the graph.
        input_shape, output_shape: of one row, without the batch, which is free.
        fp32: its file. `OnnxFile.max_difference` is at most 1e-5.
        int8: a smaller file with weights of 8 bits, whose difference is measured and not bounded; None: there is none.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    fp32: OnnxFile
    int8: OnnxFile | None = None


@dataclass(frozen=True)
class OnnxIndex:
    """What a folder of ONNX slices holds. Immutable, comparable by content.

    Attributes:
        manifest: digest of the manifest whose slices these are, which every request carries.
        opset: version of ONNX's operators that the files use.
        slices: S1 first.
    """

    manifest: str
    opset: int
    slices: tuple[OnnxSlice, ...]

    @property
    def num_slices(self) -> int:
        """n; cuts are 0..n."""
        return len(self.slices)

    @property
    def has_int8(self) -> bool:
        """Whether every slice has a file of 8 bits."""
        return all(part.int8 for part in self.slices)

    @property
    def all_files(self) -> tuple[OnnxFile, ...]:
        """Of all slices, both forms."""
        return tuple(file for part in self.slices for file in (part.fp32, part.int8) if file is not None)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def files(self, start: int, end: int, *, int8: bool = False) -> tuple[OnnxFile, ...]:
        """The files that slices ``start:end`` need, in their order.

        Raises:
            CutError: not 0 <= start <= end <= n.
            ShardError: there are no files of 8 bits.
        """
        if not 0 <= start <= end <= self.num_slices:
            raise CutError(f"span {start}:{end} is none of {self.num_slices} slices; it needs 0 <= start <= end <= n")
        if not int8:
            return tuple(part.fp32 for part in self.slices[start:end])
        found = tuple(part.int8 for part in self.slices[start:end] if part.int8)
        if len(found) != end - start:
            raise ShardError(f"the ONNX files of manifest {self.manifest[:12]} have no int8 form; export with --int8")
        return found

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII; equal indexes give equal text."""
        document = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = FILE) -> OnnxIndex:
        """The index in `text`; `source` says in errors where it came from.

        Raises:
            ShardError: it is no index, of another version, or contradicts itself.
        """
        try:
            return _parse(json.loads(text))
        except DAMAGED as error:
            raise ShardError(
                f"{source} is no valid index of ONNX files ({error}); export them again: headtail slice MODEL "
                "--export DIR --format onnx"
            ) from error


def load_index(directory: str | Path) -> OnnxIndex:
    """Read ``directory/onnx.json``; the files are not looked at.

    Raises:
        ShardError: there is none, or it is damaged.
    """
    path = Path(directory) / FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ShardError(
            f"{path}: {error.strerror}; export with headtail slice MODEL --export DIR --format onnx (an interrupted "
            "export has no index: run it again)"
        ) from error
    return OnnxIndex.from_json(text, str(path))


def _parse(document: Any) -> OnnxIndex:
    if document.get("format") != _FORMAT:
        raise ValueError(f"it is not of format {_FORMAT}")
    index = OnnxIndex(
        manifest=digest_of(document["manifest"]),
        opset=int(document["opset"]),
        slices=tuple(_slice(entry) for entry in document["slices"]),
    )
    names = [file.file for file in index.all_files]
    if not names or len(set(names)) != len(names):
        raise ValueError("it must name each file once, and at least one")
    for before, after in zip(index.slices, index.slices[1:], strict=False):
        if before.output_shape != after.input_shape:
            raise ValueError(
                f"{list(before.output_shape)} leaves a slice and {list(after.input_shape)} enters the next"
            )
    return index


def _slice(entry: Any) -> OnnxSlice:
    return OnnxSlice(
        input=str(entry["input"]),
        output=str(entry["output"]),
        input_shape=tuple(int(size) for size in entry["input_shape"]),
        output_shape=tuple(int(size) for size in entry["output_shape"]),
        fp32=_file(entry["fp32"]),
        int8=None if entry["int8"] is None else _file(entry["int8"]),
    )


def _file(entry: Any) -> OnnxFile:
    file = OnnxFile(
        file=str(entry["file"]),
        sha256=digest_of(entry["sha256"]),
        size_bytes=int(entry["size_bytes"]),
        max_difference=float(entry["max_difference"]),
        chain_difference=float(entry["chain_difference"]),
    )
    check_file(file.file, file.size_bytes)
    if not (0 <= file.max_difference < math.inf and 0 <= file.chain_difference < math.inf):
        raise ValueError(f"the differences of {file.file} must be numbers, not negative")
    return file
