"""The device's part of a model: preprocessing, slices 0:cut and encoding, as one blocking computation per image.

An emulated head computes the same, then sleeps until the time of its profile has passed; the device is busy meanwhile.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from actors.fleet_config import DeviceConfig
from actors.profiles import NATIVE, Profile
from slicer import codec
from slicer.cache import ShardCache
from slicer.errors import ConfigError, CutError, ShardError
from slicer.images import Preprocess
from slicer.manifest import Manifest
from slicer.shards import load_span
from slicer.wire import ServedModel, ShardInfo

#: (sha256, offset, length) -> up to so many bytes of that shard; blocking.
GetShard = Callable[[str, int, int], bytes]

#: What an image becomes, (channels, height, width), float32.
Prepare = Callable[[str], npt.NDArray[np.float32]]

#: Under Serve's message limit of 4 MiB, with room for other traffic in between.
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Computed:
    """What the device made of one image.

    Attributes:
        manifest: digest of the manifest that the head was loaded from.
        shape: of the activation, without batch; `payload`: the activation, encoded; empty for cut n.
        logits: cut n only: the answer itself; else None.
        head_ms: preprocessing and slices, the emulated wait included; `encode_ms`: encoding.
        overrun: this host needed longer than the emulated device would have.
    """

    manifest: str
    shape: tuple[int, ...]
    payload: bytes
    logits: npt.NDArray[np.float32] | None
    head_ms: float
    encode_ms: float
    overrun: bool = False


class Head:
    """Slices 0:cut of one manifest, ready to run. Not thread-safe: one thread, the device's own, makes and runs it.

    Args:
        prepare: preprocessing of an image file.
        module: slices 0:cut; None for cut 0. `dtype` and `accelerator` are where it runs and in what.
        manifest, cut, num_slices, codec: what the computed activation is, for the request.
        size_bytes: of the shards it was loaded from.
        profile: how long slices and preprocessing take, if they are emulated; `seed`: of the times drawn from it.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        prepare: Prepare,
        module: nn.Module | None,
        *,
        manifest: str,
        cut: int,
        num_slices: int,
        codec: str,
        dtype: torch.dtype = torch.float32,
        accelerator: str = "cpu",
        size_bytes: int = 0,
        profile: Profile = NATIVE,
        seed: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.manifest = manifest
        self.size_bytes = size_bytes
        self._cut = cut
        self._whole = cut == num_slices
        self._prepare = prepare
        self._module = module
        self._codec = codec
        self._dtype = dtype
        self._accelerator = accelerator
        self._profile = profile
        self._rng = random.Random(seed)
        self._sleep = sleep

    def reseed(self, seed: str) -> None:
        """Draw emulated times from here on as another head with this seed does."""
        self._rng.seed(seed)

    def compute(self, image: str) -> Computed:
        """One image file to an encoded activation, or to logits at cut n. Blocks for as long as the device would.

        Raises:
            ImageError: the file cannot be read. CodecError: the activation holds NaN or infinity.
        """
        began = time.perf_counter()
        pixels = self._prepare(image)
        prepared = time.perf_counter()
        activation = self._run(pixels)
        ended = time.perf_counter()
        overrun = False
        profile = self._profile
        if profile.kind == "emulated":
            prepare_ms = profile.preprocess_ms
            prepare_s = prepared - began if prepare_ms is None else prepare_ms.draw_ms(self._rng) / 1e3
            left_s = prepare_s + profile.draw_ms(self._cut, self._rng) / 1e3 - (ended - began)
            overrun = left_s < 0
            if left_s > 0:
                self._sleep(left_s)
        head_done = time.perf_counter()
        head_ms = (head_done - began) * 1e3
        if self._whole:
            if not np.isfinite(activation).all():
                codec.encode("fp32", activation)  # says what is wrong, in the same words as for an activation
            return Computed(self.manifest, activation.shape, b"", activation, head_ms, 0.0, overrun)
        payload = codec.encode(self._codec, activation)
        encode_ms = (time.perf_counter() - head_done) * 1e3
        return Computed(self.manifest, activation.shape, payload, None, head_ms, encode_ms, overrun)

    def _run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._module is None:
            return pixels
        with torch.inference_mode():
            # A copy in torch's own memory, whose alignment decides in which order kernels sum.
            x_1CHW = torch.tensor(pixels).unsqueeze(0).to(self._accelerator, self._dtype)
            out: torch.Tensor = self._module(x_1CHW)[0]
            activation: npt.NDArray[np.float32] = out.to("cpu", torch.float32).numpy()
        return activation


def load_head(served: ServedModel, config: DeviceConfig, get: GetShard) -> Head:
    """Fetch what the cache lacks and load slices 0:cut from it. Blocking: the device's own thread calls it.

    Raises:
        CutError: the model has no such cut, or the server takes no requests there.
        ConfigError: codec, profile or memory budget do not go with this model.
        ShardError: a shard or the manifest is not what it should be.
    """
    manifest = Manifest.from_json(served.manifest_json)
    if manifest.digest != served.manifest:
        raise ShardError(
            f"the server announces manifest {served.manifest[:12]} of {served.name!r} but sent {manifest.digest[:12]}; "
            "restart the server"
        )
    check_cut(served, config)
    config.profile.check_model(served.name, served.num_slices)
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
    module = None
    if config.cut:
        cache = ShardCache(Path(config.cache_directory).expanduser(), config.cache_max_bytes)
        try:
            directory = cache.fetch(manifest, 0, config.cut, lambda shard: _pieces(shard, get))
            module = load_span(directory, 0, config.cut).to(config.accelerator)
        finally:
            cache.close()
    return Head(
        Preprocess(manifest.spec),
        module,
        manifest=manifest.digest,
        cut=config.cut,
        num_slices=served.num_slices,
        codec=config.codec,
        dtype=next(module.parameters()).dtype if module is not None else torch.float32,
        accelerator=config.accelerator,
        size_bytes=head_bytes,
        profile=config.profile,
        seed=f"{config.seed}/{config.name}",
    )


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
