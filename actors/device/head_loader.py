"""From what a server describes to a head that runs: shards fetched, checked and loaded. Blocking, all of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from actors.device.config import DeviceConfig
from actors.device.head import Head
from slicer.core.device.head_runtime import GetShard
from slicer.core.device.served_model import check_cut, fits_whole, head_memory, manifest_of, pieces
from slicer.core.device.settings import TAIL
from slicer.core.protocol.messages import ServedModel
from slicer.core.shards.cache import ShardCache
from slicer.errors import ConfigError
from slicer.models.images import Preprocess
from slicer.shards.load import load_slices


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
        directory = cache.fetch(manifest_of(served), start, end, lambda shard: pieces(shard, get))
        return [one.to(config.accelerator) for one in load_slices(directory, start, end)]
    finally:
        cache.close()
