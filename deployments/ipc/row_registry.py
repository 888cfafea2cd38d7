"""Who waits for which row of an engine: several callers hand rows in, and each is told of its own.

One for both forms, so that they cannot differ. It belongs to one thread: the event loop of a process that is front and
core at once, or the engine's in a core of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.ipc.idempotency import Answered
from deployments.ipc.row_sink import RowBatch


class Caller(Protocol):
    """Who hands in rows."""

    #: It has left, and is told nothing more.
    gone: bool

    #: Of the engine, by ticket: its rows that have not ended.
    keys: dict[int, int]

    def told(self, ticket: int, outcome: Outcome) -> None:
        """One of its rows has ended; `Outcome.key` is not the ticket."""

    def tell(self) -> None:
        """That was all for now."""


class _Waiting(NamedTuple):
    caller: Caller
    ticket: int
    key: bytes
    #: What it came with, and which of those rows it is.
    batch: RowBatch
    place: int


class RowRegistry:
    """Before rows come, `engine` is set. Its `deliver` is this one's, called on the registry's thread.

    Attributes:
        engine: what runs the rows.
    """

    engine: Engine

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}  # by the engine's key
        self._early: dict[int, Outcome] = {}  # ended within `Engine.submit`, before its keys were known
        self._answered: Answered[_Waiting] = Answered()

    def __len__(self) -> int:
        """Rows in the engine."""
        return len(self._waiting)

    def submit(self, caller: Caller, first: int, batch: RowBatch) -> None:
        """Rows that came together, with tickets from `first` on.

        Raises:
            ValueError: not one of each per row. Nothing has begun then.
        """
        rows, arrivals_s, deadlines_s, keys, priorities = batch[3:]
        if not len(rows) == len(arrivals_s) == len(deadlines_s) == len(keys) == len(priorities):
            raise ValueError(
                f"{len(rows)} rows, {len(arrivals_s)} arrivals, {len(deadlines_s)} deadlines, {len(keys)} keys, "
                f"{len(priorities)} priorities: one each"
            )
        waiting = [_Waiting(caller, first + i, key, batch, i) for i, key in enumerate(keys)]
        new = [one for one in waiting if not one.key or self._begins(one)]
        if len(new) == len(waiting):
            self._run(new, batch)
        else:
            for one in new:
                self._run_one(one)
            caller.tell()

    def cancel(self, caller: Caller, ticket: int) -> None:
        """Let a row go, if it has not ended."""
        if (key := caller.keys.get(ticket)) is not None:
            self.engine.cancel(key)

    def leave(self, caller: Caller) -> None:
        """Nobody waits for its rows any more."""
        caller.gone = True
        for key in caller.keys.values():
            self.engine.cancel(key)

    def deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Tell whose rows they are, and those who sent the same; without an answer, theirs runs instead."""
        callers: dict[int, Caller] = {}
        for outcome in outcomes:
            one = self._waiting.pop(outcome.key, None)
            if one is None:
                self._early[outcome.key] = outcome
                continue
            del one.caller.keys[one.ticket]
            others = self._answered.end(one.key, outcome) if one.key else []
            if outcome.logits is None and others:
                self._run_instead(others)
                others = []
            for told in (one, *others):
                if not told.caller.gone:
                    told.caller.told(told.ticket, outcome)
                    callers[id(told.caller)] = told.caller
        for caller in callers.values():
            caller.tell()

    def _run_instead(self, others: list[_Waiting]) -> None:
        """The row that they waited for has no answer, so none is kept: the first of them runs, and the others wait."""
        for one in others:
            if not one.caller.gone and self._begins(one):
                self._run_one(one)

    def _begins(self, one: _Waiting) -> bool:
        """Whether it is to run; else it waits for the row of its key, or is told what became of that."""
        begun = self._answered.begin(one.key, one)
        if isinstance(begun, bool):
            return begun
        one.caller.told(one.ticket, begun)
        return False

    def _run_one(self, one: _Waiting) -> None:
        self._run([one], one.batch.part(one.place, 1))

    def _run(self, waiting: Sequence[_Waiting], batch: RowBatch) -> None:
        columns = batch.rows, batch.arrivals_s, batch.deadlines_s, batch.priorities
        keys = self.engine.submit(batch.model, batch.entry, *columns)
        for key, one in zip(keys, waiting, strict=True):
            self._waiting[key] = one
            one.caller.keys[one.ticket] = key
        if self._early:
            self.deliver([self._early.pop(key) for key in keys if key in self._early])
