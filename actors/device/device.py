"""One client device: its head, its cut, its server. A request's own way is in `actors.device.request`.

No Ray here; `actors.fleet.device_actor` wraps it. One head runs at a time, on the device's own thread, in the order of
arrival; sending overlaps with the next heads. A request never raises: whatever happens ends in its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch import nn

from actors.clock.clock import Clock
from actors.device.circuit_breaker import Away, Backlog
from actors.device.config import TAIL, DeviceConfig
from actors.device.head import Computed, Head
from actors.device.head_loader import GetShard, check_cut, load_head, load_more
from actors.device.recovery_probe import Lookout
from actors.device.request import Ask, Asking, TopK
from actors.network.client import Server
from actors.planning.online_planner import Adaptive
from actors.planning.probe import probe
from actors.records.record import Record
from slicer.errors import CodecError, HeadTailError, ImageError, ServerError
from slicer.planning.cut_planner import Choice, Facts
from slicer.protocol.messages import ServedModel

__all__ = ["Ask", "Device", "TopK"]

logger = logging.getLogger("headtail.device")

T = TypeVar("T")

HeadLoader = Callable[[ServedModel, DeviceConfig, GetShard], Head]
MoreLoader = Callable[[ServedModel, DeviceConfig, GetShard, int, int], "list[nn.Module]"]

#: What a description weighs upwards, and how often joining asks for it, to learn the link's round trip.
_JOIN_PINGS = 5

#: A device that can go on alone leaves the server for about so long after a first failure: it can afford to.
_AWAY_S = 0.25


class Device:
    """One client device. All methods are called on one event loop; own device classes derive from this one.

    `compute` is the method to override for another way to run a head (another runtime, an accelerator of its own).

    Args:
        config: what the fleet file says of this device.
        server: where its requests go, link included.
        load: makes the head from what the server describes; `more`: further slices of it.
        on_closed: told every record once it is closed.
        clock: what records and waits go by.

    Attributes:
        choice: the cut and codec of the next image; `planner` changes it, where the fleet file has a ``plan``.
        away: what is known of the server.
        lookout: finds out that it is back, on a device that can go on alone; backlog: what waits, on one that cannot.
        notes: what a person should know of this device.
    """

    def __init__(
        self,
        config: DeviceConfig,
        server: Server,
        *,
        load: HeadLoader = load_head,
        more: MoreLoader = load_more,
        on_closed: Callable[[Record], None] = lambda record: None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.served: ServedModel | None = None
        self.choice = Choice(config.cut, config.codec)
        self.planner: Adaptive | None = None
        self.notes: list[str] = []
        self.token = uuid.uuid4().hex[:12]  # makes the ids of requests this device's own
        self.turn = asyncio.Lock()  # FIFO: the device's queue
        self._server = server
        self._load, self._more = load, more
        self._on_closed = on_closed
        self._head: Head | None = None
        self._small: Head | None = None  # another model, to go on alone with
        self._alone_ms: dict[int, float] = {}
        self._measured_ms: list[float] = []
        self._small_ms: list[float] = []
        self._finishing = 0  # images that wait to be finished here, or are
        self._served_ms = 0.0
        self._reloading = asyncio.Lock()
        self._moving: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"head-{config.name}")
        self._jitter = random.Random(f"{config.seed}/{config.name}/retry")
        first_s = _AWAY_S if config.alone else config.retry.first_pause_s
        self.away = Away(first_s, config.retry.max_pause_s, self._jitter)
        self.backlog = Backlog(self.away, self.clock)
        self.lookout = Lookout(self.away, self.clock, self.reload)

    @property
    def server(self) -> Server:
        """Where its requests go."""
        return self._server

    async def start(self) -> None:
        """Ask the server for the model and load the head, unless the one that is loaded is still served.

        Raises:
            HeadTailError: the server is not there, does not serve the model, or the head does not go with it.
        """
        served = await self._server.describe(self.config.model)
        if self._head is not None and self._head.manifest == served.manifest:
            check_cut(served, self.config)  # the same weights, but perhaps other entries
            self.served = served
            return
        before, self._head = self._head, await self.in_thread(self._load, served, self.config, self._get())
        if before is not None:
            await self.in_thread(before.trim, 0)  # after the image that is at work with it
        self.served = served
        self.choice = Choice(self.config.cut, self.config.codec)
        if self.config.profile.kind == "native":
            self._measured_ms = await self.in_thread(self._head.rehearse)
        await self._prepare_to_go_on_alone(self._head)
        if self.config.plan is not None:
            await self._begin_planning(served)

    async def _begin_planning(self, served: ServedModel) -> None:
        assert self.config.plan is not None
        seed = f"{self.config.seed}/{self.config.name}"
        self.planner = Adaptive(self.config.plan, Facts.of(served), self.config.profile, self.choice, seed)
        for _ in range(_JOIN_PINGS):
            began_s = self.clock.now_s()
            await self._server.describe(self.config.model)
            self.planner.link.small(self.clock.now_s() - began_s)
        await probe(self, self.planner, self.planner.smallest())
        await self.move(self.planner.begin())

    async def _prepare_to_go_on_alone(self, head: Head) -> None:
        alone, config = self.config.alone, self.config
        if alone == TAIL and head.loaded < head.num_slices:
            self.notes.append(f"{config.name} cannot go on alone: {config.model} does not fit its memory budget")
        elif alone and alone != TAIL:
            small = await self._server.describe(alone)
            config = config.model_copy(update={"model": alone, "cut": small.num_slices, "plan": None, "alone": ""})
            self._small = await self.in_thread(self._load, small, config, self._get())
            if config.profile.kind == "native":
                self._small_ms = await self.in_thread(self._small.rehearse)

    def _get(self) -> GetShard:
        loop = asyncio.get_running_loop()

        def get(sha256: str, offset: int, length: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(self._server.shard(sha256, offset, length), loop).result()

        return get

    def begin(self, run_id: str) -> None:
        """Draw everything random as in every other run of this id, so that strategies meet the same device."""
        seed = f"{self.config.seed}/{self.config.name}/{run_id}"
        self._jitter.seed(seed)
        if self._head is not None:
            self._head.reseed(seed)
        if (begin := getattr(self._server, "begin", None)) is not None:
            begin(seed)

    async def turn_to(self, server: Server) -> None:
        """Leave the present server for another one; no request may be open. Raises as `start`."""
        await self.lookout.end()
        await self._server.close()
        self._server = server
        self.away.answered()
        await self.start()

    async def close(self) -> None:
        """Let the thread and the transport go; open requests must have ended."""
        await self.lookout.end()
        for task in (self._moving, self._probing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._server.close()

    @property
    def head_bytes(self) -> int:
        """Bytes of the shards of what is loaded."""
        return sum(head.size_bytes for head in (self._head, self._small) if head is not None)

    @property
    def slices_ms(self) -> tuple[float, ...]:
        """What each slice takes: as the profile says, or of those that are loaded, as measured when it joined.

        Empty for a class with a `compute` of its own, which may run them in another way.
        """
        known = tuple(spread.mean_ms for spread in self.config.profile.slices_ms)
        return known or (tuple(self._measured_ms) if type(self).compute is Device.compute else ())

    @property
    def alone(self) -> str:
        """The model that this device can finish a request with by itself; empty if none."""
        if self._small is not None:
            return self.config.alone
        head = self._head
        return self.config.model if self.config.alone and head is not None and head.loaded == head.num_slices else ""

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call it on the device's own thread, after what was called there before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def beside(self, function: Callable[..., T], *args: Any) -> T:
        """Call it on another thread, while the device's own goes on."""
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def compute(self, image: str, choice: Choice) -> Computed:
        """Run the head over one image, off the event loop. Called for one image at a time."""
        assert self._head is not None, "start() before the first request"
        return await self.in_thread(self._head.compute, image, choice)

    async def finish(self, computed: Computed, image: str) -> Computed:
        """The rest of a request, here, on a device that can go on `alone`. Called for one image at a time."""
        small, head = self._small, self._head
        if small is not None:
            return await self.in_thread(small.compute, image, Choice(small.num_slices, "fp32"))
        assert head is not None and self.alone, "ask `alone` first"
        if computed.manifest != head.manifest:  # the head was reloaded since
            return await self.in_thread(head.compute, image, Choice(head.num_slices, "fp32"))
        return await self.in_thread(head.finish, computed, image)

    async def answer(self, image: str, record: Record, began_s: float, ask: Ask) -> TopK:
        """Answer one image and close its record; the (class, logit) pairs, best first, empty without an answer.

        Args:
            image: path of the image file.
            record: open, with `scheduled_s` set; every other field of the device's is filled here.
            began_s: the device's clock at the start of the run, to which the record's times relate.
        """
        request = Asking(self, image, record, began_s, ask)
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
            logger.exception("device %s failed on %s", self.config.name, image)
            request.close("refused", "device", f"{type(error).__name__}: {error}")
        return ()

    def alone_ms(self, cut: int) -> float:
        """What finishing alone takes after so many slices: as it took lately; before that, as the profile or a
        rehearsal says."""
        known_ms = self._small_ms or self.slices_ms or self._measured_ms
        first = 0 if self._small is not None else cut
        return self._alone_ms.get(cut, sum(known_ms[first:])) * (1 + self._finishing)

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """An image is finished here; those after it wait for it."""
        self._finishing += 1
        try:
            yield
        finally:
            self._finishing -= 1

    def took_alone(self, cut: int, took_ms: float) -> None:
        """Finishing alone took so long."""
        self._alone_ms[cut] = took_ms + 0.8 * (self._alone_ms.get(cut, took_ms) - took_ms)

    @property
    def served_ms(self) -> float:
        """What answers of the server took lately, from sending on."""
        return self._served_ms

    def took_served(self, took_ms: float) -> None:
        """An answer of the server took so long."""
        self._served_ms += 0.1 * (took_ms - self._served_ms) if self._served_ms else took_ms

    def closed(self, record: Record) -> None:
        """A record has its outcome."""
        self._on_closed(record)

    def lose(self, record: Record, message: str) -> None:
        """Close a record whose request was ended from outside."""
        record.outcome, record.code, record.message = "lost", "ended", message
        self._on_closed(record)

    def pause_s(self, attempt: int) -> float:
        """Before the sending after this one, jitter included."""
        return self.config.retry.pause_s(attempt) * self._jitter.uniform(0.5, 1.5)

    async def reload(self, stale: str) -> None:
        """Replace the head of manifest `stale`; once for all requests that were refused for it."""
        async with self._reloading:
            if self._head is not None and self._head.manifest == stale:
                await self.start()

    def reconsider(self, deadline_ms: float | None) -> None:
        """Let the planner decide, if it is time; a move happens beside the requests, which go on meanwhile."""
        planner, now_s = self.planner, self.clock.now_s()
        if planner is None:
            return
        if (asked := planner.probe(now_s)) is not None:
            self._probing = asyncio.create_task(probe(self, planner, asked))
        if not planner.due(now_s) or (self._moving is not None and not self._moving.done()):
            return
        choice = planner.reconsider(now_s, deadline_ms)
        if choice is not None:
            if self._head is not None and choice.cut <= self._head.loaded:
                self._turn_to_choice(choice)  # from this image on
            self._moving = asyncio.create_task(self.move(choice))

    async def move(self, choice: Choice) -> None:
        """Change cut and codec: missing slices are loaded while requests go on with the present ones, and slices that
        are needed no more leave when the last image that began with them has ended."""
        head, served = self._head, self.served
        assert head is not None and served is not None, "start() before move()"
        try:
            if choice.cut > head.loaded:
                more = await self.beside(self._more, served, self.config, self._get(), head.loaded, choice.cut)
                if self._head is not head:
                    return  # other weights are served by now
                head.extend(more)
        except HeadTailError as error:
            logger.warning("device %s stays at cut %d: %s", self.config.name, self.choice.cut, error)
            return
        self._turn_to_choice(choice)
        if self.config.alone != TAIL and choice.cut < head.loaded:
            async with self.turn:  # after the image that is at work with the old cut
                await self.in_thread(head.trim, choice.cut)

    def _turn_to_choice(self, choice: Choice) -> None:
        self.choice = choice
        if self.planner is not None:
            self.planner.present = choice
