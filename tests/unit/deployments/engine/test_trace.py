"""The trace tells what an accelerator did: every step that succeeded, with the entries of its rows."""

from __future__ import annotations

from deployments.engine.trace import StepTrace, TracedStep
from deployments.scheduling.scheduler import Row
from tests.unit.deployments.engine.test_engine import Bench


def rows_of(*entries: int) -> list[Row]:
    return [Row(key, "a", entry, arrival_s=0.0) for key, entry in enumerate(entries)]


def test_rows_that_merged_are_told_apart_by_their_entries() -> None:
    bench = Bench("per_slice")
    bench.submit(2, 20)
    bench.submit(0, 10, 11)
    bench.run()
    # Entry 2 is the oldest and runs alone; then the two others, slice by slice, 1 s each.
    assert bench.engine.trace.steps() == [
        TracedStep("a", 2, 3, 0.0, 1.0, {2: 1}),
        TracedStep("a", 3, 4, 1.0, 2.0, {2: 1}),
        TracedStep("a", 0, 1, 2.0, 3.0, {0: 2}),
        TracedStep("a", 1, 2, 3.0, 4.0, {0: 2}),
        TracedStep("a", 2, 3, 4.0, 5.0, {0: 2}),
        TracedStep("a", 3, 4, 5.0, 6.0, {0: 2}),
    ]
    bench.submit(0, 12)
    bench.submit(1, 13)
    bench.run()
    assert [step.entries for step in bench.engine.trace.steps()[6:]] == [
        {0: 1},
        {0: 1, 1: 1},
        {0: 1, 1: 1},
        {0: 1, 1: 1},
    ]


def test_only_the_last_ones_are_kept() -> None:
    trace = StepTrace(kept=3)
    for number in range(5):
        trace.add("a", 0, 4, rows_of(0), ended_s=float(number), execution_s=0.5)
    assert [step.ended_s for step in trace.steps()] == [2.0, 3.0, 4.0]


def test_entries_are_counted_in_order_of_the_cuts_whatever_the_order_in_the_batch() -> None:
    trace = StepTrace()
    trace.add("a", 3, 4, rows_of(3, 0, 3, 1), ended_s=1.0, execution_s=0.25)
    (step,) = trace.steps()
    assert list(step.entries.items()) == [(0, 1), (1, 1), (3, 2)] and step.began_s == 0.75


def test_what_the_warm_up_did_can_be_forgotten() -> None:
    trace = StepTrace()
    trace.add("a", 0, 4, rows_of(0), ended_s=1.0, execution_s=0.5)
    trace.clear()
    assert trace.steps() == []
