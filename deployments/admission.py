"""The way into the engine: an ``@serve.batch`` handler that admits, and never waits for the engine.

A call brings a request or a parcel of them. What arrives together is decoded into one array and handed over in one
call. What arrives alone is admitted at once: as a batch of one it would spend 0.4 ms in the handler's queue and tasks
(docs/log.md, 2026-11-25).

The handler returns the rows' futures at once and the caller awaits its own (``await (await admit(parcel))``), so rows
finish, fail and are cancelled alone; awaiting the engine inside the handler would chain every row to the slowest of
its admission batch.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ray import serve

from deployments.decoding import decode_rows
from deployments.engine import Engine, Outcome
from deployments.models import HostedModel
from slicer.codec import IMAGE_CODECS
from slicer.wire import Refusal, Request

#: Up to this much is decoded on the event loop (well below 1 ms); more, and any image, goes to a thread, so that the
#: loop is never held.
INLINE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """A checked request, with the moment it reached the replica (engine clock)."""

    model: HostedModel
    request: Request
    arrived_s: float

    @property
    def deadline_s(self) -> float | None:
        """The deadline on the engine's clock."""
        left_ms = self.request.deadline_ms
        return None if left_ms is None else self.arrived_s + left_ms / 1e3


@dataclass(frozen=True, slots=True)
class Admitted:
    """A row that stands in the engine's queue."""

    key: int
    admitted_s: float
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True)
class _Parcel:
    """The requests of one call; `keys`: their rows, once they are admitted; `left`: the caller is gone."""

    arrivals: Sequence[Arrival]
    keys: list[int] = field(default_factory=list)
    left: bool = False


#: What becomes of one request: its outcome and when it was admitted, or why it was not.
Result = tuple[Outcome, float] | Refusal


class Admission:
    """Admits requests to one engine. Use it from one event loop only; the engine has its own thread."""

    def __init__(self, engine: Engine, *, max_batch: int, concurrency: int) -> None:
        self._engine = engine
        self._pending: dict[int, asyncio.Future[Outcome]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at_work = 0  # calls that are being admitted, or were in this turn of the loop

        async def admit(parcels: list[_Parcel]) -> list[list[Admitted | Refusal]]:
            return await self._admit(parcels)

        # Zero wait: the batch is what came in while the last one was admitted. The engine binds late, not this.
        self._batched = serve.batch(
            max_batch_size=max_batch, batch_wait_timeout_s=0.0, max_concurrent_batches=concurrency
        )(admit)

    async def infer(self, arrivals: Sequence[Arrival]) -> list[Result]:
        """Requests of one call through the engine, in order: outcome and moment of admission (engine clock) of each.

        It returns when the last one has ended. A caller that is cancelled takes its rows with it: they leave at the
        next boundary.
        """
        parcel = _Parcel(arrivals)
        try:
            admitted = await self._admitted(parcel)
            return [one if isinstance(one, Refusal) else (await one.outcome, one.admitted_s) for one in admitted]
        except asyncio.CancelledError:
            parcel.left = True  # it may not have been admitted yet
            for key in parcel.keys:
                self._engine.cancel(key)  # harmless for one that has ended
            raise

    async def _admitted(self, parcel: _Parcel) -> list[Admitted | Refusal]:
        """At once where it is alone and soon decoded; else by the batch handler, behind those that it has."""
        alone = not self._at_work and _decoded_inline([arrival.request for arrival in parcel.arrivals])
        self._at_work += 1
        if alone:
            asyncio.get_running_loop().call_soon(self._leave)  # whoever comes in this turn has come together with it
            return (await self._admit([parcel]))[0]  # awaits nothing
        try:
            admitted: list[Admitted | Refusal] = await self._batched(parcel)
            return admitted
        finally:
            self._leave()

    def _leave(self) -> None:
        self._at_work -= 1

    async def _admit(self, parcels: Sequence[_Parcel]) -> list[list[Admitted | Refusal]]:
        parts = [[] if parcel.left else parcel.arrivals for parcel in parcels]
        admitted = iter(await self._admit_all([arrival for part in parts for arrival in part]))
        results = [list(itertools.islice(admitted, len(part))) for part in parts]
        for parcel, result in zip(parcels, results, strict=True):
            parcel.keys = [one.key for one in result if isinstance(one, Admitted)]
            if parcel.left:  # while it was decoded on a thread
                for key in parcel.keys:
                    self._engine.cancel(key)
        return results

    async def _admit_all(self, arrivals: Sequence[Arrival]) -> list[Admitted | Refusal]:
        self._loop = asyncio.get_running_loop()
        groups: dict[tuple[str, int, str], list[int]] = defaultdict(list)
        for index, arrival in enumerate(arrivals):
            groups[arrival.model.name, arrival.request.cut, arrival.request.codec].append(index)
        results: list[Admitted | Refusal | None] = [None] * len(arrivals)
        for (model, cut, _), members in groups.items():
            hosted, requests = arrivals[members[0]].model, [arrivals[index].request for index in members]
            if _decoded_inline(requests):
                rows, refusals = decode_rows(hosted, requests)
            else:
                rows, refusals = await self._loop.run_in_executor(None, decode_rows, hosted, requests)
            good = []
            for index, refusal in zip(members, refusals, strict=True):
                results[index] = refusal
                if refusal is None:
                    good.append(index)
            if not good:
                continue
            # Nothing is awaited between submit and the registration of the futures, so no outcome can be missed.
            arrived_s = [arrivals[index].arrived_s for index in good]
            admitted_s = time.monotonic()  # before submit, from where the engine counts the row's waiting
            keys = self._engine.submit(model, cut, rows, arrived_s, [arrivals[index].deadline_s for index in good])
            for index, key in zip(good, keys, strict=True):
                self._pending[key] = future = self._loop.create_future()
                results[index] = Admitted(key, admitted_s, future)
        return [result for result in results if result is not None]

    def deliver(self, outcomes: list[Outcome]) -> None:
        """The engine's callback, on its thread: one hop to the event loop for all rows that ended together."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, outcomes)

    def _resolve(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            future = self._pending.pop(outcome.key, None)
            if future is not None and not future.done():
                future.set_result(outcome)

    async def healthy(self) -> bool:
        """Whether the admission loop and the engine are alive (the loop can die alone: ray issue 66140)."""
        return self._engine.alive and bool(await self._batched._is_batching_task_alive())


def _decoded_inline(requests: Sequence[Request]) -> bool:
    """Whether decoding them holds the event loop so shortly that it needs no thread."""
    size = sum(len(request.payload) for request in requests)
    return size <= INLINE_BYTES and not any(request.codec in IMAGE_CODECS for request in requests)
