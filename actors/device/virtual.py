"""Virtual devices: hundreds of them in one process, each with its own profile, link, cut, arrivals and planner.

What they share is the work: an image's activation at a cut is computed once, by real slices, and replayed for every
device and request after that. How long the device would have taken is its profile's affair, drawn as a device with a
process of its own draws it; nothing sleeps on a thread. Results name both: the emulated device, and ``replayed``.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar, cast

from torch import nn

from actors.device.config import TAIL, DeviceConfig
from actors.device.device import Device
from actors.device.head import Computed, Head
from actors.device.head_loader import GetShard, check_cut, fits_whole, load_head, load_more, manifest_of
from slicer.codecs.registry import as_taken
from slicer.errors import ConfigError
from slicer.planning.cut_planner import Choice
from slicer.profiles.device_profile import NATIVE
from slicer.protocol.messages import ServedModel

T = TypeVar("T")

#: What a crowd says of itself in every result.
REPLAYED = "activations replayed: each image's computed once for all virtual devices"

#: Activations that are kept for replay, in bytes of payload and activation.
KEPT_BYTES = 512 << 20


class Crowd:
    """What the virtual devices of one process share. Used on one event loop; it has one thread for slices.

    Args:
        kept_bytes: of results that are kept; the least recently used ones leave.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._heads: dict[str, Head] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._results: OrderedDict[tuple[str, str, Choice], asyncio.Future[Computed]] = OrderedDict()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crowd")

    async def head_to(self, served: ServedModel, config: DeviceConfig, get: GetShard, cut: int) -> None:
        """The shared slices reach to `cut` at least."""
        lock = self._loading.setdefault(served.manifest, asyncio.Lock())
        async with lock:
            head, loop = self._heads.get(served.manifest), asyncio.get_running_loop()
            if head is None:
                whole = config.model_copy(update={"profile": NATIVE, "cut": cut, "codec": "fp32", "alone": ""})
                open_to_all = replace(served, entries=tuple(range(served.num_slices)))  # each checks its own
                self._heads[served.manifest] = await loop.run_in_executor(
                    self._thread, load_head, open_to_all, whole, get
                )
            elif head.loaded < cut:
                head.extend(await loop.run_in_executor(None, load_more, served, config, get, head.loaded, cut))

    async def computed(self, manifest: str, image: str, choice: Choice) -> Computed:
        """What slices 0:cut make of the image; computed once, whoever asks."""
        key = manifest, image, choice
        future = self._results.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, self._heads[manifest].compute, image, choice)
            self._results[key] = future
            try:
                made = await asyncio.shield(future)
            except Exception:
                self._results.pop(key, None)
                raise
            self._bytes += _size(made)
            while self._bytes > self._kept_bytes and len(self._results) > 1:
                _, old = self._results.popitem(last=False)
                if old.done() and not old.cancelled() and old.exception() is None:
                    self._bytes -= _size(old.result())
            return made
        self._results.move_to_end(key)
        return await asyncio.shield(future)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """On the crowd's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Part:
    """What `Device` keeps as its head: the numbers; the slices are the crowd's."""

    def __init__(self, served: ServedModel, slice_bytes: tuple[int, ...], loaded: int) -> None:
        self.manifest = served.manifest
        self.num_slices = served.num_slices
        self.loaded = loaded
        self._slice_bytes = slice_bytes
        self.rng = random.Random()

    @property
    def size_bytes(self) -> int:
        return sum(self._slice_bytes[: self.loaded])

    def extend(self, slices: list[nn.Module]) -> None:
        self.loaded += len(slices)

    def trim(self, count: int) -> None:
        self.loaded = min(self.loaded, count)

    def reseed(self, seed: str) -> None:
        self.rng.seed(seed)


class VirtualDevice(Device):
    """A device of a crowd. Its profile must be emulated: it has no time of its own."""

    def __init__(self, config: DeviceConfig, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if config.profile.kind != "emulated":
            raise ConfigError(f"virtual device {config.name!r} is native; give its group an emulated profile")
        self._crowd = crowd

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """The crowd's thread; loading a head is asking the crowd for it."""
        if function is self._load:
            served, config, get = args
            return await self._join(served, config, get)  # type: ignore[return-value]
        if getattr(function, "__self__", None) is self._head:
            return function(*args)  # numbers only
        return await self._crowd.call(function, *args)

    async def beside(self, function: Callable[..., T], *args: Any) -> T:
        """Further slices are the crowd's as well."""
        served, config, get, start, end = args
        await self._crowd.head_to(served, config, get, end)
        return [None] * (end - start)  # type: ignore[return-value]

    async def _join(self, served: ServedModel, config: DeviceConfig, get: GetShard) -> _Part:
        check_cut(served, config)
        config.profile.check_model(served.name, served.num_slices)
        manifest = manifest_of(served)
        whole = config.alone == TAIL and fits_whole(manifest, config)
        loaded = served.num_slices if whole else config.cut
        await self._crowd.head_to(served, config, get, loaded)
        part = _Part(served, tuple(shard.size_bytes for shard in manifest.shards), loaded)
        part.reseed(f"{config.seed}/{config.name}")
        return part

    async def compute(self, image: str, choice: Choice) -> Computed:
        """What was computed once, after the time that this device takes."""
        return await self._replay(image, choice, 0)

    async def finish(self, computed: Computed, image: str) -> Computed:
        """See `Device.finish`."""
        part = self._head
        assert part is not None, "start() before the first request"
        return await self._replay(image, Choice(part.num_slices, "fp32"), computed.cut)

    async def _replay(self, image: str, choice: Choice, start: int) -> Computed:
        part, profile, began_s = cast("_Part", self._head), self.config.profile, self.clock.now_s()
        made = await self._crowd.computed(part.manifest, image, choice)
        # In the order in which a `Head` draws, so that both take the same times.
        prepare_ms = 0.0
        if start == 0:
            spread = None if as_taken(choice.codec) else profile.preprocess_ms
            prepare_ms = made.prepare_ms if spread is None else spread.draw_ms(part.rng)
        slices_ms = tuple(spread.draw_ms(part.rng) for spread in profile.slices_ms[start : choice.cut])
        due_s = began_s + (prepare_ms + sum(slices_ms)) / 1e3
        late = self.clock.now_s() > due_s
        await self.clock.until(due_s)
        head_ms = (self.clock.now_s() - began_s) * 1e3
        return replace(made, head_ms=head_ms, overrun=late, prepare_ms=prepare_ms, slices_ms=slices_ms)


def _size(computed: Computed) -> int:
    activation = computed.activation
    return len(computed.payload) + (activation.nbytes if activation is not None else 0) + 500
