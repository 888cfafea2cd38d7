"""Strategy `lazy`: LazyBatching's stack of sub-batches, for comparison (HPCA 2021, arXiv 2010.13103).

As published: requests run slice by slice. A newcomer may pre-empt at a boundary: it is pushed on a stack, runs until it
has caught up with the sub-batch below, and merges with it. It may do so only while the slack of every request allows,
where the time that all of them need is predicted, on the safe side, as the sum of what each would take alone::

    slack = due - now - sum of T(boundary, L, 1) over the stack and the newcomer >= 0

A newcomer that may not pre-empt waits until the stack is empty; then everything that waits starts together.

Adapted to several entries: the stack is kept in order of progress, least advanced on top. So a newcomer whose entry
lies ahead of the top takes its place further below, where the top will reach and absorb it.

Levels (`Row.priority`) are not in the paper: here each has a stack and newcomers of its own, and a step is of the
lowest level that waits at all. So rows of two levels never share a batch, and one level's slack knows nothing of
another's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from deployments.costs.cost_model import CostModel
from deployments.scheduling.queue_policy import QueuePolicy, by_turn
from deployments.scheduling.scheduler import SHARED, Row, Step
from slicer.errors import ConfigError


@dataclass
class Lazy(QueuePolicy):
    """The policy of one model; see the module for its rules, `Policy` for the contract.

    Args:
        costs: what steps cost; the policy keeps it up to date. None: nothing is known yet, and is learned on the way.
        slo_s: within what time every request is to be answered (the paper's SLA target), where a row has no deadline of
            its own; None: `max_wait_s`.

    Raises:
        ConfigError: a value is out of range, or the costs are those of another number of slices.
    """

    costs: CostModel | None = None
    slo_s: float | None = None
    _stacks: dict[int, list[list[Row]]] = field(init=False, default_factory=dict)  # by level; none is empty

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slo_s is not None and not self.slo_s > 0:
            raise ConfigError(f"slo_s {self.slo_s} of {self.model}: set a time above 0 seconds, or leave it out")
        self._costs = self.costs or CostModel.unknown(self.num_slices, self.max_batch)
        if self._costs.num_slices != self.num_slices:
            raise ConfigError(
                f"costs of {self.model} are those of {self._costs.num_slices} slices, the model has {self.num_slices}; "
                "measure them again"
            )

    def remaining_s(self, row: Row) -> float:
        """The least that a row still needs: alone, at once. 0 as long as it is a guess."""
        return self._costs.alone_s(row.boundary)

    def observe(self, step: Step, execution_s: float, overhead_s: float) -> None:
        """A step took so long on the accelerator, and so long beside it."""
        self._costs.observe(step.start, step.end, len(step.rows), execution_s)

    def urgency_s(self) -> float | None:
        """When the most urgent waiting row is due; None: none waits. Reads every waiting row."""
        stacked = (
            row.arrival_s + self.max_wait_s if row.deadline_s is None else row.deadline_s
            for stack in self._stacks.values()
            for batch in stack
            for row in batch
        )
        waiting = super().urgency_s()
        return min(stacked, default=waiting) if waiting is None else min((*stacked, waiting))

    def remove(self, row: Row) -> None:
        """Forget a waiting row, be it in the stack or not yet."""
        for batch in (stack := self._stacks.get(row.priority, [])):
            if row in batch:  # rows are compared by identity
                batch.remove(row)
                self.waiting -= 1
                break
        else:
            super().remove(row)
        self._keep(row.priority, [batch for batch in stack if batch])

    def next(self, now_s: float) -> Step | None:
        """One slice for the top of the lowest level's stack, after newcomers of that level were let in."""
        levels = (queue[0].priority for queue in self.queues.values() if queue)
        level = min((*self._stacks, *levels), default=None)
        if level is None:
            return None
        self._let_in(level, now_s)
        stack = self._stacks[level]
        batch = stack.pop()
        self._keep(level, stack)
        self.waiting -= len(batch)
        start = batch[0].boundary
        return Step(self.model, SHARED, start, start + 1, tuple(batch))

    def finish(self, step: Step) -> list[Row]:
        """Move the rows on; a batch that has reached the one below merges with it, as far as the limit allows."""
        for row in step.rows:
            row.boundary = step.end
        if step.end == self.num_slices:
            return list(step.rows)
        if step.rows:
            self._push(list(step.rows))
        return []

    def _keep(self, level: int, stack: list[list[Row]]) -> None:
        if stack:
            self._stacks[level] = stack
        else:
            self._stacks.pop(level, None)

    def _let_in(self, level: int, now_s: float) -> None:
        """Newcomers, oldest first, as long as everybody's slack allows; all that fit, when the stack is empty."""
        first = (row for queue in self.queues.values() for row in queue[: self.max_batch] if row.priority == level)
        newcomers = sorted(first, key=by_turn)
        if not newcomers:
            return
        alone_s = self._costs.tails(1)
        stacked = [row for batch in self._stacks.get(level, ()) for row in batch]
        work_s = sum(alone_s[row.boundary] for row in stacked)
        due_s = min((self._due_s(row) for row in stacked), default=math.inf)
        for entered, row in enumerate(newcomers):
            work_s += alone_s[row.boundary]
            due_s = min(due_s, self._due_s(row))
            if entered == self.max_batch or (stacked and now_s + work_s > due_s):
                break
            self.queues[row.boundary].remove(row)
            self.waiting -= 1
            self._push([row])

    def _push(self, batch: list[Row]) -> None:
        """Put a batch where its progress belongs, least advanced on top, and merge it with one that is as far."""
        boundary = batch[0].boundary
        stack = self._stacks.setdefault(batch[0].priority, [])
        at = len(stack)
        while at and stack[at - 1][0].boundary < boundary:
            at -= 1
        self.waiting += len(batch)
        # Several batches may be equally far when one is full. The older rows go first, so they lie above.
        while at and batch and stack[at - 1][0].boundary == boundary:
            both = sorted(stack[at - 1] + batch, key=by_turn)
            stack[at - 1], batch = both[: self.max_batch], both[self.max_batch :]
            at -= 1
        if batch:
            stack.insert(at, batch)

    def _due_s(self, row: Row) -> float:
        return row.deadline_s if row.deadline_s is not None else row.arrival_s + (self.slo_s or self.max_wait_s)
