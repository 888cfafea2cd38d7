"""One step of the server's accelerator, as the load job keeps it beside the records of its requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from slicer.core.records.record import Record


@dataclass(frozen=True)
class StepSeen:
    """One execution that succeeded.

    Attributes:
        start, end: it ran slices ``start:end`` of `model`.
        began_s, ended_s: on the run's clock, by `on_run_clock`; before that on the server's.
        entries: how many of its rows entered the server at which cut.
    """

    model: str
    start: int
    end: int
    began_s: float
    ended_s: float
    entries: Mapping[int, int]

    @property
    def rows(self) -> int:
        """All of its rows."""
        return sum(self.entries.values())

    def to_json(self) -> dict[str, Any]:
        """The step as one JSON object, for steps.jsonl; times to a microsecond."""
        entries = {str(entry): rows for entry, rows in self.entries.items()}
        times = {"began_s": round(self.began_s, 6), "ended_s": round(self.ended_s, 6)}
        return {**asdict(self), **times, "entries": entries}


def on_run_clock(steps: Sequence[StepSeen], records: Iterable[Record]) -> tuple[StepSeen, ...]:
    """The same steps with times on the clock of the run's records, as well as that can be known.

    Clocks of two hosts are never subtracted, so the end of the last step is put where the last answer of the server
    was there. So all times are late by about the way of a reply.
    """
    # Answers that the devices gave by themselves took part in no step.
    ends = [r.finished_s for r in records if r.rows_per_step and not r.alone and r.finished_s is not None]
    if not ends or not steps:
        return ()
    later_s = max(ends) - max(step.ended_s for step in steps)
    return tuple(replace(step, began_s=step.began_s + later_s, ended_s=step.ended_s + later_s) for step in steps)
