"""The errors that users meet, under their public name; they are defined in `slicer.core.errors`."""

from __future__ import annotations

from slicer.core.errors import (
    BadRequestError,
    CodecError,
    ConfigError,
    CutError,
    HeadTailError,
    ImageError,
    ModelError,
    NotExportable,
    NotFiniteError,
    NotSliceable,
    PlacementError,
    RefusedError,
    ServerError,
    ShardError,
    StaleTablesError,
)

__all__ = [
    "BadRequestError",
    "CodecError",
    "ConfigError",
    "CutError",
    "HeadTailError",
    "ImageError",
    "ModelError",
    "NotExportable",
    "NotFiniteError",
    "NotSliceable",
    "PlacementError",
    "RefusedError",
    "ServerError",
    "ShardError",
    "StaleTablesError",
]
