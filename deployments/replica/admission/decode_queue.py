"""What takes long to decode (images, very large payloads) waits here for a thread, and no longer than it is of use.

Decoding an image takes longer than its way through many an accelerator, so under overload this queue is the one that
grows. It is bounded in rows and in bytes. A request that cannot be in time is refused when it arrives, as far as the
measured times say so, and again before it is decoded; one whose caller has left is passed over. Requests of several
calls take turns, so that a parcel of images holds up nobody's single one, and each is handed to the engine as soon as
it is decoded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ray import serve

from deployments.executors.base import ReceivedBatch
from deployments.ipc.hosted_model import Receiving
from deployments.replica.admission.calls import Call, CheckedRequest, Place, request_at
from deployments.replica.admission.decode import decode_rows
from slicer.core.codecs.activations import ordinary
from slicer.core.codecs.registry import IMAGE_CODECS
from slicer.core.codecs.transform.names import needs_tables
from slicer.core.protocol.messages import Refusal

#: Hands decoded rows to the engine: their places, the good rows, and per place its refusal or None.
Submit = Callable[[Sequence[Place], ReceivedBatch, Sequence[Refusal | None]], None]

#: Weight of the newest measurement in a smoothed time.
_NEWEST = 0.2


@dataclass(slots=True)
class Smoothed:
    """An exponentially smoothed duration; 0 until the first is seen."""

    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.seconds = seconds if not self.seconds else self.seconds + _NEWEST * (seconds - self.seconds)


class DecodeQueue:
    """Use it from one event loop only.

    Args:
        submit: see `Submit`; called on the event loop.
        in_engine: how many rows the engine holds now.
        most: calls that one handler takes at once.
        threads: decodings at a time.
        max_rows: rows that wait here and in the engine together; more are refused as ``overloaded``.
        max_bytes: encoded bytes that wait here; more are refused as ``overloaded``.
        receiving: makes the memory into which activations are decoded; called on threads.

    Attributes:
        decoding: time of one decoding. `running`: from admission to the outcome, in the engine.
        rows, bytes: that wait here now.
    """

    def __init__(
        self,
        submit: Submit,
        in_engine: Callable[[], int],
        *,
        most: int,
        threads: int,
        max_rows: int,
        max_bytes: int,
        receiving: Receiving = ordinary,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._submit = submit
        self._receiving = receiving
        self._in_engine = in_engine
        self._threads = threads
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._clock = clock
        self._handlers: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, dict[int, int]] = {}  # by call: bytes of its requests that wait, by index
        self.decoding = Smoothed()
        self.running = Smoothed()
        self.rows = 0
        self.bytes = 0

        async def decode(waiting: list[list[Place]]) -> list[None]:
            await self._decode(waiting)
            return [None] * len(waiting)

        # Zero wait: what one handler takes is what came in while the ones before decoded.
        self._batched = serve.batch(max_batch_size=most, batch_wait_timeout_s=0.0, max_concurrent_batches=threads)(
            decode
        )

    def put(self, call: Call) -> None:
        """Take the requests of a call, or end those at once that will not be decoded. Their call ends in due time."""
        taken: list[Place] = []
        for index, checked in enumerate(call.requests):
            refusal = self._full(checked) or self._too_late(checked, self.rows)
            if refusal is not None:
                call.end(index, refusal)
                continue
            size = len(checked.request.payload)
            self.rows += 1
            self.bytes += size
            self._waiting.setdefault(id(call), {})[index] = size
            taken.append((call, index))
        if taken:
            call.ended.add_done_callback(lambda _: self._leave([(call, index) for _, index in taken]))
            task = asyncio.get_running_loop().create_task(self._batched(taken))
            self._handlers.add(task)
            task.add_done_callback(partial(self._handled, call))

    async def healthy(self) -> bool:
        """Whether the loop that gathers is alive (it can die alone: ray issue 66140)."""
        return bool(await self._batched._is_batching_task_alive())

    def _handled(self, call: Call, task: asyncio.Task[None]) -> None:
        self._handlers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            call.fail(error)

    def _full(self, checked: CheckedRequest) -> Refusal | None:
        rows = self.rows + self._in_engine()
        if rows >= self._max_rows:
            said = f"{rows} rows wait here (max_queue_rows)"
        elif self.bytes and self.bytes + len(checked.request.payload) > self._max_bytes:
            said = f"{self.bytes} bytes wait to be decoded (max_queue_bytes is {self._max_bytes})"
        else:
            return None
        return Refusal(checked.request.id, "overloaded", f"{said}; try again later")

    def _too_late(self, checked: CheckedRequest, ahead: int) -> Refusal | None:
        """A refusal, if it cannot be in time with so many others to decode before it."""
        if checked.deadline_s is None:
            return None
        left_s = checked.deadline_s - self._clock()
        need_s = 0.0
        if ahead or self._in_engine():  # where nobody else is, it is tried: times that were long once may be so no more
            need_s = (1 + ahead / self._threads) * self.decoding.seconds
            need_s += self.running.seconds if self._in_engine() else 0.0
        if left_s > need_s:
            return None
        message = (
            f"{left_s * 1e3:.0f} ms are left, and decoding and running it takes about {need_s * 1e3:.0f} ms from now on"
            if left_s > 0
            else "its deadline passed before it was decoded"
        )
        return Refusal(checked.request.id, "too_late", f"{message}; send fewer images, or allow more time")

    async def _decode(self, waiting: Sequence[Sequence[Place]]) -> None:
        """One after another; the first of each call first, then the second of each, and so on."""
        turns = sorted((turn, order) for order, places in enumerate(waiting) for turn in range(len(places)))
        places = [waiting[order][turn] for turn, order in turns]
        done = 0
        try:
            while done < len(places):
                together = _first_batch(places[done:])
                try:
                    await self._decode_some(together)
                except Exception as error:
                    for call, _ in together:
                        call.fail(error)
                finally:
                    done += len(together)
                    self._leave(together)
        finally:
            self._leave(places[done:])

    def _leave(self, places: Sequence[Place]) -> None:
        """They wait no longer: decoded, refused, or their caller has left; each is counted once."""
        for call, index in places:
            waiting = self._waiting.get(id(call), {})
            size = waiting.pop(index, None)
            if size is not None:
                self.rows -= 1
                self.bytes -= size
            if not waiting:
                self._waiting.pop(id(call), None)

    async def _decode_some(self, places: Sequence[Place]) -> None:
        wanted: list[Place] = []
        for call, index in places:
            if call.ended.done():
                continue  # the caller has left
            refusal = self._too_late(call.requests[index], 0)
            if refusal is None:
                wanted.append((call, index))
            else:
                call.end(index, refusal)
        if not wanted:
            return
        began_s = self._clock()
        requests = [request_at(place).request for place in wanted]
        decoded = await asyncio.get_running_loop().run_in_executor(
            None, decode_rows, request_at(wanted[0]).model, requests, self._receiving
        )
        self.decoding.observe((self._clock() - began_s) / len(wanted))
        self._submit(wanted, *decoded)


def _first_batch(places: Sequence[Place]) -> Sequence[Place]:
    """The first place, and those right behind it that are decoded with it: what takes long (an image, an activation
    coded by transform) alone, the others by their kind."""
    first = request_at(places[0])
    if first.request.codec in IMAGE_CODECS or needs_tables(first.request.codec):
        return places[:1]
    for number, place in enumerate(places):
        if _kind(request_at(place)) != _kind(first):
            return places[:number]
    return places


def _kind(checked: CheckedRequest) -> tuple[str, str, int, str]:
    """What is decoded and handed over together."""
    return checked.model.name, checked.request.manifest, checked.request.cut, checked.request.codec
