"""A device on its own: heads by onnxruntime, requests by HTTP, and nothing of Ray or torch."""

from __future__ import annotations

import asyncio
import itertools
import platform
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..client.async_client import AsyncClient
from ..codecs.activations import IMAGE_CODECS
from ..common.loop_thread import LoopThread
from ..device.answer import RequestOptions, TopK
from ..device.device import Device as DeviceCore
from ..errors import ConfigError, ImageError
from ..heads.head_runtime import GetShard, HeadRuntime
from ..heads.onnx_head import OnnxOptions, load_onnx
from ..images.source import ImageSource
from ..network.http_transport import HttpTransport, check_application
from ..planning.settings import Plan, PlanSettings
from ..protocol.messages import ServedModel
from ..records.record import Record
from ..settings import TAIL
from .result import Result, result_of
from .settings import CACHE, CACHE_MAX_BYTES, OwnSpeed, Retry, Settings

#: What an image may be given as; an array is uint8 [H, W, C] or [H, W].
Picture = ImageSource | npt.NDArray[np.uint8]


class AsyncDevice:
    """One device, for asyncio: it runs the first slices of a served model and sends the rest of the work.

    Made anywhere, used on one event loop; calls may overlap. The first call (or `start`) fetches the head.

    Args:
        url: of the application, such as ``http://10.0.0.7:8000/headtail``.
        token: what the server wants as bearer token; default: the environment's HEADTAIL_TOKEN.
        model: may be left out where the server has only one.
        cut: how many slices run here; 0: the image is sent; n: nothing is. None: the device plans, and changes cut
            and codec as its own speed, its link and the server do.
        codec: of what is sent: fp32, fp16, bf16, int8 or int4; at cut 0 also jpeg, png, rgb8. None: fp32, at cut 0
            jpeg; with a plan the first one only.
        plan: how it plans, with `cut` None.
        alone: hold all slices, and finish images here while the server is away.
        top_k: classes in an answer.
        deadline_ms: how long after the call an answer is worth something; None: no deadline.
        int8: heads with weights of 8 bits: a quarter of the size, and not exact.
        threads: that a head is computed on.
        providers: onnxruntime's execution providers, the best first; default: the CPU.
        memory_bytes: what weights and the largest activation may take; None: no limit.
        budget_s: how long one image may take, all attempts together.
        cache: directory of the heads' files; `cache_max_bytes`: what it may hold.
        name: stands in records; default: the host's name.
        on_closed: told the record of every request once it has ended.

    Raises:
        ConfigError: a value is none that goes, or this machine cannot be a device.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        model: str | None = None,
        cut: int | None = None,
        codec: str | None = None,
        plan: PlanSettings | None = None,
        alone: bool = False,
        top_k: int = 5,
        deadline_ms: float | None = None,
        int8: bool = False,
        threads: int = 1,
        providers: Sequence[str] = (),
        memory_bytes: int | None = None,
        budget_s: float = Retry.budget_s,
        cache: str | Path = CACHE,
        cache_max_bytes: int = CACHE_MAX_BYTES,
        name: str | None = None,
        on_closed: Callable[[Record], None] = lambda record: None,
    ) -> None:
        check_machine()
        if cut is not None and plan is not None:
            raise ConfigError(f"cut={cut} and a plan: a device with a plan chooses its cut; give one of the two")
        for what, value in {"top_k": top_k, "threads": threads, "budget_s": budget_s}.items():
            if not value > 0:
                raise ConfigError(f"{what}={value}: it must be above 0")
        self._url, self._token = url, token
        self._transport = HttpTransport(url, token)
        self._model, self._cut, self._codec = model, cut, codec
        self._plan = (plan or Plan()) if cut is None else None
        self._on_closed = on_closed
        self._ask = RequestOptions(top_k, None, deadline_ms)
        self._told = Settings(
            name=name or socket.gethostname() or "device",
            model="",
            cut=0,
            alone=TAIL if alone else "",
            plan=self._plan,
            retry=Retry(budget_s),
            profile=OwnSpeed(memory_bytes),
            onnx=OnnxOptions(Path(cache).expanduser(), cache_max_bytes, threads, tuple(providers), int8),
        )
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self._core: DeviceCore[Settings] | None = None

    async def __aenter__(self) -> AsyncDevice:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def start(self) -> DeviceCore[Settings]:
        """Ask the server, fetch and load the head; once.

        Returns:
            The device's core, for those who want more of it than answers.

        Raises:
            HeadTailError: the server is not there or serves no such model, or the head cannot run here.
        """
        async with self._starting:
            if self._core is None:
                await check_application(self._url)
                served = await self._transport.describe(await self._model_name())
                core = DeviceCore(self._settings(served), self._transport, load=_load, on_closed=self._on_closed)
                try:
                    await core.start()
                except BaseException:  # a later call may try again, by the same connections
                    if core.head is not None:
                        core.head.close()
                    raise
                self._core = core
            return self._core

    async def _model_name(self) -> str:
        if self._model is not None:
            return self._model
        async with AsyncClient(self._url, self._token) as client:
            names = await client.models()
        if len(names) != 1:
            raise ConfigError(f"the server has the models {', '.join(sorted(names)) or 'none'}; name one: model=...")
        return names[0]

    def _settings(self, served: ServedModel) -> Settings:
        cut = self._cut
        if cut is None:  # a plan begins with the least that a device can do itself
            able = [entry for entry in served.entries if entry > 0] or list(served.entries)
            cut = min(able, default=served.num_slices)
        codec = self._codec or ("jpeg" if cut == 0 and "jpeg" in served.codecs else "fp32")
        if cut > 0 and codec in IMAGE_CODECS:
            raise ConfigError(f"codec {codec!r} carries images, which only cut 0 sends; cut {cut} takes fp32 or int8")
        return self._told.changed(model=served.name, cut=cut, codec=codec)

    async def __call__(self, image: Picture) -> Result:
        """The classes of one image: the path or bytes of a file, an image of Pillow, or uint8 [H, W, C] or [H, W].

        Raises:
            ImageError: the image cannot be read.
            RefusedError: with a `code`, such as ``overloaded`` or ``too_late``.
            ServerError: no answer within `budget_s`, and the device cannot go on alone.
        """
        source = source_of(image)
        core = await self.start()
        answer, record = await self.answer(source, core.clock.now_s())
        return result_of(answer, record, core.cut.served.labels if core.cut.served is not None else ())

    async def answer(self, source: ImageSource, began_s: float) -> tuple[TopK, Record]:
        """As a call, but whatever happens ends in the record.

        Args:
            began_s: the core's clock at the start of the run, to which the record's times relate.
        """
        core = await self.start()
        record = Record(
            id=f"{core.config.name}/{next(self._numbers)}",
            device=core.config.name,
            group=core.config.group,
            cut=core.cut.choice.cut,
            image=0,
            label=None,
            scheduled_s=core.clock.now_s() - began_s,
        )
        return await core.answer(source, record, began_s, self._ask), record

    async def batch(self, images: Sequence[Picture]) -> list[Result]:
        """The classes of several images, in order. Heads run one after the other; sending and waiting overlap. Raises
        as a call; the first failure is that of the batch."""
        if isinstance(images, (str, bytes, Path, Image.Image, np.ndarray)):
            raise ConfigError(f"batch of one {type(images).__name__}; give a list of images, or call the device")
        tasks = [asyncio.ensure_future(self(image)) for image in images]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def close(self) -> None:
        """Let the head's thread and the connections go; calling it again is harmless."""
        core, self._core = self._core, None
        if core is not None:
            await core.close()
        else:
            await self._transport.close()


class Device:
    """`AsyncDevice` with calls that block; its event loop runs in a thread of its own. Thread-safe.

    Takes the arguments of `AsyncDevice`; its calls raise the same.

    >>> from headtail_device import Device
    >>> with Device(url, cut=2, codec="int8") as device:
    ...     result = device("photo.jpg")
    ...     print(result.label, result.timings)
    """

    def __init__(self, url: str, token: str | None = None, **arguments: object) -> None:
        self._device = AsyncDevice(url, token, **arguments)  # type: ignore[arg-type]
        self._thread = LoopThread("device", self._device.close)

    def __enter__(self) -> Device:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def start(self) -> None:
        """Fetch and load the head; the first call does it otherwise."""

        async def start() -> None:
            await self._device.start()

        self._thread.run(start)

    def __call__(self, image: Picture) -> Result:
        """The classes of one image."""
        return self._thread.run(lambda: self._device(image))

    def batch(self, images: Sequence[Picture]) -> list[Result]:
        """The classes of several images, in order."""
        return self._thread.run(lambda: self._device.batch(images))

    def close(self) -> None:
        """Let everything go; calling it again is harmless."""
        self._thread.close()


async def _load(served: ServedModel, config: Settings, get: GetShard) -> HeadRuntime:
    return await load_onnx(served, config, get, config.onnx)


def source_of(image: Picture) -> ImageSource:
    """An image as heads take it. Raises ImageError: an array is none of uint8 [H, W, C] or [H, W]."""
    if isinstance(image, (str, Path, bytes, Image.Image)):
        return image
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise ImageError(
            f"an array of {pixels.dtype}, shape {list(pixels.shape)}; an image is uint8 [height, width] or [height, "
            "width, channels] of 1, 3 (RGB) or 4 (RGBA) channels, 0 to 255"
        )
    return Image.fromarray(pixels)


def check_machine() -> None:
    """Raise ConfigError where heads cannot run: onnxruntime has no wheels for 32-bit ARM."""
    machine = platform.machine().lower()
    if machine.startswith("armv") or (machine == "aarch64" and not _is_64_bit()):
        raise ConfigError(
            f"this Python is a 32-bit one on {machine}, for which onnxruntime has no wheels; install a 64-bit system "
            "(Raspberry Pi OS 64-bit, on a Pi 3, 4, 5 or Zero 2)"
        )


def _is_64_bit() -> bool:
    return sys.maxsize > 1 << 32
