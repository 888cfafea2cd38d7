"""The codecs of a model that a server describes, with tables fetched from it and kept in the device's cache."""

from __future__ import annotations

from pathlib import Path

from ..codecs.model_codecs import ModelCodecs
from ..errors import ShardError
from ..protocol.calibration_index import FILE, CalibrationIndex
from ..protocol.messages import ServedModel, ShardInfo
from ..shards.cache import ShardCache
from ..shards.manifest import Manifest
from .head_runtime import GetShard
from .served_model import pieces


def calibration_of(served: ServedModel) -> CalibrationIndex | None:
    """What the server says of calibration, checked; None: it says nothing. Raises ShardError."""
    if not served.calibration_json:
        return None
    index = CalibrationIndex.from_json(served.calibration_json, f"what the server says of {served.name!r}")
    if index.manifest != served.manifest:
        raise ShardError(
            f"the server's calibration of {served.name!r} is of manifest {index.manifest[:12]}, it serves "
            f"{served.manifest[:12]}; calibrate the model again and restart the server"
        )
    return index


def codecs_of(
    served: ServedModel, manifest: Manifest, get: GetShard, cache_directory: Path, cache_max_bytes: int
) -> ModelCodecs:
    """Any thread; tables are fetched when they are first used, which blocks.

    Args:
        cache_directory, cache_max_bytes: of `ShardCache`.

    Raises:
        ShardError: what the server says of calibration is damaged.
    """
    index = calibration_of(served)

    def read(tables: ShardInfo) -> bytes:
        cache = ShardCache(cache_directory, cache_max_bytes)
        try:
            folder = cache.fetch_files(
                [tables],
                f"tables_{tables.sha256}",
                (FILE, served.calibration_json.encode()),
                f"the tables {tables.file} of {served.name!r}",
                lambda file: pieces(file, get),
            )
            return (folder / tables.file).read_bytes()
        finally:
            cache.close()

    return ModelCodecs(manifest.shapes, manifest.channel_axes, index, read)
