"""The demo's devices: one Ray actor that computes heads from the server's shards and sends through the Serve handle."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from actors.network.serve_transport import ServeTransport
from slicer.core.codecs import activations
from slicer.core.protocol.messages import Reply, Request, ServedModel
from slicer.errors import ServerError

if TYPE_CHECKING:
    from torch import nn

    from slicer.models.images import Preprocess

Array = npt.NDArray[np.float32]

#: Requests of one call, and calls that are open at a time, when all images are sent.
PARCEL, OPEN = 24, 4


@dataclass(frozen=True)
class Sent:
    """One request of a live point; moments in seconds on this host's monotonic clock. `done_s` None: no answer."""

    due_s: float
    sent_s: float
    entry: int
    done_s: float | None
    in_server_ms: float | None


class Sender:
    """Everything the demo asks of its applications. An asyncio actor: its methods run on one loop."""

    def __init__(self) -> None:
        from slicer.common.thread_timing import prefer_thread

        prefer_thread()  # a generator that waits for a core behind what it measures would send late
        self._served: dict[tuple[str, str], tuple[ServeTransport, ServedModel]] = {}
        self._slices: dict[str, tuple[Preprocess, list[nn.Module]]] = {}
        self._heads: dict[str, dict[int, list[Array]]] = {}

    async def connect(self, app: str, models: Sequence[str]) -> None:
        """Learn the models of an application that runs."""
        transport = ServeTransport(app)
        for model in models:
            self._served[app, model] = (transport, await transport.describe(model))

    async def compute_heads(self, app: str, model: str, files: Sequence[str]) -> Array:
        """Compute all heads of more images, one by one as devices do, from shards that the server sends.

        Returns:
            Logits of the device that runs all slices alone, [images, classes]; the activations of the other cuts stay
            here, for `ask`.
        """
        import torch

        transport, served = self._served[app, model]
        loop = asyncio.get_running_loop()
        heads = self._heads.setdefault(served.manifest, {cut: [] for cut in range(served.num_slices)})

        def get(sha256: str, offset: int, length: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(transport.shard(sha256, offset, length), loop).result()

        def compute() -> Array:
            if served.manifest not in self._slices:
                torch.set_num_threads(1)
                self._slices[served.manifest] = _fetch(served, get)
            preprocess, slices = self._slices[served.manifest]
            alone = []
            with torch.inference_mode():
                for file in files:
                    x = torch.from_numpy(preprocess(file))[None]
                    for cut, one in enumerate(slices):
                        heads[cut].append(x[0].numpy())
                        x = one(x)
                    alone.append(x[0].numpy())
            return np.stack(alone)

        return await loop.run_in_executor(None, compute)

    async def ask(self, app: str, model: str, seed: int) -> dict[int, Array]:
        """Send every image at every cut, all cuts mixed, and wait for all logits: [images, classes] by cut.

        Raises:
            ServerError: a request was refused.
        """
        transport, served = self._served[app, model]
        heads = self._heads[served.manifest]
        order = [(cut, image) for cut in heads for image in range(len(heads[cut]))]
        random.Random(seed).shuffle(order)
        found = {cut: list[Any]([None] * len(images)) for cut, images in heads.items()}
        turn = asyncio.Semaphore(OPEN)

        def request(cut: int, image: int) -> Request:
            x = heads[cut][image]
            payload = activations.encode("fp32", x)
            return Request(f"{cut}/{image}", model, served.manifest, cut, "fp32", x.shape, payload)

        async def send(parcel: list[tuple[int, int]]) -> None:
            async with turn:
                answers = await transport.infer([request(cut, image) for cut, image in parcel])
            for (cut, image), answer in zip(parcel, answers, strict=True):
                if not isinstance(answer, Reply):
                    raise ServerError(f"image {image} at cut {cut} of {model}: {answer.code}: {answer.message}")
                found[cut][image] = np.frombuffer(answer.logits, "<f4")

        await asyncio.gather(*(send(order[at : at + PARCEL]) for at in range(0, len(order), PARCEL)))
        return {cut: np.stack(logits) for cut, logits in found.items()}

    async def offer(
        self, app: str, model: str, requests: Sequence[tuple[float, int]], shape: Sequence[int]
    ) -> list[Sent]:
        """Send each request (seconds from the start, entry) at its own moment, whatever the server does."""
        from slicer.core.common.clock import Clock

        transport, served = self._served[app, model]
        payload = np.ones(tuple(shape), "<f4").tobytes()
        clock, tasks = Clock(), []
        gc.collect()
        gc.freeze()  # a full collection of all that Ray has imported would be a lag of tens of milliseconds

        async def one(number: int, due_s: float, entry: int) -> Sent:
            sent_s = clock.now_s()
            try:
                [answer] = await transport.infer(
                    [Request(str(number), model, served.manifest, entry, "fp32", tuple(shape), payload)]
                )
            except ServerError:
                return Sent(due_s, sent_s, entry, None, None)
            if not isinstance(answer, Reply):
                return Sent(due_s, sent_s, entry, None, None)
            return Sent(due_s, sent_s, entry, clock.now_s(), answer.timings.total_ms)

        begin_s = clock.now_s() + 0.3
        for number, (offset_s, entry) in enumerate(requests):
            await clock.until(begin_s + offset_s)
            tasks.append(asyncio.get_running_loop().create_task(one(number, begin_s + offset_s, entry)))
        return list(await asyncio.gather(*tasks))


def _fetch(served: ServedModel, get: Callable[[str, int, int], bytes]) -> tuple[Preprocess, list[nn.Module]]:
    """All slices of a model as a device loads them, and its preprocessing. Blocking."""
    from actors.device.config import DeviceConfig
    from actors.device.head_loader import load_more
    from slicer.core.heads.served_model import manifest_of
    from slicer.models.images import Preprocess
    from slicer.profiles.device_profile import NATIVE

    cache = str(Path("~/.cache/headtail/shards").expanduser())
    config = DeviceConfig(
        name="demo",
        group="demo",
        model=served.name,
        cut=0,
        profile=NATIVE,
        cache_directory=cache,
        cache_max_bytes=1 << 30,
    )
    return Preprocess(manifest_of(served).spec), load_more(served, config, get, 0, served.num_slices)
