"""What runs next on one accelerator: pure state and arithmetic, no clock, no threads, no ray, no torch.

A `Policy` decides for one model which rows form the next step and over which span; the `Scheduler` picks among the
models that share the accelerator, and keeps account of every row, so that a policy with a mistake in it is found out
instead of losing a request. Time comes in as an argument, so a simulator can drive the very same code in virtual time.

Nothing here is thread-safe: one thread, the engine's, owns a scheduler and its policies.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from slicer.core.protocol.messages import DEFAULT_PRIORITY

#: Name of the one copy of the weights that all entries use together.
SHARED = "shared"


class PolicyError(RuntimeError):
    """A policy broke its contract (a mistake in an own strategy): the engine stops instead of losing rows."""


@dataclass(slots=True, eq=False, init=False)
class Row:
    """One request in the engine. Filled by the engine, except for `boundary`. Rows are compared by identity.

    Attributes:
        key: unique in the engine, ascending in the order of submission.
        model: the model's name in the application.
        entry: the cut at which it entered the server.
        arrival_s: when it arrived at the server, on the engine's clock.
        deadline_s: from then on the answer is worthless, same clock; None: no deadline.
        priority: its level: 1 is served first, then 2, ... A default row has `DEFAULT_PRIORITY`. Never changes.
        fork: the model that it was sent to, where that runs on the trunk of `model`; empty: `model` itself.
        boundary: how many slices have run. Starts at `entry`; moved on by `Policy.finish` only.
        rank: its policy's alone, which may keep here what it sorts rows by.

    The others are marks of the scheduler (`place`) and of the engine's ledger, who need not look a row up in each step.
    """

    key: int
    model: str
    entry: int
    arrival_s: float
    deadline_s: float | None
    priority: int
    fork: str = field(init=False)
    boundary: int = field(init=False)
    rank: Any = field(init=False, repr=False)
    place: object = field(init=False, repr=False)  # whether it waits or runs, and in which scheduler
    opened_s: float = field(init=False, repr=False)  # when it came into the engine
    execution_s: float = field(init=False, repr=False)  # of all its steps so far
    rows_per_step: list[int] = field(init=False, repr=False)  # of each of these steps

    # By hand: one call instead of two, for every request.
    def __init__(
        self,
        key: int,
        model: str,
        entry: int,
        arrival_s: float,
        deadline_s: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        self.key = key
        self.model = model
        self.entry = self.boundary = entry
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.priority = priority
        self.fork = ""
        self.rank = self.place = None
        self.opened_s = self.execution_s = 0.0
        self.rows_per_step = []


@dataclass(frozen=True, slots=True)
class Step:
    """One execution on the accelerator: slices ``start:end`` of one model on one batch.

    Attributes:
        weights: which resident weights run it, a key of `Policy.residents`: ``shared``, or ``tail3`` for a copy of its
            own of entry 3's tail.
        rows: at least one, each of them at boundary `start`, in the order of the batch.
    """

    model: str
    weights: str
    start: int
    end: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Resident:
    """Weights that must be on the accelerator: slices ``start:end``; `own_copy`: shared with no other resident."""

    start: int
    end: int
    own_copy: bool


class Policy(Protocol):
    """How one model's rows are batched. One policy object serves one model.

    The shipped ones serve the lowest level that waits (`Row.priority`) before the others, strictly: as long as rows of
    a lower level keep the accelerator busy, the others wait. An own policy may do so; a `QueuePolicy` does.

    A row is in exactly one place: waiting in the policy (from `add` to `next`, or from `finish` to `next`), or running
    (from `next` to `finish`). Steps of one model may be finished in another order than they were begun.

    A configuration names an own one as ``strategy: package.module:Class``; it is called with model, num_slices,
    max_batch, max_wait_s and the model's ``options``. `QueuePolicy` has all of it but `next`:

    >>> from dataclasses import dataclass
    >>> from deployments.scheduling import SHARED, QueuePolicy, Row, Step
    >>> @dataclass
    ... class DeepestTail(QueuePolicy):
    ...     def next(self, now_s):
    ...         filled = [boundary for boundary, rows in self.queues.items() if rows]
    ...         if not filled:
    ...             return None
    ...         start = max(filled)
    ...         return Step(self.model, SHARED, start, self.num_slices, self.take(start))
    >>> policy = DeepestTail("vit", num_slices=4, max_batch=8)
    >>> for key, entry in enumerate([0, 2, 2]):
    ...     policy.add(Row(key, "vit", entry, arrival_s=0.0))
    >>> step = policy.next(now_s=0.1)
    >>> step.start, step.end, [row.key for row in step.rows], policy.waiting
    (2, 4, [1, 2], 1)
    >>> [row.key for row in policy.finish(step)]
    [1, 2]
    """

    @property
    def num_slices(self) -> int:
        """Slices of the model; a row at this boundary has reached the end."""

    @property
    def max_batch(self) -> int:
        """The most rows of a step."""

    @property
    def waiting(self) -> int:
        """Rows that wait; those of running steps are not counted."""

    def residents(self, entries: Sequence[int]) -> Mapping[str, Resident]:
        """The weights that steps will name when rows enter at `entries` only; the executor loads them at the start."""

    def add(self, row: Row) -> None:
        """Let a new row wait."""

    def remove(self, row: Row) -> None:
        """Forget a waiting row: it was cancelled, or its deadline has passed."""

    def urgency_s(self) -> float | None:
        """When the most urgent waiting row is due: its deadline, else arrival + the longest wait; None: none waits."""

    def next(self, now_s: float) -> Step | None:
        """Choose a span and rows; these rows then run. None: nothing to run now."""

    def finish(self, step: Step) -> list[Row]:
        """Move the rows on to `step.end`: return those at the model's end, let the others wait again.

        Rows that failed or left while the step ran are no longer in `step.rows`, which may be empty.
        """


@runtime_checkable
class CostAware(Protocol):
    """What a policy may offer beside `Policy` when it knows what steps cost."""

    def remaining_s(self, row: Row) -> float:
        """The least time that the row still needs from its boundary on; 0 if that is not known."""

    def observe(self, step: Step, execution_s: float, overhead_s: float) -> None:
        """A step succeeded in so many seconds on the accelerator, and cost so many more for deciding and the books."""


@dataclass(slots=True, eq=False)
class _Served:
    """A model and its rows. `Row.place` is `waits` while a row waits, and `runs` while it runs."""

    model: str
    policy: Policy
    cost_aware: CostAware | None
    waiting: int = 0
    waits: object = field(default_factory=object)
    runs: object = field(default_factory=object)


#: `Row.place` of a row that has reached the end, until its policy has handed it over.
_ENDED = object()


class Scheduler:
    """Several models on one accelerator: the one with a row of the lowest level goes first, then the most urgent.

    Args:
        policies: model name -> its policy. Not changed afterwards, so `policies` may be read from any thread.
    """

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self.policies: Mapping[str, Policy] = dict(policies)
        self._served = {
            model: _Served(model, policy, policy if isinstance(policy, CostAware) else None)
            for model, policy in self.policies.items()
        }
        self._in_order = list(self._served.values())
        self._rows: dict[int, Row] = {}  # all that wait or run
        self._has_levels = False  # whether any row ever had another level than the default
        #: Whether any row ever had a deadline, so that `expired` may find one.
        self.has_deadlines = False
        self._deadlines: list[tuple[float, int]] = []  # (when the row must run at the latest, or earlier; key)

    @property
    def waiting(self) -> int:
        """Rows that wait, of all models."""
        return sum(served.waiting for served in self._in_order)

    def add(self, row: Row) -> None:
        """Let a new row wait.

        Raises:
            KeyError: no policy for its model.
            ValueError: its key is already here, or its entry is no slice of the model.
        """
        served = self._served[row.model]
        policy = served.policy
        if row.key in self._rows:
            raise ValueError(f"row {row.key} is already in the scheduler; keys are unique")
        if not 0 <= row.entry < policy.num_slices:
            raise ValueError(f"row {row.key} enters {row.model} at {row.entry} of {policy.num_slices} slices")
        policy.add(row)
        self._rows[row.key] = row
        row.place = served.waits
        served.waiting += 1
        if row.priority != DEFAULT_PRIORITY:
            self._has_levels = True
        if row.deadline_s is not None:
            self.has_deadlines = True
            heapq.heappush(self._deadlines, (self._latest_s(row, row.deadline_s), row.key))

    def remove(self, key: int) -> Row | None:
        """Forget a row, waiting or running; None: it is not here. A running one does not come back from its step."""
        row = self._rows.pop(key, None)
        if row is None:
            return None
        served = self._served[row.model]
        if row.place is served.waits:
            served.waiting -= 1
            served.policy.remove(row)
        row.place = None
        return row

    def expired(self, now_s: float) -> list[Row]:
        """Forget and return the waiting rows whose deadline cannot be met any more, those that must run first first.

        That is so when the deadline has passed (``deadline_s <= now_s``), or is nearer than the time that the row still
        needs, where its policy knows that. Rows of a running step are left alone; they are found when they wait again.
        """
        if not self._deadlines or self._deadlines[0][0] > now_s:
            return []
        late: list[Row] = []
        keep: list[tuple[float, int]] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            key = heapq.heappop(self._deadlines)[1]
            row = self._rows.get(key)
            if row is None or row.deadline_s is None:
                continue
            # A row that has moved on since it was filed needs less time than was thought then.
            latest_s = self._latest_s(row, row.deadline_s)
            if row.place is self._served[row.model].runs or latest_s > now_s:
                keep.append((latest_s, key))
            else:
                self.remove(key)
                late.append(row)
        for item in keep:
            heapq.heappush(self._deadlines, item)
        return late

    def observe(self, step: Step, execution_s: float, overhead_s: float = 0.0) -> None:
        """Tell the step's policy what it cost, if it wants to know (`CostAware`)."""
        policy = self._served[step.model].cost_aware
        if policy is not None:
            policy.observe(step, execution_s, overhead_s)

    def next(self, now_s: float) -> Step | None:
        """The next step, whose rows then run; None: nothing to run now.

        Raises:
            PolicyError: the policy chose a step that its contract forbids.
        """
        for served in self._by_urgency():
            step = served.policy.next(now_s)
            if step is not None:
                self._begin(served, step)
                return step
        return None

    def finish(self, step: Step, now_s: float) -> list[Row]:
        """Take a step's rows back: returns those that reached the end, in the batch's order; the others wait again.

        Rows that were removed while it ran are passed over. `now_s` is when the step ended.

        Raises:
            PolicyError: the policy lost a row, or let one go too early.
        """
        served = self._served[step.model]
        policy, runs, end = served.policy, served.runs, step.end
        for row in step.rows:
            if row.place is not runs:
                step = replace(step, rows=tuple(row for row in step.rows if row.place is runs))
                break
        ended = policy.finish(step)
        at_end = end == policy.num_slices  # all of them or none
        place = _ENDED if at_end else served.waits
        for row in step.rows:
            if row.boundary != end:
                raise PolicyError(f"{_name(policy)}.finish left rows of {step.model} behind boundary {end}")
            row.place = place
        if at_end:
            self._forget(ended)
        else:
            served.waiting += len(step.rows)
        if len(ended) != (len(step.rows) if at_end else 0):
            raise _wrong_end(policy, step.model)
        self._check_waiting(served)
        return ended

    def _forget(self, ended: list[Row]) -> None:
        for row in ended:
            if row.place is not _ENDED:  # of another step, or here twice
                raise _wrong_end(self.policies[row.model], row.model)
            row.place = None
            del self._rows[row.key]

    def _by_urgency(self) -> list[_Served]:
        filled = [served for served in self._in_order if served.waiting]
        if len(filled) > 1:  # urgency is a scan of all rows, and of one there is nothing to choose
            filled.sort(key=lambda served: (served.policy.urgency_s() or 0.0, served.model))
            if self._has_levels:
                levels: dict[str, int] = {}
                for row in self._rows.values():
                    if row.place is self._served[row.model].waits:
                        levels[row.model] = min(levels.get(row.model, row.priority), row.priority)
                filled.sort(key=lambda served: levels[served.model])
        return filled

    def _latest_s(self, row: Row, deadline_s: float) -> float:
        policy = self._served[row.model].cost_aware
        return deadline_s if policy is None else deadline_s - policy.remaining_s(row)

    def _begin(self, served: _Served, step: Step) -> None:
        policy, rows, start = served.policy, step.rows, step.start
        span_fits = 0 <= start < step.end <= policy.num_slices
        if step.model != served.model or not span_fits or not 1 <= len(rows) <= policy.max_batch:
            raise PolicyError(
                f"{_name(policy)} chose {len(rows)} rows for slices {start}:{step.end} of {step.model}; "
                f"{served.model} has {policy.num_slices} slices and steps of 1 to {policy.max_batch} rows"
            )
        waits, runs = served.waits, served.runs
        for row in rows:
            if row.place is not waits:
                raise PolicyError(f"{_name(policy)} chose row {row.key} of {served.model}, which does not wait")
            if row.boundary != start:
                raise PolicyError(f"{_name(policy)} chose row {row.key} at {row.boundary} for a step from {start}")
            row.place = runs
        served.waiting -= len(rows)
        self._check_waiting(served)

    def _check_waiting(self, served: _Served) -> None:
        policy, rows = served.policy, served.waiting
        if policy.waiting != rows:
            raise PolicyError(f"{_name(policy)} says that {policy.waiting} rows of {served.model} wait, but {rows} do")


def _wrong_end(policy: Policy, model: str) -> PolicyError:
    return PolicyError(f"{_name(policy)}.finish must return exactly the rows of {model} that are at the end")


def _name(policy: Policy) -> str:
    return type(policy).__name__
