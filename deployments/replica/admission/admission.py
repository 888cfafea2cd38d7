"""The way to the accelerator: what comes in one turn of the event loop is decoded and handed over together.

Requests of one turn are one array per model, cut and codec, one `submit`, and one waking of who owns the accelerator.
They wait for nothing else: neither for a timer nor for each other's answers, so whoever is alone is admitted at the end
of its turn. What takes long to decode (images, very large payloads) goes through an ``@serve.batch`` handler to a
thread (`deployments.replica.admission.decode_queue`), so that the loop is never held; it delays nobody else. Not
everything does, since a call of such a handler costs as much as all the rest of an admission (docs/log/, 2026-11-26).

A call's rows fail and are refused alone; it returns when its last row has ended. The engine binds late, so a batch of
admission is no batch of execution.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from deployments.engine.ledger import Outcome
from deployments.executors.base import ReceivedBatch
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.idempotency import key_of
from deployments.ipc.row_sink import Deliver, RowBatch, RowSink
from deployments.replica.admission.calls import Call, CheckedRequest, Place, Result, request_at
from deployments.replica.admission.decode import decode_rows
from deployments.replica.admission.decode_queue import DecodeQueue
from slicer.core.codecs.registry import IMAGE_CODECS
from slicer.core.codecs.transform.names import needs_tables
from slicer.core.protocol.messages import DEFAULT_PRIORITY, Refusal, Request

#: A call of up to this much is decoded on the event loop (well below 1 ms); more, and any image, goes to a thread, so
#: that the loop is never held for longer than it took to receive what it decodes.
INLINE_BYTES = 4 << 20

Sink = TypeVar("Sink", bound=RowSink)


class Admission(Generic[Sink]):
    """Admits requests to one sink of rows. Use it from one event loop only.

    Args:
        make_sink: makes the sink, given where its outcomes go; called once.
        most: rows that are decoded and handed over at once, and calls that one handler decodes on threads.
        threads: decodings on threads at a time.
        max_rows, max_bytes: how many may wait, as for `DecodeQueue`.

    Attributes:
        sink: where rows go.
    """

    def __init__(
        self,
        make_sink: Callable[[Deliver], Sink],
        *,
        most: int,
        threads: int,
        max_rows: int = 2048,
        max_bytes: int = 1 << 28,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._pending: dict[int, tuple[Call, int, float]] = {}  # by ticket: the request, and when it was admitted
        self._gathered: list[Call] = []  # in this turn of the loop
        self._clock = clock
        self.sink = make_sink(self.deliver)
        self._decode_queue = DecodeQueue(
            self._submit,
            self._pending.__len__,
            most=most,
            threads=threads,
            max_rows=max_rows,
            max_bytes=max_bytes,
            receiving=self.sink.receiving,
            clock=clock,
        )

    async def infer(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        """Requests of one call, in order: outcome and moment of admission (monotonic clock) of each.

        It returns when the last one has ended. A caller that is cancelled takes its rows with it: they leave at the
        next boundary.
        """
        if not requests:
            return []
        loop = asyncio.get_running_loop()
        call = Call(requests, loop.create_future())
        try:
            if not _soon_decoded(requests):
                self._decode_queue.put(call)
            else:
                if not self._gathered:
                    loop.call_soon(self._admit_gathered)
                self._gathered.append(call)
            await call.ended
        except BaseException:  # cancelled, most often
            call.left, call.results = True, []
            call.ended.cancel()  # it may not have been admitted yet
            for ticket in call.tickets:
                self.sink.cancel(ticket)  # harmless for one that has ended
            raise
        results, call.results = call.results, []
        return [result for result in results if result is not None]

    def _admit_gathered(self) -> None:
        """At the end of a turn of the loop."""
        calls, self._gathered = self._gathered, []
        for places in _batches(calls, self._most):
            with _failing(places):
                self._submit(places, *decode_rows(*_hosted(places), self.sink.receiving))

    def _submit(self, places: Sequence[Place], rows: ReceivedBatch, refusals: Sequence[Refusal | None]) -> None:
        """Hand decoded rows on. Nothing is awaited between that and their registration, so no outcome can be missed."""
        good = []
        for place, refusal in zip(places, refusals, strict=True):
            if refusal is None:
                good.append(place)
            else:
                place[0].end(place[1], refusal)
        if not good:
            return
        requests = [request_at(place) for place in good]
        admitted_s = self._clock()  # before submit, from where the engine counts the row's waiting
        batch = RowBatch(
            requests[0].model.name,
            requests[0].request.manifest,
            requests[0].request.cut,
            rows,
            [checked.arrived_s for checked in requests],
            [checked.deadline_s for checked in requests],
            [key_of(checked.request) for checked in requests],
            [checked.request.priority or DEFAULT_PRIORITY for checked in requests],
        )
        tickets = self.sink.submit(batch)
        for ticket, (call, index) in zip(tickets, good, strict=True):
            self._pending[ticket] = call, index, admitted_s
            call.tickets.append(ticket)
        for call in {id(call): call for call, _ in good}.values():
            if call.left:  # while it was decoded
                for ticket in call.tickets:
                    self.sink.cancel(ticket)

    def deliver(self, outcomes: list[Outcome]) -> None:
        """What became of rows: the sink's callback."""
        for outcome in outcomes:
            if (found := self._pending.pop(outcome.key, None)) is not None:
                call, index, admitted_s = found
                if outcome.logits is not None:
                    self._decode_queue.running.observe(outcome.queue_s + outcome.execution_s)
                call.end(index, (outcome, admitted_s))

    async def healthy(self) -> bool:
        """Whether the sink and the loop that gathers what is decoded on threads are alive."""
        return self.sink.alive and await self._decode_queue.healthy()


def _soon_decoded(requests: Sequence[CheckedRequest]) -> bool:
    """Whether decoding them holds the event loop so shortly that it needs no thread."""
    size = 0
    for checked in requests:
        if checked.request.codec in IMAGE_CODECS or needs_tables(checked.request.codec):
            return False
        size += len(checked.request.payload)
    return size <= INLINE_BYTES


def _batches(calls: Sequence[Call], most: int) -> Iterator[list[Place]]:
    """The requests of calls whose caller is still there, in order, by what is decoded and submitted together."""
    groups: dict[tuple[str, str, int, str], list[Place]] = {}
    for call in calls:
        if call.ended.done():
            continue
        for index, checked in enumerate(call.requests):
            request = checked.request
            kind = checked.model.name, request.manifest, request.cut, request.codec
            groups.setdefault(kind, []).append((call, index))
    for places in groups.values():
        for start in range(0, len(places), most):
            yield places[start : start + most]


@contextlib.contextmanager
def _failing(places: Sequence[Place]) -> Iterator[None]:
    """Whatever is raised inside fails their calls, and no others."""
    try:
        yield
    except Exception as error:
        for call, _ in places:
            call.fail(error)


def _hosted(places: Sequence[Place]) -> tuple[HostedModel, list[Request]]:
    """Their one model, and their requests."""
    return request_at(places[0]).model, [request_at(place).request for place in places]
