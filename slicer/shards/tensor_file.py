"""Read and write one shard: a safetensors file, verified while it is read, into memory of its own.

The safetensors package maps files into memory. Mapped weights changed results in the last bit (their alignment differs)
and count twice while they are copied, so a shard is read tensor by tensor with plain reads; the format itself is one
JSON header and the raw data (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file

from slicer.core.protocol.messages import ShardInfo
from slicer.errors import ShardError

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write and fsync a file; the same tensors give the same bytes. Tensors that share memory are written out each."""
    known = set(_DTYPES.values())
    if odd := [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in known]:
        raise ShardError(f"{path}: cannot store {', '.join(odd)}; convert the model to fp32, fp16 or bf16")
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(owned, path)
    path.chmod(0o644)  # safetensors makes it private; a device may run as another user
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def read(path: Path, shard: ShardInfo) -> dict[str, torch.Tensor]:
    """All tensors of a shard, each in fresh memory; beyond them it takes about a megabyte.

    The hash is computed from the very bytes that are handed out.

    Raises:
        ShardError: the file is missing, truncated or altered.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.size_bytes:
                what = "truncated" if size < shard.size_bytes else "not the exported file"
                raise ShardError(f"shard {path} is {what}: {size} bytes instead of {shard.size_bytes}; {_REMEDY}")
            return _read_verified(file, path, shard)
    except OSError as error:
        raise ShardError(f"shard {path}: {error.strerror}; {_REMEDY}") from error


_REMEDY = "copy it again, or export the model again"


def _read_verified(file: BinaryIO, path: Path, shard: ShardInfo) -> dict[str, torch.Tensor]:
    altered = ShardError(
        f"shard {path} was altered or belongs to another export (its sha256 is not {shard.sha256[:12]}...); {_REMEDY}"
    )
    hasher = hashlib.sha256()
    prefix = _read_exactly(file, 8, altered)
    length = int.from_bytes(prefix, "little")
    if length > shard.size_bytes - 8:
        raise altered
    header = _read_exactly(file, length, altered)
    hasher.update(prefix)
    hasher.update(header)
    tensors = {}
    for name, dtype, shape in _layout(header, shard.size_bytes - 8 - length, altered):
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            data = tensor.reshape(-1).view(torch.uint8).numpy().data
            _fill(file, data, altered)
            hasher.update(data)
        tensors[name] = tensor
    if hasher.hexdigest() != shard.sha256:
        raise altered
    return tensors


def _layout(header: bytes, data_bytes: int, altered: ShardError) -> Iterable[tuple[str, torch.dtype, list[int]]]:
    """Name, dtype and shape in the order of the data, which must follow each other without a gap and fill the file."""
    try:
        entries: dict[str, Any] = json.loads(header)
        entries.pop("__metadata__", None)
        ordered = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
        position = 0
        found = []
        for name, entry in ordered:
            dtype, shape = _DTYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
            begin, end = entry["data_offsets"]
            if begin != position or end - begin != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
                raise ValueError(f"{name} lies at {begin}:{end}")
            position = end
            found.append((name, dtype, shape))
        if position != data_bytes:
            raise ValueError(f"{data_bytes - position} bytes belong to no tensor")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise altered from error
    return found


def _read_exactly(file: BinaryIO, length: int, altered: ShardError) -> bytes:
    data = bytearray(length)
    _fill(file, memoryview(data), altered)
    return bytes(data)


def _fill(file: Any, target: memoryview, altered: ShardError) -> None:
    """Read until `target` is full: an unbuffered file may return less than was asked for."""
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise altered
        done += count
