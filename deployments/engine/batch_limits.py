"""Batch sizes that the accelerator's memory did not hold, so that the same step does not fail again and again.

After an `OutOfMemory` steps of that span are run in parts of half the size. Every while the size is doubled, until it
is the one that failed: what took the memory may be gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.scheduling.scheduler import Step

#: So long a size that did not fit is not tried again.
RETRY_S = 30.0


@dataclass(slots=True)
class _Limit:
    rows: int
    failed: int
    retry_at_s: float


class BatchLimits:
    """What is known to fit, by model and span. For one thread; empty (and false) as long as everything has fitted."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, int, int], _Limit] = {}

    def __bool__(self) -> bool:
        return bool(self._limits)

    def failed(self, step: Step, now_s: float) -> None:
        """A step of this size did not fit."""
        rows = len(step.rows)
        if rows > 1:
            self._limits[_span(step)] = _Limit((rows + 1) // 2, rows, now_s + RETRY_S)

    def part(self, step: Step, now_s: float) -> int:
        """How many of the step's rows to run at once: all of them, or even parts that are known to fit."""
        rows = len(step.rows)
        limit = self._limits.get(_span(step))
        if limit is None or rows <= limit.rows:
            return rows
        if now_s >= limit.retry_at_s:
            limit.rows, limit.retry_at_s = min(2 * limit.rows, limit.failed), now_s + RETRY_S
            if limit.rows == limit.failed:
                del self._limits[_span(step)]
            return self.part(step, now_s)
        parts = -(-rows // limit.rows)
        return -(-rows // parts)


def _span(step: Step) -> tuple[str, int, int]:
    return step.model, step.start, step.end
