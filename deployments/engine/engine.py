"""The loop of the server: admit new rows, let the scheduler choose, run, deliver what ended.

::

    while running:
        admit(new rows); let go what was cancelled or is too late
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from deployments.engine.batch_limits import BatchLimits
from deployments.engine.forks import Forks
from deployments.engine.intake import Intake, ThreadIntake
from deployments.engine.ledger import EngineStats, Ledger, Outcome
from deployments.engine.trace import StepTrace
from deployments.executors.base import AcceleratorLost, Executor, Floats, OutOfMemory, ReceivedBatch
from deployments.scheduling.scheduler import Row, Scheduler, Step
from slicer.core.protocol.messages import RefusalCode

__all__ = ["Engine", "EngineStats", "Outcome"]

logger = logging.getLogger("headtail.engine")

T = TypeVar("T")

#: Where an engine hands over the outcomes of rows that ended together, on its thread.
Deliver = Callable[[list[Outcome]], None]


class Engine:
    """Drives one accelerator.

    Args:
        scheduler: what runs next; the engine's alone from now on.
        executor: loaded; the engine's alone from now on.
        deliver: gets the outcomes of rows that ended: one call per step, and one for the rows that ended before it. It
            runs on the engine's thread (but see `submit` and `stop`), so it must be quick; what it raises is logged.
        clock: seconds, ascending; `Row.arrival_s` and `Row.deadline_s` are on it.
        max_rows: the most rows in the engine, of all models together; `submit` refuses the others.
        intake: by which rows come in beside `submit`, and how the thread sleeps; None: they come by `submit` only.
        forks: models that run as another one of the scheduler's, and where their outputs lie in its output; rows come
            in, and their outcomes go, as if each were a model of its own.

    Attributes:
        trace: the last steps.

    Raises:
        ValueError: `max_rows` is below 1.
    """

    #: How soon an own policy is asked again that lets rows wait although the accelerator is free.
    ASK_AGAIN_S = 0.001

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        deliver: Callable[[list[Outcome]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        max_rows: int = 1024,
        intake: Intake | None = None,
        forks: Forks | None = None,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows {max_rows}: an engine that holds no row answers none; set 1 or more")
        self._scheduler = scheduler
        self._executor = executor
        self._deliver_to = deliver
        self._clock = clock
        self._max_rows = max_rows
        self._ledger = Ledger(clock, max_rows)
        self._fitting = BatchLimits()
        self._forks: Forks = dict(forks or {})
        self.trace = StepTrace()
        self._thread: threading.Thread | None = None
        self._intake: Intake = intake or ThreadIntake()
        self._lock = threading.Lock()  # guards the three below
        self._inbox: list[tuple[list[Row], ReceivedBatch]] = []
        self._cancelled: list[int] = []
        self._ended_because: str | None = None

    # ------------------------------------------------------------------------------------------------- any thread

    @property
    def alive(self) -> bool:
        """Whether rows are taken and the thread runs. Once False after `start`, it stays False."""
        return self._ended_because is None and self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the engine's thread, once.

        Raises:
            RuntimeError: it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("the engine was already started; make a new one")
        self._thread = threading.Thread(target=self._run_loop, name="headtail-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        model: str,
        entry: int,
        batch: ReceivedBatch,
        arrivals_s: Sequence[float],
        deadlines_s: Sequence[float | None],
        priorities: Sequence[int] | None = None,
    ) -> list[int]:
        """Hand over rows that arrived together; never waits for the accelerator.

        Args:
            batch: ``[rows, *shape at the entry]``, float32 or float16 as it was sent. The engine's from now on: it is
                not to be written any more.
            arrivals_s, deadlines_s: one per row, on the engine's clock.
            priorities: one level per row, see `Row.priority`; None: all have the default.

        Returns the rows' keys, in order. Rows that find the engine full or stopped are refused at once: their outcomes
        (``overloaded``, ``stopped``) are delivered on the calling thread before this returns. Those of other rows may
        be, too, on the engine's: register the keys where `deliver` cannot overtake (an event loop does).

        Raises:
            ValueError: the model is unknown, the entry is none of its slices, or the lengths differ.
        """
        asked, fork = model, self._forks.get(model)
        if fork is not None:
            model = fork.trunk
        policy = self._scheduler.policies.get(model)
        if policy is None or not 0 <= entry < policy.num_slices:
            raise ValueError(f"model {asked!r}, entry {entry}: the engine has no such entry")
        if not len(batch) == len(arrivals_s) == len(deadlines_s):
            raise ValueError(f"{len(batch)} rows, {len(arrivals_s)} arrivals, {len(deadlines_s)} deadlines: one each")
        if priorities is not None and len(priorities) != len(batch):
            raise ValueError(f"{len(batch)} rows, {len(priorities)} priorities: one each")
        with self._lock:
            ended_because = self._ended_because
            none = ended_because is not None
            rows, count = self._ledger.open(
                model, entry, arrivals_s, deadlines_s, priorities, fork="" if fork is None else asked, none=none
            )
            if count:
                self._inbox.append((rows, batch) if count == len(rows) else (rows[:count], batch[:count]))
        if count:
            self._intake.ring()
        if count < len(rows):
            code: RefusalCode = "overloaded" if ended_because is None else "stopped"
            full = f"{self._max_rows} rows are in the engine (max_rows); try again later"
            self._deliver(self._ledger.turn_away(rows[count:], code, ended_because or full))
        return [row.key for row in rows]

    def cancel(self, key: int) -> None:
        """Let a row go before its next step; its outcome is ``cancelled``, or the answer if it ended first."""
        with self._lock:
            if self._ended_because is None:
                self._cancelled.append(key)
        self._intake.ring()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Take no more rows, let the running step end, deliver ``stopped`` for all others, join the thread.

        If the thread has not ended after `timeout_s`, the outcomes are delivered on the calling thread. Calling it
        again, or from `deliver`, is harmless.
        """
        with self._lock:
            self._ended_because = self._ended_because or "the server stops; try again"
        self._intake.ring()
        if self._thread is threading.current_thread():
            return  # the loop ends after this step, and refuses the rest itself
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._refuse_all()

    def stats(self) -> EngineStats:
        """The counters, consistent with each other."""
        return self._ledger.stats()

    def reset_stats(self) -> None:
        """Count from here on, after a warm-up; rows in the engine stay."""
        self._ledger.reset_stats()

    # ----------------------------------------------------------------------------------------- the engine's thread

    def step_once(self) -> Step | None:
        """One turn of the loop, on the calling thread: for warm-up, tests and simulators, not beside `start`.

        Returns the step that ran; None: there was nothing to run.
        """
        self._admit_now()
        asked_s = self._clock()
        step = self._scheduler.next(asked_s)
        if step is None:
            return None
        ended: list[Outcome] = []
        try:
            began_s = self._clock()
            execution_s = self._execute(step, ended)
            ran_s = self._clock()
            done = self._scheduler.finish(step, ran_s)
            if execution_s is not None:
                # Beside the execution: the decision, the books, and what the executor does before and after it.
                overhead_s = began_s - asked_s + max(ran_s - began_s - execution_s, 0.0) + self._clock() - ran_s
                self._scheduler.observe(step, execution_s, overhead_s)
            if done:
                self._collect(done, ended)
        finally:
            self._deliver(ended)
        return step

    def _run_loop(self) -> None:
        try:
            self._work()
        except BaseException as error:
            logger.exception("the engine ends; every row in it is refused")
            with self._lock:
                self._ended_because = f"the server's engine failed ({type(error).__name__}: {error}); try again"
        self._refuse_all()
        self._intake.ended()

    def _work(self) -> None:
        while self._wait_for_work():
            if self.step_once() is None and self._scheduler.waiting:  # an own policy that waits for something
                self._intake.wait(self.ASK_AGAIN_S)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False: stop."""
        while self._ended_because is None:
            if self._busy():
                return True
            self._intake.wait(None)
            self._intake.collect()
        return False

    def _busy(self) -> bool:
        return bool(self._inbox or self._cancelled or self._scheduler.waiting)

    def _admit_now(self) -> None:
        """Take new rows in; then let go what was cancelled or is too late, be it new or between two slices."""
        self._intake.collect()
        # What comes from here on rings, and is seen in the next turn.
        if not (self._inbox or self._cancelled or self._scheduler.has_deadlines):
            return
        ended: list[Outcome] = []
        try:
            self._admit(ended)
        finally:  # also when the engine is about to end: a closed row has no other outcome than this one
            self._deliver(ended)

    def _admit(self, ended: list[Outcome]) -> None:
        with self._lock:
            inbox, self._inbox = self._inbox, []
            cancelled, self._cancelled = self._cancelled, []
        for rows, batch in inbox:
            self._put(rows, batch, ended)
        for key in cancelled:
            self._refuse(key, "cancelled", "the caller cancelled", ended)
        if self._scheduler.has_deadlines:
            for row in self._scheduler.expired(self._clock()):
                message = "the deadline passed, or cannot be met any more, before the row could run; allow more time"
                self._refuse(row.key, "too_late", message, ended)

    def _put(self, rows: Sequence[Row], batch: ReceivedBatch, ended: list[Outcome]) -> None:
        """Move new rows to the accelerator; if it raises, in halves, so that only a row that fails alone is refused."""
        try:
            self._executor.put(rows[0].model, rows, batch)
        except AcceleratorLost:
            raise
        except Exception as error:
            if len(rows) == 1:
                self._refuse_for(error, rows[0], ended)
                return
            self._note_retry(error)
            half = len(rows) // 2
            self._put(rows[:half], batch[:half], ended)
            self._put(rows[half:], batch[half:], ended)
            return
        for row in rows:
            self._scheduler.add(row)

    def _execute(self, step: Step, ended: list[Outcome]) -> float | None:
        """Run a step, or its parts. Returns the seconds of execution; None if it ran in parts or not at all."""
        whole_s = None
        for part, execution_s in self._attempt(step, self._executor.run, ended):
            self._book(part, execution_s, self._clock())
            if part is step:
                whole_s = execution_s
        return whole_s

    def _book(self, step: Step, execution_s: float, ended_s: float) -> None:
        """A step succeeded, and has just ended."""
        self._ledger.book_step(step.rows, execution_s)
        self.trace.add(step.model, step.start, step.end, step.rows, ended_s, execution_s)

    def _attempt(self, step: Step, do: Callable[[Step], T], ended: list[Outcome]) -> Iterable[tuple[Step, T]]:
        """Do something with a step; where it raises, or is known not to fit, with its parts.

        So only a row that fails alone is refused. What succeeded, and with what result; parts are done one by one, as
        they are asked for.
        """
        if self._fitting and (size := self._fitting.part(step, self._clock())) < len(step.rows):
            parts = parts_of(step, size)
        else:
            try:
                done = do(step)
            except AcceleratorLost:
                raise
            except Exception as error:
                parts = self._parts_after(error, step, ended)
            else:
                return ((step, done),)
        return (tried for part in parts for tried in self._attempt(part, do, ended))

    def _parts_after(self, error: Exception, step: Step, ended: list[Outcome]) -> list[Step]:
        """What to try after a step raised; a row that was alone is refused instead."""
        count = len(step.rows)
        if count == 1:
            self._refuse_for(error, step.rows[0], ended)
            return []
        self._note_retry(error)
        # Too big: two halves. Anything else: each row alone.
        if not isinstance(error, OutOfMemory):
            return parts_of(step, 1)
        self._fitting.failed(step, self._clock())
        return parts_of(step, (count + 1) // 2)

    def _collect(self, done: Sequence[Row], ended: list[Outcome]) -> None:
        """Fetch the logits of rows at the end; NaN or infinity in them is a failure of that row."""
        try:
            logits_BC = self._executor.take(done)
        except AcceleratorLost:
            raise
        except Exception as error:
            if len(done) == 1:
                self._refuse_for(error, done[0], ended)
                return
            self._note_retry(error)
            for row in done:
                self._collect([row], ended)
            return
        answers_B = self._own(done, logits_BC)
        if np.isfinite(logits_BC).all():
            ended += self._ledger.answer(done, answers_B)
            return
        for row, answer in zip(done, answers_B, strict=True):
            if np.isfinite(answer).all():
                ended += self._ledger.answer([row], [answer])
            else:
                message = "the model's output for this activation holds NaN or infinity; check it, or serve fp32"
                self._refuse(row.key, "failed", message, ended)

    def _own(self, rows: Sequence[Row], logits_BC: Floats) -> Floats | list[Floats]:
        """Of what the model's last slice gave, what the rows' own models would have given."""
        if not self._forks:
            return logits_BC
        pairs = zip(rows, logits_BC, strict=True)
        return [self._forks[row.fork].cut(logits) if row.fork else logits for row, logits in pairs]

    # --------------------------------------------------------------------------------------- rows without an answer

    def _refuse_for(self, error: Exception, row: Row, ended: list[Outcome]) -> None:
        """A row that cannot even run alone: its own fault, or no memory for it now."""
        if isinstance(error, OutOfMemory):
            message = f"the accelerator's memory is full ({error}); try again later"
            self._refuse(row.key, "overloaded", message, ended)
        else:
            self._refuse(row.key, "failed", f"the row failed alone ({type(error).__name__}: {error})", ended)

    def _refuse(self, key: int, code: RefusalCode, message: str, ended: list[Outcome]) -> None:
        """Take a row out of scheduler and executor, wherever it is, and close it. Nothing if it is closed already."""
        row = self._ledger.find(key)
        if row is None:
            return
        self._scheduler.remove(key)
        self._executor.drop(row)
        if (outcome := self._ledger.refuse(key, code, message)) is not None:
            ended.append(outcome)

    def _refuse_all(self) -> None:
        """The engine has ended: nothing runs any more, so the ledger alone decides."""
        reason = self._ended_because or "the server stops; try again"
        outcomes = [self._ledger.refuse(key, "stopped", reason) for key in self._ledger.open_keys()]
        self._deliver([outcome for outcome in outcomes if outcome])

    def _deliver(self, ended: list[Outcome]) -> None:
        if not ended:
            return
        try:
            self._deliver_to(ended)
        except Exception:
            logger.exception("deliver raised for %d rows", len(ended))

    def _note_retry(self, error: Exception) -> None:
        logger.warning("an execution failed and is tried again in parts: %s: %s", type(error).__name__, error)
        self._ledger.book_retry()


def parts_of(step: Step, size: int) -> list[Step]:
    """The step in steps of at most `size` rows, in order."""
    return [replace(step, rows=step.rows[start : start + size]) for start in range(0, len(step.rows), size)]
