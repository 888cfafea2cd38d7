"""A head and the one thread that it runs on: `HeadRuntime` for every runtime that blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from typing_extensions import override

from ..images.source import ImageSource
from ..planning.cut_planner import Choice
from .head import Head
from .head_runtime import Computed, HeadRuntime


class ThreadedRuntime(HeadRuntime):
    """`HeadRuntime` by a `Head`, which blocks, on a thread of its own.

    Args:
        head: runs there, and nowhere else.
        thread: with one worker.
        more: slices start:end, fetched and loaded; blocking, called on another thread.
    """

    def __init__(self, head: Head, thread: ThreadPoolExecutor, more: Callable[[int, int], Sequence[Any]]) -> None:
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

    @property
    def outputs(self) -> tuple[str, ...]:
        """As `GivesOutputs`."""
        return self._head.outputs

    @override
    async def compute(self, image: ImageSource, choice: Choice) -> Computed:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._head.compute, image, choice)

    @override
    async def finish(self, computed: Computed, image: ImageSource) -> Computed:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._head.finish, computed, image)

    @override
    async def extend(self, count: int) -> None:
        start = self.loaded
        self._head.extend(await asyncio.get_running_loop().run_in_executor(None, self._more, start, count))

    async def prepare(self, choice: Choice) -> None:
        """As `PreparesCodecs`."""
        await asyncio.get_running_loop().run_in_executor(None, self._head.prepare, choice)

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


async def load_threaded(
    name: str, load: Callable[[], Head], more: Callable[[int, int], Sequence[Any]]
) -> ThreadedRuntime:
    """A head that `load` makes on its thread.

    Args:
        name: of the device, for its thread.
        load: blocking; what it raises passes through.
        more: as of `ThreadedRuntime`.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"head-{name}")
    try:
        head = await asyncio.get_running_loop().run_in_executor(thread, load)
    except BaseException:
        thread.shutdown(wait=False)
        raise
    return ThreadedRuntime(head, thread, more)
