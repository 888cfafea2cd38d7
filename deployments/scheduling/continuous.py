"""Strategy `continuous`: one copy of the weights, and at every boundary the question which rows to run next.

The **front group** is the most urgent row and the rows it has been running with: n1 rows at boundary p. Two rules, both
in seconds of the measured cost table T (`deployments.costs.cost_model`; L is the end, c a merge, B the batch limit),
say who comes along:

* *Grow*: rows that wait at p join one by one, the most urgent first, while ``n + 1 <= B``, no deadline breaks and each
  saves real time: ``T(p,L,n) + T(p,L,1) - T(p,L,n+1) - c > gate * T(p,L,1)``. Where the table has steps (an accelerator
  that pads batches), several may join that save as much together, and take less time with the group than without it.
* *Catch up*: a group behind it (n2 rows at q < p) runs first and merges iff ``n1 + n2 <= B``, no deadline of the front
  group breaks, and the sum of completion times falls:
  ``n1 * (T(q,p,n2) + T(p,L,n1+n2) + c - T(p,L,n1)) < n2 * (T(p,L,n1) + T(p,L,n2) - T(p,L,n1+n2) - c)``.

It never idles while a row waits. A step goes on to the next boundary at which a merge could pay, and as long as the
host needs to have another one ready; where none can pay (a full batch, an accelerator that gains nothing by batching)
it is the whole rest of the tail, uninterrupted.

Bounded wait: without deadlines the front row is the oldest, and stays in front until it has ended. Others run before it
only to catch up with it, in ``B * L`` steps at most; so it waits for no more steps than these and its own.

Levels (`Row.priority`) come before all of this: the front row is of the lowest level that waits, and only rows of that
level catch up with it, so each step has such a row. No row is in a step while one of a lower level stays behind at the
same boundary: rows join by level first, and a group that ran together takes only those of one level along for nothing;
the others join again where it pays. So the bound above holds among rows of one level, as long as no lower one waits.

In the line of LazyBatching (HPCA 2021, arXiv 2010.13103) for one entry and of Graft (TPDS 2023, arXiv 2312.10636).
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from deployments.costs.cost_model import CostModel
from deployments.scheduling.scheduler import SHARED, Resident, Row, Step
from slicer.core.protocol.messages import DEFAULT_PRIORITY
from slicer.errors import ConfigError

#: Where steps are launched while another one runs, they take at least this share of what the host needs for one: on
#: the way there are longer ones, too.
_LEAST_STEP = 0.5

#: The rate of arrivals is that of so many last ones.
_RECENT = 64

#: Sort key of rows: the lowest level, then the earliest due first, then the oldest, then the one submitted first.
_URGENCY = attrgetter("rank")

_LEVEL = attrgetter("priority")

#: Between two levels, in seconds: one comparison finds the lower level, or of one level the earlier due. To the default
#: level nothing is added, so that who has no levels pays nothing for them. What is due later than _LATEST_S (12,000
#: years) counts as due then.
_LEVEL_S = 1e12
_LATEST_S = 0.4 * _LEVEL_S


@dataclass
class Continuous:
    """The policy of one model; see the module for its rules, `Policy` for the contract.

    Args:
        model: the model's name in the application.
        num_slices: its slices; every boundary between two of them is a place where rows may merge.
        max_batch: the most rows of a step.
        max_wait_s: a row without a deadline is due so long after its arrival.
        costs: what steps cost; the policy keeps it up to date. None: nothing is known yet, and is learned on the way.
        gate: share of a row's own remaining time that it must save to be let into the front group.

    Raises:
        ConfigError: a value is out of range, or the costs are those of another number of slices.
    """

    model: str
    num_slices: int
    max_batch: int = 32
    max_wait_s: float = 1.0
    costs: CostModel | None = None
    gate: float = 0.1
    waiting: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ConfigError(f"max_batch {self.max_batch} of {self.model}: a step has at least one row; set 1 or more")
        if not self.max_wait_s > 0:
            raise ConfigError(f"max_wait_s {self.max_wait_s} of {self.model}: set a time above 0 seconds")
        if not 0 <= self.gate < 1:
            raise ConfigError(f"gate {self.gate} of {self.model}: a share of a row's time, from 0 to below 1")
        self._costs = self.costs or CostModel.unknown(self.num_slices, self.max_batch)
        if self._costs.num_slices != self.num_slices:
            raise ConfigError(
                f"costs of {self.model} are those of {self._costs.num_slices} slices, the model has {self.num_slices}; "
                "measure them again"
            )
        self._entering: list[list[Row]] = [[] for _ in range(self.num_slices)]  # by entry; each in order of urgency
        self._entries: list[int] = []  # those at which a row ever came, ascending
        self._groups: list[
            list[Row]
        ] = []  # rows of a level that ran together and wait at an inner boundary, the same way
        self._arrivals: deque[float] = deque(maxlen=_RECENT)
        self._deadlines = False  # whether any row ever had one
        self._wait_s = min(self.max_wait_s, _LATEST_S / 2)
        self._levels = False  # whether any row ever had another level than the default
        self._front_key, self._delays = -1, 0  # the front row, and steps that have run before it since it is in front

    def residents(self, entries: Sequence[int]) -> Mapping[str, Resident]:
        """One copy of the weights, from the first entry to the end."""
        return {SHARED: Resident(min(entries), self.num_slices, own_copy=False)}

    def add(self, row: Row) -> None:
        """Let a new row wait at its entry."""
        if row.deadline_s is None:
            due_s = row.arrival_s + self._wait_s
        else:
            due_s = min(max(row.deadline_s, -_LATEST_S), _LATEST_S)
        if row.priority == DEFAULT_PRIORITY:
            row.rank = due_s, row.arrival_s, row.key
        else:  # of two that become equal by the sum, the earlier due is still the first
            self._levels = True
            row.rank = due_s + (row.priority - DEFAULT_PRIORITY) * _LEVEL_S, due_s, row.arrival_s, row.key
        rows = self._entering[row.boundary]
        if not rows:
            rows.append(row)
            if row.boundary not in self._entries:
                bisect.insort(self._entries, row.boundary)
        elif rows[-1].rank <= row.rank:  # nearly always: it came last
            rows.append(row)
        else:
            bisect.insort(rows, row, key=_URGENCY)
        self._arrivals.append(row.arrival_s)
        self._deadlines = self._deadlines or row.deadline_s is not None
        self.waiting += 1

    def remove(self, row: Row) -> None:
        """Forget a waiting row."""
        for rows in (self._entering[row.boundary], *self._groups):
            if row in rows:  # rows are compared by identity
                rows.remove(row)
                break
        self._groups = [group for group in self._groups if group]
        self.waiting -= 1

    def urgency_s(self) -> float | None:
        """When the most urgent waiting row is due; None: none waits."""
        front = self._front()
        return None if front is None else self._due_s(front[0])

    def remaining_s(self, row: Row) -> float:
        """The least that a row still needs: alone, at once. 0 as long as it is a guess."""
        return self._costs.alone_s(row.boundary)

    def observe(self, step: Step, execution_s: float, overhead_s: float) -> None:
        """A step took so long on the accelerator, and so long beside it (the decision, the books)."""
        self._costs.observe(step.start, step.end, len(step.rows), execution_s)
        self._costs.observe_decision(overhead_s)

    def next(self, now_s: float) -> Step | None:
        """The front group, grown, or a group that catches up with it."""
        front = self._front()
        if front is None:
            return None
        p = front[0].boundary
        if front[0].key != self._front_key:
            self._front_key, self._delays = front[0].key, 0
        rows = self._grown(front, p, self.max_batch, now_s)
        behind = self._behind(rows, p, now_s) if self._delays < self.max_batch * self.num_slices else None
        if behind:
            self._delays += 1
            return self._begin(behind, limit=p, now_s=now_s)
        return self._begin(rows, limit=self.num_slices, now_s=now_s)

    def finish(self, step: Step) -> list[Row]:
        """Move the rows on; those of one step and level stay a group."""
        rows = step.rows
        for row in rows:
            row.boundary = step.end
        if step.end == self.num_slices:
            return list(rows)
        if rows:
            if not self._levels or rows[0].priority == rows[-1].priority:  # they are in order of urgency
                self._groups.append(list(rows))
            else:
                self._groups += [list(group) for _, group in groupby(rows, _LEVEL)]
            self.waiting += len(rows)
        return []

    # ------------------------------------------------------------------------------------------------- who is in front

    def _due_s(self, row: Row) -> float:
        return row.arrival_s + self.max_wait_s if row.deadline_s is None else row.deadline_s

    def _front(self) -> list[Row] | None:
        """The most urgent row and those it has been running with; a row that has not run yet is alone."""
        front: list[Row] | None = None
        for entry in self._entries:
            rows = self._entering[entry]
            if rows and (front is None or rows[0].rank < front[0].rank):
                front = rows
        if front is not None:
            front = front[:1]
        for group in self._groups:
            if front is None or group[0].rank < front[0].rank:
                front = group
        return front

    # ----------------------------------------------------------------------------------------------- grow and catch up

    def _grown(self, rows: list[Row], p: int, limit: int, now_s: float, level: int | None = None) -> list[Row]:
        """These rows at p and the ones waiting there that join them, `limit` in all; in order of urgency.

        `level`: only those of this one; None: of any.
        """
        n = len(rows)
        candidates = self._others(rows, p, limit - n) if n < limit else None
        if level is not None and candidates and candidates[-1].priority != level:
            candidates = [row for row in candidates if row.priority == level]
        if not candidates:
            return rows
        tails = self._costs.by_rows
        alone_s, c = tails[1][p], self._costs.merge_s
        front_s = before_s = tails[n][p]
        latest_s = self._latest_s(rows, now_s + front_s) if self._deadlines else math.inf
        chained, count = True, 0  # whether each row so far saved time by itself; how many join
        for joining in range(1, len(candidates) + 1):
            n += 1
            after_s = tails[n][p]
            if now_s + after_s + c > latest_s:
                break
            chained = chained and before_s + alone_s - after_s - c > self.gate * alone_s
            if chained or (
                front_s + tails[joining][p] - after_s - c > 0
                and front_s + joining * (alone_s - c) - after_s > self.gate * joining * alone_s
            ):
                count = joining
            before_s = after_s
        if not count:
            return rows
        grown = rows + candidates[:count]
        if candidates[0].rank < rows[-1].rank:
            grown.sort(key=_URGENCY)
        return grown

    def _behind(self, front: list[Row], p: int, now_s: float) -> list[Row] | None:
        """The rows for whom it pays most that the front group waits until they have caught up; None: for nobody."""
        n1 = len(front)
        if n1 >= self.max_batch:
            return None
        leading, level = self._leading(p), None
        if self._levels:  # of others nobody catches up
            level = front[0].priority
            leading = [(q, first) for q, first in leading if first[0].priority == level]
        if not leading:
            return None
        tails, c = self._costs.by_rows, self._costs.merge_s
        front_s = tails[n1][p]
        latest_s = self._latest_s(front, now_s + front_s) if self._deadlines else math.inf
        best, best_gain = None, 0.0
        for q, first in leading:
            if n1 + len(first) > self.max_batch:
                continue
            rows = self._grown(first, q, self.max_batch - n1, now_s, level)
            n2 = len(rows)
            apart = tails[n2]
            way_s = apart[q] - apart[p]
            together_s = tails[n1 + n2][p] + c
            if now_s + way_s + together_s > latest_s:
                continue
            gain = n2 * (front_s + apart[p] - together_s) - n1 * (way_s + together_s - front_s)
            if gain > best_gain:
                best, best_gain = rows, gain
        return best

    def _leading(self, p: int) -> list[tuple[int, list[Row]]]:
        """For each boundary before p where rows wait: the most urgent row there and those it has been running with."""
        leading: dict[int, list[Row]] = {}
        for entry in self._entries:
            if entry < p and (rows := self._entering[entry]):
                leading[entry] = rows[:1]
        for group in self._groups:
            first = group[0]
            q = first.boundary
            if q < p and (q not in leading or first.rank < leading[q][0].rank):
                leading[q] = group
        return sorted(leading.items())

    def _others(self, rows: list[Row], p: int, most: int) -> list[Row]:
        """The rows that wait at p beside these, in order of urgency; not more than `most`, 1 or more."""
        entering = self._entering[p]
        skip = 1 if entering and entering[0] is rows[0] else 0
        others = entering[skip : skip + most]
        merged = False
        for group in self._groups:
            if group is not rows and group[0].boundary == p:
                others += group[:most]
                merged = True
        if merged:
            others.sort(key=_URGENCY)
            del others[most:]
        return others

    def _latest_s(self, rows: Sequence[Row], end_s: float) -> float:
        """When these rows must have ended so that no deadline breaks that would be met at `end_s`."""
        met = (row.deadline_s for row in rows if row.deadline_s is not None and row.deadline_s >= end_s)
        return min(met, default=math.inf)

    # -------------------------------------------------------------------------------------------------------- the step

    def _begin(self, rows: list[Row], limit: int, now_s: float) -> Step:
        start = rows[0].boundary
        self._take(rows, start)
        return Step(self.model, SHARED, start, self._end(start, len(rows), limit, now_s), tuple(rows))

    def _take(self, rows: list[Row], start: int) -> None:
        """These rows no longer wait. Of those that have not run yet they are the most urgent ones."""
        self.waiting -= len(rows)
        if rows in self._groups:  # nobody joins it; rows are compared by identity
            self._groups.remove(rows)
            return
        taken = set(rows)
        entering = self._entering[start]
        count = 0
        while count < len(entering) and entering[count] in taken:
            count += 1
        del entering[:count]
        if count < len(rows):
            left = (
                group if group[0].boundary != start else [row for row in group if row not in taken]
                for group in self._groups
            )
            self._groups = [group for group in left if group]

    def _end(self, start: int, n: int, limit: int, now_s: float) -> int:
        """The next boundary at which it could pay that another row joins; `limit` if there is none before."""
        if n >= self.max_batch:
            return limit
        costs, gate = self._costs, self.gate
        tails = costs.by_rows
        together, alone = tails[n], tails[1]
        # One more row; and as many again, which may pay where the table has steps and one does not.
        again = min(n, self.max_batch - n)
        tables = [(1, alone, tails[n + 1])]
        if again > 1:
            tables.append((again, tails[again], tails[n + again]))
        for end in range(start + 1, limit):
            if costs.overlapped and together[start] - together[end] < _LEAST_STEP * costs.decision_s:
                continue  # the accelerator would have done it long before the host has the next step ready
            for count, apart, merged in tables:
                saved_s = together[end] + apart[end] - merged[end] - costs.merge_s
                if saved_s <= gate * alone[end]:
                    continue
                if costs.overlapped or not costs.decision_s:  # the host's time is hidden, or nothing
                    return end
                expected = self._expected(end, together[start] - together[end], now_s)
                if saved_s * expected / count >= costs.decision_s:
                    return end
        return limit

    def _expected(self, boundary: int, seconds: float, now_s: float) -> float:
        """How many rows may be there to merge at a boundary that is reached in so many seconds."""
        there = len(self._entering[boundary]) + sum(len(g) for g in self._groups if g[0].boundary == boundary)
        if len(self._arrivals) < 2:
            return float(there)
        span_s = now_s - self._arrivals[0]
        return there + (seconds * len(self._arrivals) / span_s if span_s > 0 else math.inf)
