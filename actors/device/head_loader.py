"""From what a server describes to a head that runs: shards fetched, checked and loaded. Blocking, all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from actors.device.config import TAIL, DeviceConfig
from actors.device.head import Head
from actors.device.head_runtime import GetShard
from slicer.errors import ConfigError, CutError, ShardError
from slicer.models.images import Preprocess
from slicer.protocol.messages import ServedModel, ShardInfo
from slicer.shards.cache import ShardCache
from slicer.shards.load import load_slices
from slicer.shards.manifest import Manifest

#: Under Serve's message limit of 4 MiB, with room for other traffic in between.
CHUNK_BYTES = 1 << 20


def load_head(served: ServedModel, config: DeviceConfig, get: GetShard) -> Head:
    """Fetch what the cache lacks and load slices 0:cut from it; all slices, where the device is to go on alone.

    Blocking: the device's own thread calls it.

    Raises:
        CutError: the model has no such cut, or the server takes no requests there.
        ConfigError: codec, profile or memory budget do not go with this model.
        ShardError: a shard or the manifest is not what it should be.
    """
    manifest = manifest_of(served)
    check_cut(served, config)
    config.profile.check_model(served.name, served.num_slices, manifest.spec.architecture)
    head_bytes, activation_bytes = head_memory(manifest, config.cut)
    budget = config.profile.memory_budget_bytes
    if budget is not None and head_bytes + activation_bytes > budget:
        raise ConfigError(
            f"head({config.cut}) of {served.name!r} does not fit device profile {config.profile.name!r}: shards "
            f"{head_bytes} bytes + largest activation {activation_bytes} bytes > budget {budget} bytes; choose a "
            "lower cut or a profile with more memory"
        )
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {config.name!r} asks for accelerator cuda, but torch sees none on this node; use accelerator: cpu"
        )
    torch.set_num_threads(config.torch_threads)
    keep = served.num_slices if config.alone == TAIL and fits_whole(manifest, config) else config.cut
    slices = load_more(served, config, get, 0, keep)
    dtype = next((p.dtype for one in slices for p in one.parameters()), torch.float32)
    return Head(
        Preprocess(manifest.spec),
        slices,
        manifest=manifest.digest,
        num_slices=served.num_slices,
        slice_bytes=[shard.size_bytes for shard in manifest.shards],
        channel_axes=manifest.channel_axes,
        own_result=manifest.outputs[0] if len(manifest.outputs) > 1 else None,
        dtype=dtype,
        accelerator=config.accelerator,
        profile=config.profile,
        seed=f"{config.seed}/{config.name}",
    )


def load_more(served: ServedModel, config: DeviceConfig, get: GetShard, start: int, end: int) -> list[nn.Module]:
    """Slices start:end, fetched where the cache lacks them. Blocking; any thread. Raises ShardError."""
    if start >= end:
        return []
    cache = ShardCache(Path(config.cache_directory).expanduser(), config.cache_max_bytes)
    try:
        directory = cache.fetch(manifest_of(served), start, end, lambda shard: _pieces(shard, get))
        return [one.to(config.accelerator) for one in load_slices(directory, start, end)]
    finally:
        cache.close()


def manifest_of(served: ServedModel) -> Manifest:
    """What the server announced, checked against its digest. Raises ShardError."""
    manifest = Manifest.from_json(served.manifest_json)
    if manifest.digest != served.manifest:
        raise ShardError(
            f"the server announces manifest {served.manifest[:12]} of {served.name!r} but sent {manifest.digest[:12]}; "
            "restart the server"
        )
    return manifest


def fits_whole(manifest: Manifest, config: DeviceConfig) -> bool:
    """Whether the device's budget holds the whole model."""
    budget = config.profile.memory_budget_bytes
    return budget is None or sum(head_memory(manifest, manifest.num_slices)) <= budget


def _pieces(shard: ShardInfo, get: GetShard) -> Iterator[bytes]:
    """A shard's bytes, in chunks; ends early when the server's file does, which the cache then notices."""
    for offset in range(0, shard.size_bytes, CHUNK_BYTES):
        yield get(shard.sha256, offset, min(CHUNK_BYTES, shard.size_bytes - offset))


def check_cut(served: ServedModel, config: DeviceConfig) -> None:
    """Raise CutError or ConfigError unless the server takes this device's requests."""
    n = served.num_slices
    if not 0 <= config.cut <= n:
        raise CutError(f"cut {config.cut} of {served.name!r}: it has {n} slices, so cuts are 0 to {n}")
    if config.cut == n:
        return
    if config.cut not in served.entries:
        raise CutError(
            f"cut {config.cut} of {served.name!r} is no entry of this server; it takes {_listed(served.entries)}"
        )
    if config.codec not in served.codecs:
        raise ConfigError(f"codec {config.codec!r}: the server takes {_listed(served.codecs)} for {served.name!r}")


def head_memory(manifest: Manifest, cut: int) -> tuple[int, int]:
    """(bytes of the shards 0:cut, bytes of the largest activation at their boundaries, as fp32)."""
    shards = sum(shard.size_bytes for shard in manifest.shards[:cut])
    return shards, max(4 * math.prod(shape) for shape in manifest.shapes[: cut + 1])


def _listed(items: tuple[object, ...]) -> str:
    return ", ".join(str(item) for item in items)
