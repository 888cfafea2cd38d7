"""The head on torch: a `Head` and the one thread that it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import nn
from typing_extensions import override

from actors.device.config import DeviceConfig
from actors.device.head import Head
from actors.device.head_loader import load_head, load_more
from slicer.core.device.head_runtime import Computed, GetShard, HeadRuntime
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import ServedModel


class TorchRuntime(HeadRuntime):
    """`HeadRuntime` by a `Head`, which blocks, on a thread of its own.

    Args:
        head: runs there, and nowhere else.
        thread: with one worker.
        more: slices start:end, fetched and loaded; blocking, called on another thread.
    """

    def __init__(self, head: Head, thread: ThreadPoolExecutor, more: Callable[[int, int], list[nn.Module]]) -> None:
        self._head, self._thread, self._more = head, thread, more
        self.manifest, self.num_slices = head.manifest, head.num_slices
        self.slices_ms: Sequence[float] = ()

    @property
    @override
    def loaded(self) -> int:
        return self._head.loaded

    @property
    @override
    def size_bytes(self) -> int:
        return self._head.size_bytes

    @override
    async def compute(self, image: str, choice: Choice) -> Computed:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._head.compute, image, choice)

    @override
    async def finish(self, computed: Computed, image: str) -> Computed:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._head.finish, computed, image)

    @override
    async def extend(self, count: int) -> None:
        start = self.loaded
        self._head.extend(await asyncio.get_running_loop().run_in_executor(None, self._more, start, count))

    @override
    async def trim(self, count: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._head.trim, count)

    @override
    async def rehearse(self) -> None:
        self.slices_ms = await asyncio.get_running_loop().run_in_executor(self._thread, self._head.rehearse)

    @override
    def reseed(self, seed: str) -> None:
        self._head.reseed(seed)

    @override
    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


async def load_torch(served: ServedModel, config: DeviceConfig, get: GetShard) -> HeadRuntime:
    """`LoadHead` for torch. Raises as `load_head`."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"head-{config.name}")
    try:
        head = await asyncio.get_running_loop().run_in_executor(thread, load_head, served, config, get)
    except BaseException:
        thread.shutdown(wait=False)
        raise
    return TorchRuntime(head, thread, lambda start, end: load_more(served, config, get, start, end))
