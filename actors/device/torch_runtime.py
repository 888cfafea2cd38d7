"""Heads of torch."""

from __future__ import annotations

from actors.device.config import DeviceConfig
from actors.device.head_loader import load_head, load_more
from slicer.core.heads.head_runtime import GetShard, HeadRuntime
from slicer.core.heads.threaded import load_threaded
from slicer.core.protocol.messages import ServedModel


async def load_torch(served: ServedModel, config: DeviceConfig, get: GetShard) -> HeadRuntime:
    """`LoadHead` for torch. Raises as `load_head`."""
    return await load_threaded(
        config.name,
        lambda: load_head(served, config, get),
        lambda start, end: load_more(served, config, get, start, end),
    )
