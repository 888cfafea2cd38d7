"""Answers of one camera in the order of its frames, whatever the way to the server makes of it."""

from __future__ import annotations

from collections.abc import Callable

from ..records.record import Record
from .answer import TopK

#: Told each record that has its outcome, and its answer: empty without one.
Deliver = Callable[[Record, TopK], None]


class FrameOrder:
    """Hands on outcomes in frame order. An answer that overtook an earlier frame is held until that one has ended.

    A frame ends when it is answered, refused, dropped or lost, so nothing is held for longer than a request may take
    (`retry.budget_s`, the run's drain). Used on one event loop; never blocks.

    Args:
        deliver: told every frame's outcome once, in order.
        now_s: seconds since the start of the run.
    """

    def __init__(self, deliver: Deliver, now_s: Callable[[], float]) -> None:
        self._deliver, self._now_s = deliver, now_s
        self._next = 0
        self._waiting: dict[int, tuple[Record, TopK]] = {}

    def ended(self, number: int, record: Record, answer: TopK) -> None:
        """Frame `number` of this camera, from 0, has its outcome; `held_ms` of an answer is filled when it goes on."""
        self._waiting[number] = record, answer
        at_once = number == self._next
        while self._next in self._waiting:
            ready, said = self._waiting.pop(self._next)
            if ready.outcome == "answered" and ready.finished_s is not None:
                first = at_once and ready is record
                ready.held_ms = 0.0 if first else (self._now_s() - ready.finished_s) * 1e3
            self._next += 1
            self._deliver(ready, said)
