"""The engine for accelerators that take a step while another one runs: they never wait for Python.

The next step is enqueued behind the running one, a moment before that is expected to end: so late that rows which
arrive meanwhile can still join, so early that the decision and the launch are done in time. ::

    choose at  expected end of the running step - (time of a decision and a launch, measured) - margin

The margin is what the engine's thread wakes late, measured as well: a larger one costs rows that arrive in it one step
more, a smaller one lets the accelerator idle.

Steps run in the order of their launches, so the scheduler takes a step's rows back when it is launched: whatever it
chooses for them next runs behind it. Rows at the model's end are delivered when their step has really ended.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deployments.engine.engine import Engine
from deployments.engine.forks import Forks
from deployments.engine.intake import Intake
from deployments.engine.ledger import Outcome
from deployments.executors.base import Executor
from deployments.executors.enqueuing import Enqueuing
from deployments.scheduling.scheduler import Row, Scheduler, Step
from slicer.common.thread_timing import sleep_exactly

logger = logging.getLogger("headtail.engine")

#: How late the thread wakes is met by the margin so often. A margin costs the rows that arrive in it one step more;
#: idling costs every row in the engine, and those behind them the more, the busier it is. Of 0.8, 0.95 and 0.98 the
#: second was best: at 440/s the emulated accelerator idles 0.6 instead of 1.8 % of the time (docs/log/, 2026-11-26).
_MET = 0.95

#: The margin at the start, its bounds, and by how much it follows what is measured.
_MARGIN_S, _LEAST_MARGIN_S, _MOST_MARGIN_S, _MARGIN_STEP_S = 3e-4, 5e-5, 1e-3, 1e-5

#: The margin never exceeds this share of the running step, so that binding stays late.
_MOST = 0.5

#: A launch counts for at most so many times what is expected of it.
_OUTLIER = 2.0

#: A new measurement of a span's time, or of the lead, weighs so much against the earlier ones.
_WEIGHT = 0.1


@dataclass(slots=True)
class _Launched:
    """A step that runs or is enqueued."""

    step: Step
    ticket: object
    began_s: float  # when it began, or its launch as long as another one runs
    seen_s: dict[int, float]  # what steps of its span took, by rows
    choose_at_s: float | None = None  # when to choose what follows, once nothing runs before it; None: at its end
    done: Sequence[Row] = ()  # its rows at the model's end


class PipelinedEngine(Engine):
    """`Engine` with at most one step enqueued behind the running one. See `Engine` for arguments and guarantees."""

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
        super().__init__(scheduler, executor, deliver, clock=clock, max_rows=max_rows, intake=intake, forks=forks)
        if not isinstance(executor, Enqueuing):
            raise TypeError(f"executor {executor.name!r} has no launch and wait; use Engine")
        self._queue: Enqueuing[object] = executor
        self._launched: deque[_Launched] = deque()
        self._seen_s: defaultdict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)  # by span and rows
        self._lead_s = _MARGIN_S
        self._margin_s = _MARGIN_S
        self._worked_s = 0.0  # of this thread since the last step ended, up to:
        self._working_from_s = 0.0
        self._slept = False  # whether the thread sleeps until it is to choose

    def turn(self) -> float | None:
        """Do what can be done now, on the engine's thread; never sleeps, but may wait for a step that is to end now.

        Returns after how many seconds there is more to do unless rows arrive; 0.0: at once; None: only if rows arrive.
        """
        self._working_from_s = self._clock()
        try:
            self._admit_now()
            self._queue.flush()
            launched = self._launched
            if not launched:
                return 0.0 if self._launch_next() else None
            choose_at_s = launched[0].choose_at_s
            if len(launched) == 1 and choose_at_s is not None:
                left_s = choose_at_s - self._clock()
                if left_s > 0:
                    self._slept = True
                    return left_s
                if self._slept:
                    self._woke_late(-left_s)
                self._launch_next()
            self._end(launched.popleft())
            return 0.0
        finally:
            self._worked_s += self._clock() - self._working_from_s

    def _work(self) -> None:
        sleep_exactly()
        while self._wait_for_work():
            sleep_s = self.turn()
            if sleep_s == 0.0:
                continue
            if sleep_s is None and self._scheduler.waiting:
                sleep_s = self.ASK_AGAIN_S  # an own policy that waits for something
            if sleep_s is not None:
                self._intake.wait(sleep_s)
        # A step that runs ends, and its rows are answered; one behind it does, too.
        while self._launched:
            self._end(self._launched.popleft())

    def _busy(self) -> bool:
        return bool(self._launched) or super()._busy()

    def _runs_now(self, running: _Launched) -> None:
        """Nothing runs before it any more. Neither lead nor margin change until what follows it is chosen."""
        expected_s = _expected_s(running.seen_s, len(running.step.rows))
        if expected_s is not None:
            margin_s = min(self._margin_s, _MOST * expected_s)
            running.choose_at_s = running.began_s + expected_s - self._lead_s - margin_s

    def _woke_late(self, late_s: float) -> None:
        """Follow the quantile `_MET` of what the thread wakes late, in small steps."""
        self._slept = False
        step_s = _MARGIN_STEP_S * (_MET if late_s > self._margin_s else _MET - 1)
        self._margin_s = min(max(self._margin_s + step_s, _LEAST_MARGIN_S), _MOST_MARGIN_S)

    def _launch_next(self) -> bool:
        asked_s = self._clock()
        step = self._scheduler.next(asked_s)
        if step is None:
            return False
        ended: list[Outcome] = []
        try:
            launched: list[_Launched] = []
            for part, ticket in self._attempt(step, self._queue.launch, ended):
                seen_s = self._seen_s[part.model, part.start, part.end]
                launched.append(_Launched(part, ticket, self._clock(), seen_s))
            idle = not self._launched
            self._launched.extend(launched)
            now_s = self._clock()
            if done := self._scheduler.finish(step, now_s):
                at_end = set(done)
                for one in launched:
                    one.done = [row for row in one.step.rows if row in at_end]
            # A machine that stood still for milliseconds says little about the next launch.
            taken_s = min(self._clock() - asked_s, _OUTLIER * self._lead_s)
            self._lead_s += _WEIGHT * (taken_s - self._lead_s)
            if idle and launched:
                self._runs_now(launched[0])
        finally:
            self._deliver(ended)
        return True

    def _end(self, launched: _Launched) -> None:
        """Wait for a step, book it, deliver its rows at the end."""
        step = launched.step
        worked_s = self._worked_s + self._clock() - self._working_from_s
        execution_s = self._queue.wait(launched.ticket)
        self._worked_s, self._working_from_s = 0.0, self._clock()
        now_s = self._working_from_s
        seen_s, rows = launched.seen_s, len(step.rows)
        before_s = seen_s.get(rows, execution_s)
        seen_s[rows] = before_s + _WEIGHT * (execution_s - before_s)
        if self._launched:  # what stands behind it begins now
            following = self._launched[0]
            following.began_s = max(following.began_s, now_s)
            self._runs_now(following)
        self._book(step, execution_s, now_s)
        self._scheduler.observe(step, execution_s, worked_s)
        if not launched.done:
            return
        ended: list[Outcome] = []
        try:
            # A row that was let go while its step ran is closed, and forgotten by the executor.
            if done := self._ledger.still_open(launched.done):
                self._collect(done, ended)
        finally:
            self._deliver(ended)


def _expected_s(seen_s: dict[int, float], rows: int) -> float | None:
    """How long such a step takes, or rather less, so that the accelerator does not idle; None: nobody knows."""
    if not seen_s or rows in seen_s:
        return seen_s.get(rows)
    fewer = max((count for count in seen_s if count < rows), default=None)
    if fewer is not None:
        return seen_s[fewer]
    more = min(seen_s)
    return seen_s[more] * rows / more


def engine_class(executor: Executor) -> type[Engine]:
    """The engine that goes with an executor."""
    return PipelinedEngine if isinstance(executor, Enqueuing) else Engine
