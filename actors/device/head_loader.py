"""From what a server describes to a head that runs: shards fetched, checked and loaded. Blocking, all of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from actors.device.config import DeviceConfig
from actors.device.torch_slices import TorchSlices
from slicer.core.heads.codecs_of import codecs_of
from slicer.core.heads.head import Head
from slicer.core.heads.head_runtime import GetShard
from slicer.core.heads.served_model import check_cut, check_memory, fits_whole, manifest_of, pieces
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import ServedModel
from slicer.core.settings import TAIL
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
    check_memory(served, manifest, config)
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {config.name!r} asks for accelerator cuda, but torch sees none on this node; use accelerator: cpu"
        )
    torch.set_num_threads(config.torch_threads)
    keep = served.num_slices if config.alone == TAIL and fits_whole(manifest, config) else config.cut
    slices = load_more(served, config, get, 0, keep)
    dtype = next((p.dtype for one in slices for p in one.parameters()), torch.float32)
    head = Head(
        Preprocess(manifest.spec),
        TorchSlices(slices, dtype, config.accelerator),
        manifest=manifest.digest,
        num_slices=served.num_slices,
        slice_bytes=[shard.size_bytes for shard in manifest.shards],
        codecs=codecs_of(served, manifest, get, Path(config.cache_directory).expanduser(), config.cache_max_bytes),
        outputs=manifest.outputs,
        profile=config.profile,
        seed=f"{config.seed}/{config.name}",
    )
    head.prepare(Choice(config.cut, config.codec))
    return head


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
