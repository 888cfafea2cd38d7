"""What identifies a file of an export: its SHA-256 and its size."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..protocol.messages import ShardInfo

_CHUNK_BYTES = 1 << 20


def describe(path: Path, name: str) -> ShardInfo:
    """Hash and size of a file that is to be called `name`; reads it in pieces."""
    hasher = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            hasher.update(piece)
            size += len(piece)
    return ShardInfo(name, hasher.hexdigest(), size)
