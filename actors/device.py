"""One client device: image -> head -> encode -> server -> answer, with everything that can go wrong on the way.

No Ray here; `actors.actor` wraps it. One head runs at a time, on the device's own thread, in the order of arrival;
sending overlaps with the next heads. A request never raises: whatever happens ends in its record.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.clock import Clock
from actors.fleet_config import DeviceConfig
from actors.head import Computed, GetShard, Head, check_cut, load_head
from actors.links import Server
from actors.records import Outcome, Record
from slicer.errors import CodecError, HeadTailError, ImageError, ServerError
from slicer.wire import RETRYABLE, Refusal, Reply, Request, ServedModel

logger = logging.getLogger(__name__)

TopK = tuple[tuple[int, float], ...]
HeadLoader = Callable[[ServedModel, DeviceConfig, GetShard], Head]


@dataclass(frozen=True, slots=True)
class Ask:
    """How one request is to be treated; times are the plan's."""

    top_k: int = 5
    max_age_ms: float | None = None
    deadline_ms: float | None = None


class Device:
    """One client device. All methods are called on one event loop; own device classes derive from this one.

    `compute` is the method to override for another way to run a head (another runtime, an accelerator of its own).

    Args:
        config: what the fleet file says of this device.
        server: where its requests go, link included.
        load: makes the head from what the server describes.
        on_closed: told every record once it is closed.
        clock: what records and waits go by.
    """

    def __init__(
        self,
        config: DeviceConfig,
        server: Server,
        *,
        load: HeadLoader = load_head,
        on_closed: Callable[[Record], None] = lambda record: None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.served: ServedModel | None = None
        self._server = server
        self._load = load
        self._on_closed = on_closed
        self._head: Head | None = None
        self._turn = asyncio.Lock()  # FIFO: the device's queue
        self._reloading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"head-{config.name}")
        self._jitter = random.Random(f"{config.seed}/{config.name}/retry")

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
        loop = asyncio.get_running_loop()

        def get(sha256: str, offset: int, length: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(self._server.shard(sha256, offset, length), loop).result()

        self._head = await loop.run_in_executor(self._thread, self._load, served, self.config, get)
        self.served = served

    def begin(self, run_id: str) -> None:
        """Draw everything random as in every other run of this id, so that strategies meet the same device."""
        seed = f"{self.config.seed}/{self.config.name}/{run_id}"
        self._jitter.seed(seed)
        if self._head is not None:
            self._head.reseed(seed)

    async def turn_to(self, server: Server) -> None:
        """Leave the present server for another one; no request may be open. Raises as `start`."""
        await self._server.close()
        self._server = server
        await self.start()

    async def close(self) -> None:
        """Let the thread and the transport go; open requests must have ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._server.close()

    @property
    def head_bytes(self) -> int:
        """Bytes of the shards of the head that is loaded."""
        return self._head.size_bytes if self._head is not None else 0

    async def compute(self, image: str) -> Computed:
        """Run the head over one image, off the event loop. Called for one image at a time."""
        assert self._head is not None, "start() before the first request"
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._head.compute, image)

    async def answer(self, image: str, record: Record, began_s: float, ask: Ask) -> TopK:
        """Answer one image and close its record; the (class, logit) pairs, best first, empty without an answer.

        Args:
            image: path of the image file.
            record: open, with `scheduled_s` set; every other field of the device's is filled here.
            began_s: the device's clock at the start of the run, to which the record's times relate.
        """
        request = _Open(self, image, record, began_s, ask)
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

    def lose(self, record: Record, message: str) -> None:
        """Close a record whose request was ended from outside."""
        record.outcome, record.code, record.message = "lost", "ended", message
        self._on_closed(record)

    async def _reload(self, stale: str) -> None:
        """Replace the head of manifest `stale`; once for all requests that were refused for it."""
        async with self._reloading:
            if self._head is not None and self._head.manifest == stale:
                await self.start()


class _Open:
    """One request on its way; made by `Device.answer`."""

    def __init__(self, device: Device, image: str, record: Record, began_s: float, ask: Ask) -> None:
        self._device = device
        self._config = device.config
        self._image = image
        self._record = record
        self._ask = ask
        self._time = device.clock.now_s
        self._began_s = began_s

    def now_s(self) -> float:
        return self._time() - self._began_s

    def age_ms(self) -> float:
        return (self.now_s() - self._record.scheduled_s) * 1e3

    def close(self, outcome: Outcome, code: str = "", message: str = "") -> None:
        record = self._record
        record.outcome, record.code, record.message = outcome, code, message
        record.finished_s = self.now_s()
        if outcome == "answered":
            record.inference_ms = (record.finished_s - record.scheduled_s) * 1e3
        self._device._on_closed(record)

    async def run(self) -> TopK:
        may_reload = True
        while True:
            computed = await self._compute()
            if computed is None:
                return ()
            if computed.logits is not None:
                return self._finish(best(computed.logits, self._ask.top_k))
            answer = await self._exchange(computed)
            if isinstance(answer, Reply):
                return self._accept(answer)
            if answer.code != "stale" or not may_reload:
                self.close("refused", answer.code, answer.message)
                return ()
            # The activation is of the old weights, so it is made again, with the head that the server wants.
            await self._device._reload(computed.manifest)
            may_reload = False

    async def _compute(self) -> Computed | None:
        record, limit_ms = self._record, self._ask.max_age_ms
        async with self._device._turn:
            first = record.started_s is None
            if first:
                record.started_s = self.now_s()
                record.wait_ms = self.age_ms()
                if limit_ms is not None and record.wait_ms > limit_ms:
                    self.close("dropped", "stale_image", f"{record.wait_ms:.0f} ms old, limit {limit_ms:g} ms")
                    return None
            computed = await self._device.compute(self._image)
        record.head_ms = (record.head_ms or 0.0) + computed.head_ms
        record.encode_ms = (record.encode_ms or 0.0) + computed.encode_ms
        record.overrun = record.overrun or computed.overrun
        record.payload_bytes = len(computed.payload)
        return computed

    async def _exchange(self, computed: Computed) -> Reply | Refusal:
        """Send until there is an answer that another attempt would not change, within the budget.

        Raises:
            ServerError: no answer within the budget, or the server vanished and stayed away.
        """
        retry = self._config.retry
        until_s = self._time() + retry.budget_s
        for attempt in range(1, retry.attempts + 1):
            self._record.attempts += 1
            failure: Refusal | ServerError
            sent_s = self._time()
            try:
                answer = await asyncio.wait_for(self._device._server.infer(self._request(computed)), until_s - sent_s)
            except asyncio.TimeoutError:
                raise ServerError(
                    f"no answer within {retry.budget_s:g} s (retry.budget_s); the server is overloaded or gone"
                ) from None
            except ServerError as error:
                failure = error
            else:
                if isinstance(answer, Reply):
                    total_ms = answer.timings.total_ms
                    self._record.network_ms = max((self._time() - sent_s) * 1e3 - total_ms, 0.0)
                    return answer
                if answer.code not in RETRYABLE:
                    return answer
                failure = answer
            pause_s = retry.pause_s(attempt) * self._device._jitter.uniform(0.5, 1.5)
            if attempt == retry.attempts or self._time() + pause_s >= until_s:
                break
            await asyncio.sleep(pause_s)
        if isinstance(failure, ServerError):
            raise ServerError(f"{failure} (gave up after {attempt} attempts)")
        return failure

    def _request(self, computed: Computed) -> Request:
        deadline_ms = self._ask.deadline_ms
        return Request(
            id=self._record.id,
            model=self._config.model,
            manifest=computed.manifest,
            cut=self._config.cut,
            codec=self._config.codec,
            shape=tuple(computed.shape),
            payload=computed.payload,
            top_k=self._ask.top_k,
            deadline_ms=None if deadline_ms is None else deadline_ms - self.age_ms(),
        )

    def _accept(self, reply: Reply) -> TopK:
        timings = reply.timings
        self._record.admission_ms = timings.admission_ms
        self._record.queue_ms = timings.queue_ms
        self._record.execution_ms = timings.execution_ms
        self._record.rows_per_step = tuple(timings.rows_per_step)
        return self._finish(reply.top_k)

    def _finish(self, top_k: TopK) -> TopK:
        self._record.top1 = top_k[0][0] if top_k else None
        self.close("answered")
        return top_k


def best(logits: npt.NDArray[np.float32], count: int) -> TopK:
    """The `count` highest (class, logit) pairs, best first, equal ones by class."""
    order = np.argsort(-logits.reshape(-1), kind="stable")[:count]
    return tuple((int(index), float(logits.reshape(-1)[index])) for index in order)
