"""The simulator: the engine's own steps, in virtual time; figures on cases that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.costs.cost_model import Cell, CostModel
from deployments.engine.engine import Engine, Outcome
from deployments.scheduling.registry import POLICIES, make_policy
from deployments.scheduling.scheduler import Scheduler, Step
from deployments.simulation.simulator import MODEL, Arrival, Setup, Simulation
from deployments.simulation.workloads import Workload, bound_rps, goodput_rps
from deployments.testing.fakes import FakeClock, FakeExecutor, rows_at
from slicer.errors import ConfigError


def costs_of(*times_s: float, num_slices: int = 4, std_s: float = 0.0) -> CostModel:
    """Seconds of every slice at 1, 2, 3, ... rows."""
    cells = [Cell(time_s, std_s) for time_s in times_s]
    return CostModel(tuple(range(1, len(cells) + 1)), [list(cells) for _ in range(num_slices)])


def histories() -> st.SearchStrategy[list[Arrival]]:
    gap = st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5, 9.0])
    slack = st.none() | st.sampled_from([1.0, 6.0, 30.0])
    return st.lists(st.tuples(gap, st.integers(0, 3), slack), min_size=1, max_size=30).map(_arrivals)


def _arrivals(items: list[tuple[float, int, float | None]]) -> list[Arrival]:
    now_s, arrivals = 0.0, []
    for gap_s, entry, slack_s in items:
        now_s += gap_s
        arrivals.append(Arrival(now_s, entry, None if slack_s is None else now_s + slack_s))
    return arrivals


@settings(max_examples=200, deadline=None, derandomize=True)
@given(strategy=st.sampled_from(sorted(POLICIES)), arrivals=histories(), batching=st.sampled_from([0.0, 0.25, 1.0]))
def test_it_takes_the_engines_steps_at_the_engines_times(
    strategy: str, arrivals: list[Arrival], batching: float
) -> None:
    """The same arrivals and costs; the engine runs on a fake clock and a fake executor that takes the table's times."""
    costs = costs_of(1.0, 1 + batching, 1 + 2 * batching)
    simulated: list[tuple[float, int, int, list[int]]] = []

    def note(now_s: float, step: Step) -> None:
        simulated.append((now_s, step.start, step.end, [row.key for row in step.rows]))

    # A mean table does not move when it is observed, so engine and simulator decide by the same one.
    run = Simulation(Setup(costs, strategy, max_batch=3), note).run(arrivals)

    clock = FakeClock()
    engine_steps: list[tuple[float, int, int, list[int]]] = []
    executor = FakeExecutor(
        clock,
        lambda step: costs.span_s(step.start, step.end, len(step.rows)),
        lambda step: engine_steps.append((clock.now_s, step.start, step.end, [row.key for row in step.rows])),
    )
    ended_s: dict[int, float] = {}

    def deliver(outcomes: list[Outcome]) -> None:
        ended_s.update((o.key, clock.now_s if o.logits is not None else math.inf) for o in outcomes)

    policy = make_policy(strategy, model=MODEL, num_slices=4, max_batch=3, costs=costs.copy())
    engine = Engine(Scheduler({MODEL: policy}), executor, deliver, clock=clock)
    due = 0
    while True:
        while due < len(arrivals) and arrivals[due].arrival_s <= clock.now_s:
            a = arrivals[due]
            engine.submit(MODEL, a.entry, rows_at(float(due)), [a.arrival_s], [a.deadline_s])
            due += 1
        if engine.step_once() is None:
            if due == len(arrivals):
                break
            clock.now_s = arrivals[due].arrival_s

    assert simulated == engine_steps
    assert run.latency_s.tolist() == [ended_s[key] - arrivals[key].arrival_s for key in range(len(arrivals))]
    assert run.steps == engine.stats().steps and run.busy_s == pytest.approx(engine.stats().busy_s)


def test_figures_of_two_requests_one_after_the_other() -> None:
    run = Simulation(Setup(costs_of(1.0, 2.0), "unbatched")).run([Arrival(0.0, 0), Arrival(1.0, 2), Arrival(10.0, 3)])
    assert run.latency_s.tolist() == [4.0, 5.0, 1.0]  # the second waits 3 s for the first, then takes 2 s
    summary = run.summary(warm_up=0.0)
    assert summary["mean_ms"] == pytest.approx(10e3 / 3, abs=1e-3)
    assert (summary["p50_ms"], summary["p99_ms"]) == (4000.0, 5000.0)
    assert summary["utilisation"] == pytest.approx(7 / 11) and summary["rows_per_step"] == 1.0
    assert summary["p99_ms_by_entry"] == {0: 4000.0, 2: 5000.0, 3: 1000.0}
    assert run.share_within(4.5, warm_up=0.0) == 0.0  # of entry 2 nobody
    assert run.share_within(5.0, warm_up=0.0) == 1.0


def test_a_request_that_leaves_too_late_is_a_miss_and_not_in_the_mean() -> None:
    run = Simulation(Setup(costs_of(1.0), "unbatched", max_batch=1)).run([Arrival(0.0, 0), Arrival(0.5, 0, 2.0)])
    assert run.latency_s.tolist() == [4.0, math.inf]
    summary = run.summary(warm_up=0.0)
    assert (summary["answered"], summary["mean_ms"]) == (1, 4000.0)
    assert run.share_within(1e9, warm_up=0.0) == 0.5


def test_a_queue_that_grows_is_called_unstable() -> None:
    workload = Workload((0,), requests=400)
    for rate_rps, stable in ((0.1, True), (0.5, False)):  # a request takes 4 s
        run = Simulation(Setup(costs_of(1.0), "unbatched")).run(workload.arrivals(rate_rps))
        assert run.summary()["stable"] is stable


def test_time_of_a_decision_is_paid_once_a_step() -> None:
    for strategy, steps in (("unbatched", 1), ("per_slice", 4)):
        run = Simulation(Setup(costs_of(1.0), strategy, decision_s=0.25)).run([Arrival(0.0, 0)])
        assert run.latency_s[0] == 4.0 + 0.25 * steps and run.busy_s == 4.0


def test_with_a_lead_rows_that_arrive_after_the_choice_are_not_in_the_next_step() -> None:
    """Steps of 1 s per slice, whatever is in them; the next one is chosen 0.25 s before the end."""
    setup = Setup(costs_of(1.0, 1.0, 1.0), "per_slice", lead_s=0.25)
    steps: list[tuple[float, int, list[int]]] = []
    arrivals = [Arrival(0.0, 0), Arrival(0.7, 1), Arrival(1.8, 2), Arrival(9.0, 3), Arrival(9.9, 3)]
    run = Simulation(setup, lambda now_s, step: steps.append((now_s, step.start, [r.key for r in step.rows]))).run(
        arrivals
    )
    assert steps == [
        (0.0, 0, [0]),
        (1.0, 1, [0, 1]),  # chosen at 0.75: row 1 is there
        (2.0, 2, [0, 1]),  # chosen at 1.75: row 2 is not
        (3.0, 3, [0, 1]),
        (4.0, 2, [2]),
        (5.0, 3, [2]),
        (9.0, 3, [3]),
        (10.0, 3, [4]),  # nothing to choose at 9.75, so the engine waits for the end
    ]
    assert run.latency_s.tolist() == pytest.approx([4.0, 3.3, 4.2, 1.0, 1.1])


def test_requests_go_in_turn_or_to_the_accelerator_with_the_fewest_rows() -> None:
    arrivals = [Arrival(0.0, 0), Arrival(0.5, 3), Arrival(2.0, 0), Arrival(2.1, 0)]
    latency_s = {}
    for routing in ("round_robin", "least_loaded"):
        setup = Setup(costs_of(1.0), "unbatched", accelerators=2, routing=routing)  # type: ignore[arg-type]
        latency_s[routing] = Simulation(setup).run(arrivals).latency_s.tolist()
    assert latency_s["round_robin"] == pytest.approx([4.0, 1.0, 6.0, 4.0])  # the third waits for the first
    assert latency_s["least_loaded"] == pytest.approx([4.0, 1.0, 4.0, 5.9])  # it goes to the second, which is free
    with pytest.raises(ConfigError, match="accelerators 0"):
        Simulation(Setup(costs_of(1.0), "unbatched", accelerators=0))


def test_durations_are_drawn_from_the_spread_the_same_every_time() -> None:
    arrivals = [Arrival(100.0 * index, 0) for index in range(400)]
    drawn = [
        Simulation(Setup(costs_of(1.0, std_s=0.2), "unbatched", draw=True, seed=seed)).run(arrivals).latency_s
        for seed in (1, 1, 2)
    ]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    assert drawn[0].mean() == pytest.approx(4.0, rel=0.03) and drawn[0].std() == pytest.approx(0.8, rel=0.15)


def test_the_same_seed_at_another_rate_is_the_same_pattern_stretched() -> None:
    workload = Workload((0, 3, 6), requests=100, seed=4)
    slow, fast = workload.arrivals(10.0), workload.arrivals(40.0, slo_s=0.1)
    assert [a.entry for a in slow] == [a.entry for a in fast]
    assert [a.arrival_s for a in slow] == pytest.approx([4 * a.arrival_s for a in fast])
    assert all(a.deadline_s == pytest.approx(a.arrival_s + 0.1) for a in fast) and slow[0].deadline_s is None
    assert workload.seeded(5).arrivals(10.0) != slow


def test_poisson_arrivals_have_their_rate_and_mix() -> None:
    arrivals = Workload((0, 9), requests=20_000, weights=(3.0, 1.0)).arrivals(50.0)
    assert arrivals[-1].arrival_s == pytest.approx(400.0, rel=0.03)
    assert sum(a.entry == 0 for a in arrivals) == pytest.approx(15_000, rel=0.03)


def test_periodic_devices_keep_their_period_and_entry() -> None:
    arrivals = Workload((0, 1), requests=30, process="periodic", device_rate_rps=2.0).arrivals(20.0)
    for first, second, third in zip(arrivals[:10], arrivals[10:20], arrivals[20:], strict=True):  # ten devices
        assert second.arrival_s - first.arrival_s == pytest.approx(0.5)
        assert third.arrival_s - second.arrival_s == pytest.approx(0.5)
        assert first.entry == second.entry == third.entry
    assert [a.arrival_s for a in arrivals] == sorted(a.arrival_s for a in arrivals)


def test_the_bound_is_every_slice_at_full_batches() -> None:
    # Full batches of 2 take 1.5 s per slice: 0.75 s per row; entry 0 passes four slices, entry 2 two, so 2.25 s a row.
    assert bound_rps(costs_of(1.0, 1.5), (0, 2), max_batch=2) == pytest.approx(1 / 2.25)
    assert bound_rps(costs_of(1.0, 1.5), (0, 2), max_batch=2, weights=(3, 1)) == pytest.approx(1 / (0.75 * 3.5))


def test_goodput_is_found_to_one_percent() -> None:
    assert goodput_rps(lambda rate_rps: 1.0 if rate_rps <= 137.0 else 0.98, 1000.0) == pytest.approx(137.0, rel=0.02)
    assert goodput_rps(lambda rate_rps: 0.5, 1000.0) == 0.0


def test_wrong_workloads_are_refused() -> None:
    with pytest.raises(ConfigError, match="rate 0"):
        Workload((0,)).arrivals(0.0)
    with pytest.raises(ConfigError, match="entries"):
        Workload(())
    with pytest.raises(ConfigError, match="weights"):
        Workload((0, 1), weights=(1.0,))
