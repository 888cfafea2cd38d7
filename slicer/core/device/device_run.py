"""One measured run of one device: warm up, keep the schedule or the loop, drain, and close the ledger.

Open loop: every arrival has its record before the run starts, and its clock starts at the schedule, whatever the device
or the server do. Closed loop: a record begins when its client asks.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ..records.assignment import Assignment, Closed
from ..records.record import Record
from ..settings import DeviceSettings
from .answer import RequestOptions, TopK
from .device import Device
from .frame_order import Deliver, FrameOrder


class DeviceRun:
    """An assignment on its way through one device, on the device's event loop. Runs once.

    Args:
        deliver: told each record and answer in the order of the arrivals, where the assignment is `in_order`.

    Attributes:
        records: one per intended request, in order of intention; complete and closed when `run` has returned.
    """

    def __init__(
        self, device: Device[Any], assignment: Assignment, *, deliver: Deliver = lambda record, answer: None
    ) -> None:
        self.records: list[Record] = []
        self._device = device
        self._clock = device.clock
        self._assignment = assignment
        self._deliver = deliver
        self._order: FrameOrder | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ask = RequestOptions(
            assignment.top_k,
            assignment.max_age_ms,
            assignment.deadline_ms,
            assignment.in_order,
            device.config.outputs,
        )
        for arrival in assignment.arrivals:
            self._record(arrival.image, arrival.at_s)

    async def warm_up(self) -> tuple[list[TopK], list[Record]]:
        """Ask the assignment's warm-up images one after the other: answers and records, which no statistics hold."""
        began_s = self._clock.now_s()
        answers, records = [], []
        for number, image in enumerate(self._assignment.warmup):
            scheduled_s = self._clock.now_s() - began_s
            record = make_record(self._device.config, self._assignment, image, scheduled_s, f"warmup-{number}")
            ask = RequestOptions(self._assignment.top_k, outputs=self._ask.outputs)
            answers.append(await self._device.answer(self._assignment.images[image], record, began_s, ask))
            records.append(record)
        return answers, records

    async def run(self, start_in_s: float = 0.0) -> list[Record]:
        """Start in so many seconds, follow the assignment, drain; what has no answer then is lost.

        Cancelled, it asks nothing more, and what is on its way has no outcome.
        """
        self._device.begin(self._assignment.run_id)
        began_s = self._clock.now_s() + start_in_s
        try:
            if self._assignment.closed is not None:
                await self._closed(self._assignment.closed, began_s)
            else:
                await self._open(began_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.records

    async def _open(self, began_s: float) -> None:
        if self._assignment.in_order:
            self._order = FrameOrder(self._deliver, lambda: self._clock.now_s() - began_s)
        for number, record in enumerate(self.records):
            due_s = began_s + record.scheduled_s
            await self._clock.until(due_s)
            record.generator_lag_ms = (self._clock.now_s() - due_s) * 1e3
            self._tasks.append(asyncio.create_task(self._one(record, began_s, number)))
        await self._drain()

    async def _closed(self, closed: Closed, began_s: float) -> None:
        turns = itertools.cycle(closed.images)
        numbers = itertools.count() if closed.requests is None else iter(range(closed.requests))
        end_s = None if closed.duration_s is None else began_s + closed.duration_s
        all_begun = asyncio.Event()

        async def client() -> None:
            for _ in numbers:  # shared: each client takes the next request that is left
                await self._one(self._record(next(turns), self._clock.now_s() - began_s), began_s)
                await asyncio.sleep(closed.think_s)
                if end_s is not None and self._clock.now_s() >= end_s:
                    break
            all_begun.set()

        await self._clock.until(began_s)
        self._tasks = [asyncio.create_task(client()) for _ in range(closed.clients)]
        if end_s is not None:
            await asyncio.wait(self._tasks, timeout=end_s - self._clock.now_s())
        else:
            await all_begun.wait()
        await self._drain()

    async def _one(self, record: Record, began_s: float, number: int = 0) -> None:
        answer = await self._device.answer(self._assignment.images[record.image], record, began_s, self._ask)
        if self._order is not None:
            self._order.ended(number, record, answer)

    async def _drain(self) -> None:
        """Wait for what is on its way, then end it."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=self._assignment.drain_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number, record in enumerate(self.records):
            if record.finished_s is None:
                message = (
                    f"no answer {self._assignment.drain_s:g} s after the run's last request began; the server is "
                    "overloaded or gone (`serve status` says which)"
                )
                self._device.lost(record, message)
                if self._order is not None:
                    self._order.ended(number, record, ())

    def _record(self, image: int, scheduled_s: float) -> Record:
        record = make_record(self._device.config, self._assignment, image, scheduled_s, str(len(self.records)))
        self.records.append(record)
        return record


def make_record(config: DeviceSettings, assignment: Assignment, image: int, scheduled_s: float, number: str) -> Record:
    """An open record of one intended request."""
    return Record(
        id=f"{assignment.run_id}/{config.name}/{number}",
        device=config.name,
        group=config.group,
        cut=config.cut,
        image=image,
        label=assignment.labels[image],
        scheduled_s=scheduled_s,
    )


def lost_run(config: DeviceSettings, assignment: Assignment, message: str) -> list[Record]:
    """The records of a run whose device died: every intended request is lost. A closed loop without a number of
    requests has none, since nobody knows what it would have asked."""
    intended = [(arrival.image, arrival.at_s) for arrival in assignment.arrivals]
    if assignment.closed is not None and assignment.closed.requests is not None:
        intended = [
            (image, 0.0)
            for image in itertools.islice(itertools.cycle(assignment.closed.images), assignment.closed.requests)
        ]
    records = [
        make_record(config, assignment, image, at_s, str(number)) for number, (image, at_s) in enumerate(intended)
    ]
    for record in records:
        record.close("lost", "device", message)
    return records
