"""The loop of the server: admit new rows, let the scheduler choose, run, deliver what ended.

::

    while running:
        admit(new rows); drop what was cancelled or is too late
        step = scheduler.next(now_s)
        executor.run(step)
        deliver(rows that ended)

`submit` and `cancel` come from any thread and never wait for the accelerator; everything else happens on the engine's
own thread. Every submitted row gets exactly one `Outcome`, whatever happens: a row that fails fails alone, and an
engine that stops or dies answers for every row it holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.executors import AcceleratorLost, Executor, Floats, OutOfMemory
from deployments.scheduler import Row, Scheduler, Step
from slicer.wire import RefusalCode

logger = logging.getLogger(__name__)

#: How soon an own policy is asked again that lets rows wait although the accelerator is free.
_ASK_AGAIN_S = 0.001


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row ended. Exactly one of `logits` and `code` is set.

    Attributes:
        logits: float32, the model's output for this row without a batch dimension.
        code: why there are none; `message` holds value and remedy.
        queue_s: in the engine but not executing, from `submit` on, all boundaries together.
        execution_s: in steps that succeeded, all together.
        rows_per_step: the rows of each of these steps, in order.
    """

    key: int
    logits: Floats | None
    code: RefusalCode | None = None
    message: str = ""
    queue_s: float = 0.0
    execution_s: float = 0.0
    rows_per_step: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of the engine's counters since it was made, or since `Engine.reset_stats`.

    Attributes:
        started_s: when that was, on the engine's clock; ``busy_s / (now - started_s)`` is the utilisation.
        steps: executions that succeeded; `rows_per_step`: how many of them had so many rows.
        busy_s: seconds of execution in these steps.
        retried: executions that raised and were tried again in smaller parts.
        outcomes: rows that ended, by code; answered ones as ``answered``.
        waiting: rows in the engine, waiting or running, by model.
    """

    started_s: float
    steps: int = 0
    busy_s: float = 0.0
    retried: int = 0
    rows_per_step: Mapping[int, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of all steps together; a row counts once per step."""
        return sum(rows * steps for rows, steps in self.rows_per_step.items())


@dataclass(slots=True)
class _Ticket:
    """What the engine remembers of a row until it ends."""

    row: Row
    submitted_s: float
    execution_s: float = 0.0
    rows_per_step: list[int] = field(default_factory=list)


class Engine:
    """Drives one accelerator.

    Args:
        scheduler: what runs next; the engine's alone from now on.
        executor: loaded; the engine's alone from now on.
        deliver: gets the outcomes of rows that ended: one call per step, and one for the rows that ended before it. It
            runs on the engine's thread (but see `submit` and `stop`), so it must be quick; what it raises is logged.
        clock: seconds, ascending; `Row.arrival_s` and `Row.deadline_s` are on it.
        max_rows: the most rows in the engine, of all models together; `submit` refuses the others.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        deliver: Callable[[list[Outcome]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        max_rows: int = 1024,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows {max_rows}: an engine that holds no row answers none; set 1 or more")
        self._scheduler = scheduler
        self._executor = executor
        self._deliver_to = deliver
        self._clock = clock
        self._max_rows = max_rows
        self._thread: threading.Thread | None = None
        # Guarded by the condition's lock: everything below.
        self._wake = threading.Condition()
        self._next_key = 0
        self._inbox: list[tuple[list[Row], Floats]] = []
        self._cancelled: list[int] = []
        self._tickets: dict[int, _Ticket] = {}
        self._ended_because: str | None = None
        self.reset_stats()

    # ---------------------------------------------------------------- any thread

    @property
    def alive(self) -> bool:
        """Whether rows are taken and its thread runs. Once False after `start`, it stays False."""
        return self._ended_because is None and self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the engine's thread, once."""
        if self._thread is not None:
            raise RuntimeError("the engine was already started; make a new one")
        self._thread = threading.Thread(target=self._run_loop, name="headtail-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        model: str,
        entry: int,
        batch: Floats,
        arrivals_s: Sequence[float],
        deadlines_s: Sequence[float | None],
    ) -> list[int]:
        """Hand over rows that arrived together; never waits for the accelerator. From any thread.

        Args:
            batch: float32 ``[rows, *shape at the entry]``; the engine's from now on, not to be written any more.
            arrivals_s, deadlines_s: one per row, on the engine's clock.

        Returns the rows' keys, in order. Rows that find the engine full or stopped are refused at once: their outcomes
        (``overloaded``, ``stopped``) are delivered on the calling thread before this returns. Those of other rows may
        be, too, on the engine's: register the keys where `deliver` cannot overtake (an event loop does).

        Raises:
            ValueError: the model is unknown, the entry is none of its entries, or the lengths differ.
        """
        policy = self._scheduler.policies.get(model)
        if policy is None or not 0 <= entry < policy.num_slices:
            raise ValueError(f"model {model!r}, entry {entry}: the engine has no such entry")
        if not len(batch) == len(arrivals_s) == len(deadlines_s):
            raise ValueError(f"{len(batch)} rows, {len(arrivals_s)} arrivals, {len(deadlines_s)} deadlines: one each")
        with self._wake:
            stopped = self._ended_because
            count = 0 if stopped is not None else min(len(batch), self._max_rows - len(self._tickets))
            keys = list(range(self._next_key, self._next_key + len(batch)))
            self._next_key += len(batch)
            rows = [Row(keys[i], model, entry, arrivals_s[i], deadlines_s[i]) for i in range(count)]
            now_s = self._clock()
            self._tickets.update((row.key, _Ticket(row, now_s)) for row in rows)
            if rows:
                self._inbox.append((rows, batch[:count]))
                self._wake.notify()
            code: RefusalCode = "overloaded" if stopped is None else "stopped"
            self._outcomes[code] += len(batch) - count
        message = stopped or f"{self._max_rows} rows are in the engine (max_rows); try again later"
        self._deliver([Outcome(key, None, code, message) for key in keys[count:]])
        return keys

    def cancel(self, key: int) -> None:
        """Let a row go before its next step; its outcome is ``cancelled``, or the answer if it ended first."""
        with self._wake:
            self._cancelled.append(key)
            self._wake.notify()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Take no more rows, let the running step end, deliver ``stopped`` for all others, join the thread.

        If the thread has not ended after `timeout_s`, the outcomes are delivered on the calling thread. Calling it
        again, or from `deliver`, is harmless.
        """
        with self._wake:
            self._ended_because = self._ended_because or "the server stops; try again"
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        if self._thread is not threading.current_thread():
            self._end_all()

    def reset_stats(self) -> None:
        """Count from here on: after a warm-up. From any thread; rows in the engine stay."""
        with self._wake:
            self._started_s = self._clock()
            self._steps, self._busy_s, self._retried = 0, 0.0, 0
            self._rows_per_step: Counter[int] = Counter()
            self._outcomes: Counter[str] = Counter()

    def stats(self) -> EngineStats:
        """The counters, consistent with each other."""
        with self._wake:
            return EngineStats(
                started_s=self._started_s,
                steps=self._steps,
                busy_s=self._busy_s,
                retried=self._retried,
                rows_per_step=dict(self._rows_per_step),
                outcomes={code: rows for code, rows in self._outcomes.items() if rows},
                waiting=dict(Counter(ticket.row.model for ticket in self._tickets.values())),
            )

    # ---------------------------------------------------------------- the engine's thread

    def step_once(self) -> Step | None:
        """One turn of the loop, on the calling thread: for tests and simulators, instead of `start`.

        Returns the step that ran; None: there was nothing to run.
        """
        before: list[Outcome] = []
        self._admit(before)
        for row in self._scheduler.expired(self._clock()):
            self._executor.drop(row)
            self._end(before, row.key, code="too_late", message="the deadline passed before the row could run")
        self._deliver(before)

        step = self._scheduler.next(self._clock())
        if step is None:
            return None
        ended: list[Outcome] = []
        self._execute(step, ended)
        done = self._scheduler.finish(step, self._clock())
        if done:
            self._collect(done, ended)
        self._deliver(ended)
        return step

    def _run_loop(self) -> None:
        try:
            while self._wait_for_work():
                if self.step_once() is None and self._scheduler.waiting:
                    with self._wake:  # an own policy that waits for something
                        self._wake.wait(_ASK_AGAIN_S)
        except BaseException as error:
            logger.exception("the engine ends; every row in it is refused")
            with self._wake:
                self._ended_because = f"the server's engine failed ({type(error).__name__}: {error}); try again"
        self._end_all()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False: stop."""
        with self._wake:
            while self._ended_because is None:
                if self._inbox or self._cancelled or self._scheduler.waiting:
                    return True
                self._wake.wait()
            return False

    def _admit(self, ended: list[Outcome]) -> None:
        """Move new rows to the accelerator and the scheduler; then let cancelled ones go, new or not."""
        with self._wake:
            inbox, self._inbox = self._inbox, []
            cancelled, self._cancelled = self._cancelled, []
        for rows, batch in inbox:
            self._put(rows, batch, ended)
        for key in cancelled:
            self._forget(ended, key, "cancelled", "the caller cancelled")

    def _put(self, rows: Sequence[Row], batch: Floats, ended: list[Outcome]) -> None:
        try:
            self._executor.put(rows[0].model, rows, batch)
        except AcceleratorLost:
            raise
        except Exception as error:
            if len(rows) == 1:
                self._refuse(ended, rows[0], error)
                return
            self._count_retry(error)
            half = len(rows) // 2
            self._put(rows[:half], batch[:half], ended)
            self._put(rows[half:], batch[half:], ended)
            return
        for row in rows:
            self._scheduler.add(row)

    def _execute(self, step: Step, ended: list[Outcome]) -> None:
        """Run a step. If it raises, run its parts, so that only a row that cannot run alone is refused."""
        try:
            execution_s = self._executor.run(step)
        except AcceleratorLost:
            raise
        except Exception as error:
            count = len(step.rows)
            if count == 1:
                self._refuse(ended, step.rows[0], error)
                return
            self._count_retry(error)
            # Too big: two halves. Anything else: each row alone, so that one guilty row costs one more turn, not five.
            size = (count + 1) // 2 if isinstance(error, OutOfMemory) else 1
            for start in range(0, count, size):
                self._execute(replace(step, rows=step.rows[start : start + size]), ended)
            return
        with self._wake:
            self._steps += 1
            self._busy_s += execution_s
            self._rows_per_step[len(step.rows)] += 1
            for row in step.rows:
                ticket = self._tickets.get(row.key)
                if ticket is not None:  # `stop` may have answered for it meanwhile
                    ticket.execution_s += execution_s
                    ticket.rows_per_step.append(len(step.rows))

    def _collect(self, done: Sequence[Row], ended: list[Outcome]) -> None:
        try:
            logits = self._executor.take(done)
        except AcceleratorLost:
            raise
        except Exception as error:
            if len(done) == 1:
                self._refuse(ended, done[0], error)
                return
            self._count_retry(error)
            for row in done:
                self._collect([row], ended)
            return
        for row, logits_row in zip(done, logits, strict=True):
            if np.isfinite(logits_row).all():
                self._end(ended, row.key, logits=logits_row)
            else:
                message = "the model's output holds NaN or infinity for this activation; check it, or use fp32"
                self._end(ended, row.key, code="failed", message=message)

    # ---------------------------------------------------------------- how a row ends

    def _refuse(self, ended: list[Outcome], row: Row, error: Exception) -> None:
        """A row that cannot even run alone: its own fault, or no memory for it now."""
        if isinstance(error, OutOfMemory):
            self._forget(ended, row.key, "overloaded", f"the accelerator's memory is full ({error}); try again later")
        else:
            self._forget(ended, row.key, "failed", f"the row failed alone ({type(error).__name__}: {error})")

    def _forget(self, ended: list[Outcome], key: int, code: RefusalCode, message: str) -> None:
        """Take a row out of scheduler and executor, wherever it is, and end it."""
        with self._wake:
            ticket = self._tickets.get(key)
        if ticket is not None:
            self._scheduler.remove(key)
            self._executor.drop(ticket.row)
            self._end(ended, key, code=code, message=message)

    def _end(
        self,
        ended: list[Outcome],
        key: int,
        *,
        logits: Floats | None = None,
        code: RefusalCode | None = None,
        message: str = "",
    ) -> None:
        """Close the row's ticket, once: who takes it out of the dictionary makes the outcome."""
        with self._wake:
            ticket = self._tickets.pop(key, None)
            if ticket is None:
                return
            self._outcomes[code or "answered"] += 1
        queue_s = max(0.0, self._clock() - ticket.submitted_s - ticket.execution_s)
        rows_per_step = tuple(ticket.rows_per_step)
        ended.append(Outcome(key, logits, code, message, queue_s, ticket.execution_s, rows_per_step))

    def _end_all(self) -> None:
        """The engine has ended: refuse every row that is still here."""
        with self._wake:
            keys, reason = list(self._tickets), self._ended_because or ""
            self._inbox.clear()
        ended: list[Outcome] = []
        for key in keys:
            self._end(ended, key, code="stopped", message=reason)
        self._deliver(ended)

    def _deliver(self, ended: list[Outcome]) -> None:
        if not ended:
            return
        try:
            self._deliver_to(ended)
        except Exception:
            logger.exception("deliver raised for %d rows", len(ended))

    def _count_retry(self, error: Exception) -> None:
        logger.warning("an execution failed and is tried again in parts: %s: %s", type(error).__name__, error)
        with self._wake:
            self._retried += 1
