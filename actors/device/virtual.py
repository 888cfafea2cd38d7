"""Virtual devices: hundreds of them in one process, each with its own profile, link, cut, arrivals and planner.

What they share is the work: an image's activation at a cut is computed once, by real slices, and replayed for every
device and request after that. How long the device would have taken is its profile's affair, drawn as a device with a
process of its own draws it; nothing sleeps on a thread. Results name both: the emulated device, and ``replayed``.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from actors.device.config import DeviceConfig
from actors.device.head_loader import load_head, load_more
from slicer.core.codecs.registry import as_taken
from slicer.core.common.clock import Clock
from slicer.core.heads.head import Head
from slicer.core.heads.head_runtime import Computed, GetShard, HeadRuntime
from slicer.core.heads.served_model import check_cut, fits_whole, manifest_of
from slicer.core.images.source import ImageSource
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import ServedModel
from slicer.core.settings import TAIL
from slicer.errors import ConfigError
from slicer.profiles.device_profile import NATIVE

#: What a crowd says of itself in every result.
REPLAYED = "activations replayed: each image's computed once for all virtual devices"

#: Activations that are kept for replay, in bytes of payload and activation.
KEPT_BYTES = 512 << 20


class Crowd:
    """What the virtual devices of one process share. Used on one event loop; it has one thread for slices.

    Args:
        kept_bytes: of results that are kept; the least recently used ones leave.
        clock: what the devices' times go by.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._kept_bytes = kept_bytes
        self._heads: dict[str, Head] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._results: OrderedDict[tuple[str, ImageSource, Choice], asyncio.Future[Computed]] = OrderedDict()
        self._bytes = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crowd")

    async def head_to(self, served: ServedModel, config: DeviceConfig, get: GetShard, cut: int) -> None:
        """The shared slices reach to `cut` at least."""
        key = _key(served)
        lock = self._loading.setdefault(key, asyncio.Lock())
        async with lock:
            head, loop = self._heads.get(key), asyncio.get_running_loop()
            if head is None:
                whole = config.model_copy(update={"profile": NATIVE, "cut": cut, "codec": "fp32", "alone": ""})
                open_to_all = replace(served, entries=tuple(range(served.num_slices)))  # each checks its own
                self._heads[key] = await loop.run_in_executor(self._thread, load_head, open_to_all, whole, get)
            elif head.loaded < cut:
                head.extend(await loop.run_in_executor(None, load_more, served, config, get, head.loaded, cut))

    async def prepare(self, head: str, choice: Choice) -> None:
        """What encoding by a choice needs, for all devices of a head."""
        await asyncio.get_running_loop().run_in_executor(None, self._heads[head].prepare, choice)

    async def computed(self, head: str, image: ImageSource, choice: Choice) -> Computed:
        """What slices 0:cut of a head make of the image; computed once, whoever asks."""
        key = head, image, choice
        future = self._results.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, self._heads[head].compute, image, choice)
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

    async def load(self, served: ServedModel, config: DeviceConfig, get: GetShard) -> HeadRuntime:
        """`LoadHead` of a virtual device, whose profile must be emulated: it has no time of its own.

        Raises:
            HeadTailError: as `load_head`; ConfigError for a native profile.
        """
        if config.profile.kind != "emulated":
            raise ConfigError(f"virtual device {config.name!r} is native; give its group an emulated profile")
        check_cut(served, config)
        manifest = manifest_of(served)
        config.profile.check_model(served.name, served.num_slices, manifest.spec.architecture)
        whole = config.alone == TAIL and fits_whole(manifest, config)
        loaded = served.num_slices if whole else config.cut
        await self.head_to(served, config, get, loaded)
        return _Replay(self, served, config, get, loaded)

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Replay:
    """`HeadRuntime` of one virtual device: its numbers and its times; the slices are the crowd's."""

    def __init__(self, crowd: Crowd, served: ServedModel, config: DeviceConfig, get: GetShard, loaded: int) -> None:
        self._crowd, self._served, self._config, self._get = crowd, served, config, get
        self._key = _key(served)
        self.manifest, self.num_slices, self.loaded = served.manifest, served.num_slices, loaded
        manifest = manifest_of(served)
        self._slice_bytes = tuple(shard.size_bytes for shard in manifest.shards)
        self.outputs = tuple(output.name for output in manifest.outputs)
        self.slices_ms: Sequence[float] = ()
        self._rng = random.Random(f"{config.seed}/{config.name}")

    @property
    def size_bytes(self) -> int:
        return sum(self._slice_bytes[: self.loaded])

    async def extend(self, count: int) -> None:
        await self._crowd.head_to(self._served, self._config, self._get, count)
        self.loaded = count

    async def trim(self, count: int) -> None:
        self.loaded = min(self.loaded, count)

    async def prepare(self, choice: Choice) -> None:
        """As `PreparesCodecs`."""
        await self._crowd.prepare(self._key, choice)

    async def rehearse(self) -> None:
        """Its times are the profile's."""

    def reseed(self, seed: str) -> None:
        self._rng.seed(seed)

    def close(self) -> None:
        """The thread is the crowd's."""

    async def compute(self, image: ImageSource, choice: Choice) -> Computed:
        return await self._replay(image, choice, 0)

    async def finish(self, computed: Computed, image: ImageSource) -> Computed:
        return await self._replay(image, Choice(self.num_slices, "fp32"), computed.cut)

    async def _replay(self, image: ImageSource, choice: Choice, start: int) -> Computed:
        """What was computed once, after the time that this device takes."""
        profile, clock = self._config.profile, self._crowd.clock
        began_s = clock.now_s()
        made = await self._crowd.computed(self._key, image, choice)
        # In the order in which a `Head` draws, so that both take the same times.
        prepare_ms = 0.0
        if start == 0:
            spread = None if as_taken(choice.codec) else profile.preprocess_ms
            prepare_ms = made.prepare_ms if spread is None else spread.draw_ms(self._rng)
        slices_ms = tuple(spread.draw_ms(self._rng) for spread in profile.slices_ms[start : choice.cut])
        due_s = began_s + (prepare_ms + sum(slices_ms)) / 1e3
        late = clock.now_s() > due_s
        await clock.until(due_s)
        head_ms = (clock.now_s() - began_s) * 1e3
        return replace(made, head_ms=head_ms, overrun=late, prepare_ms=prepare_ms, slices_ms=slices_ms)


def _key(served: ServedModel) -> str:
    """Of a head: what it was loaded from, and the calibration that its codecs go by."""
    return served.manifest + hashlib.sha256(served.calibration_json.encode()).hexdigest()


def _size(computed: Computed) -> int:
    activation, outputs = computed.activation, computed.outputs
    held = [activation] if activation is not None else []
    held = list(outputs.values()) if outputs is not None else held  # the activation is one of them then
    return len(computed.payload) + sum(array.nbytes for array in held) + 500
