"""One client device: its head, its cut, its server. A request's own way is in `request` beside this.

Neither Ray nor torch here: `actors.device.device` adds heads of torch, and a device without them has its own. One head
runs at a time, in the order of arrival; sending overlaps with the next heads. A request never raises: whatever happens
ends in its record.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

from ..common.clock import Clock
from ..common.error_text import shown
from ..errors import CodecError, HeadTailError, ImageError, ServerError
from ..heads.head_runtime import Computed, GetShard, HeadRuntime, LoadHead
from ..heads.served_model import check_cut, check_outputs
from ..images.source import ImageSource
from ..network.server import Server
from ..planning.cut_planner import Choice
from ..protocol.outputs import Outputs
from ..records.record import Record
from ..settings import DeviceSettings
from .answer import RequestOptions, TopK
from .cut_control import CutControl
from .fallback import Fallback
from .health.server_health import ServerHealth
from .request import PendingRequest
from .turn import Turn

logger = logging.getLogger("headtail.device")


#: What a kind of device is told.
Settings = TypeVar("Settings", bound=DeviceSettings)


class Device(Generic[Settings]):
    """One client device. All methods are called on one event loop; own device classes derive from this one.

    `compute` is the method to override for what a device does around its head; `load` is another way to run heads.

    Args:
        config: what this device is told.
        server: where its requests go, link included.
        load: makes the head from what the server describes.
        on_closed: told every record once it is closed.
        clock: what records and waits go by.

    Attributes:
        head: what is loaded of the model; None before `start`.
        cut: what the server described, which cut and codec the next image takes, and the planner, where the fleet file
            has a ``plan``.
        fallback: how it goes on without the server; health: what it knows of the server.
        turn: held while an image is at work here; first come, first served.
        token: makes the ids and keys of requests this device's own: nobody else has it, or guesses it.
    """

    def __init__(
        self,
        config: Settings,
        server: Server,
        *,
        load: LoadHead[Settings],
        on_closed: Callable[[Record], None] = lambda record: None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.server = server
        self.head: HeadRuntime | None = None
        self.turn = Turn()
        self.token = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self.cut = CutControl(config, self.clock, lambda: self.server, self.turn, self.token)
        self.fallback = Fallback(config)
        self.health = ServerHealth(config, self.clock, self.reload)
        self._load = load
        self._on_closed = on_closed
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """Ask the server for the model and load the head, unless the one that is loaded is still served.

        Raises:
            HeadTailError: the server is not there, does not serve the model, or the head does not go with it.
        """
        served = await self.server.describe(self.config.model)
        before = self.cut.served
        if (
            self.head is not None
            and before is not None
            and self.head.manifest == served.manifest
            and before.calibration_json == served.calibration_json
        ):
            check_cut(served, self.config)  # the same weights, but perhaps other entries; outputs are part of them
            self.cut.served = served
            return
        head = await self._load(served, self.config, self._get())
        try:
            check_outputs(served, self.config, head)
        except HeadTailError:
            head.close()
            raise
        old, self.head = self.head, head
        # At once: a request that goes on meanwhile must not meet the head that is taken away.
        self.fallback.use(self.head)
        self.cut.use(served, self.head)
        if old is not None:
            await old.trim(0)  # after the image that is at work with it
            old.close()
        if self.config.profile.kind == "native":
            await self.head.rehearse()
        await self.fallback.prepare(self._load_other)
        await self.cut.begin()

    async def _load_other(self, model: str) -> HeadRuntime:
        """All of another model."""
        served = await self.server.describe(model)
        config = self.config.changed(model=model, cut=served.num_slices, plan=None, alone="")
        return await self._load(served, config, self._get())

    def _get(self) -> GetShard:
        loop = asyncio.get_running_loop()

        def get(sha256: str, offset: int, length: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(self.server.shard(sha256, offset, length), loop).result()

        return get

    def begin(self, run_id: str) -> None:
        """Draw everything random as in every other run of this id, so that strategies meet the same device."""
        seed = f"{self.config.seed}/{self.config.name}/{run_id}"
        self.health.reseed(seed)
        if self.head is not None:
            self.head.reseed(seed)
        self.server.begin(seed)

    async def turn_to(self, server: Server) -> None:
        """Leave the present server for another one; no request may be open. Raises as `start`."""
        await self.health.recovery.end()
        await self.server.close()
        self.server = server
        self.health.breaker.answered()
        await self.start()

    async def close(self) -> None:
        """Let the threads and the transport go; open requests must have ended."""
        await self.health.recovery.end()
        await self.cut.end()
        self.fallback.close()
        if self.head is not None:
            self.head.close()
        await self.server.close()

    @property
    def head_bytes(self) -> int:
        """Bytes of the shards of what is loaded."""
        return sum(head.size_bytes for head in (self.head, self.fallback.small) if head is not None)

    @property
    def slices_ms(self) -> tuple[float, ...]:
        """What each slice takes: as the profile says, or of those that are loaded, as measured when it joined.

        Empty for a class with a `compute` of its own, which may run them in another way.
        """
        if known := tuple(spread.mean_ms for spread in self.config.profile.slices_ms):
            return known
        return tuple(self.head.slices_ms) if self.head is not None and type(self).compute is Device.compute else ()

    async def compute(self, image: ImageSource, choice: Choice) -> Computed:
        """Run the head over one image, off the event loop. Called for one image at a time."""
        assert self.head is not None, "start() before the first request"
        return await self.head.compute(image, choice)

    async def finish(self, computed: Computed, image: ImageSource) -> Computed:
        """The rest of a request, here, on a device that can go on alone. Called for one image at a time."""
        return await self.fallback.finish(computed, image)

    def received(self, record: Record, outputs: Outputs) -> None:
        """The outputs that an answer holds, where the device asks for some; its record is closed right after.

        An own class uses them. What it raises makes the request a refused one. Called on the event loop, so what takes
        long belongs elsewhere.
        """

    async def answer(self, image: ImageSource, record: Record, began_s: float, ask: RequestOptions) -> TopK:
        """Answer one image and close its record; the (class, logit) pairs, best first, empty without an answer.

        Args:
            image: path of a file, a file's bytes, or an image of Pillow.
            record: open, with `scheduled_s` set; every other field of the device's is filled here.
            began_s: the device's clock at the start of the run, to which the record's times relate.
        """
        key = f"{self.token}/{next(self._numbers)}"
        request = PendingRequest(self, image, record, key, began_s, ask)
        try:
            return await request.run()
        except ImageError as error:
            request.close("refused", "bad_image", str(error))
        except CodecError as error:
            request.close("refused", "not_finite", str(error))
        except ServerError as error:
            request.close("lost", "server", str(error))
        except HeadTailError as error:
            request.close("refused", "device", str(error))
        except Exception as error:  # a bug in a device must not end the run of the others
            logger.exception("device %s failed on %s", self.config.name, shown(image))
            request.close("refused", "device", f"{type(error).__name__}: {error}")
        return ()

    def lost(self, record: Record, message: str) -> None:
        """The run ended first: the request gets no answer any more."""
        record.close("lost", "ended", message)
        self.closed(record)

    def closed(self, record: Record) -> None:
        """A record has its outcome."""
        self._on_closed(record)

    async def reload(self, stale: str) -> None:
        """Replace the head of manifest `stale`; once for all requests that were refused for it."""
        async with self._reloading:
            if self.head is not None and self.head.manifest == stale:
                await self.start()
