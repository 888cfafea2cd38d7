"""The load job's arithmetic, on records whose figures can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.report import statistics as stats
from actors.report.statistics import StrategyRun
from slicer.common.comparison import Ratio
from slicer.core.records.record import Record, RequestOutcome


def record(at_s: float, took_ms: float | None = 10.0, *, cut: int = 0, **more: object) -> Record:
    """An answered request (or a lost one, without `took_ms`), right unless `more` says otherwise."""
    made = Record(id=f"r{at_s}", device="d", group="g", cut=cut, image=0, label=7, scheduled_s=at_s)
    if took_ms is not None:
        made.outcome, made.top1, made.reference_top1 = "answered", 7, 7
        made.inference_ms, made.finished_s = took_ms, at_s + took_ms / 1000
    for name, value in more.items():
        setattr(made, name, value)
    return made


def run(
    records: list[Record], *, seed: int = 0, loop: str = "open", warmup_s: float = 0.0, window_s: float = 10.0
) -> StrategyRun:
    return StrategyRun("s", seed, loop, warmup_s, window_s, tuple(records))


def test_latencies_and_throughput_of_five_answers() -> None:
    summary = stats.summarise([record(t, ms) for t, ms in enumerate((10, 20, 30, 40, 100))], elapsed_s=2.0)
    assert (summary.mean_ms, summary.p50_ms, summary.throughput_rps) == (40.0, 30.0, 2.5)
    # Linear interpolation: p95 stands at 0.95 * 4 = 3.8, so 0.8 of the way from 40 to 100; p99 at 3.96.
    assert summary.p95_ms == pytest.approx(88.0)
    assert summary.p99_ms == pytest.approx(97.6)


@given(st.lists(st.sampled_from(["answered", "refused", "dropped", "lost"]), max_size=30))
def test_the_ledger_closes(outcomes: list[RequestOutcome]) -> None:
    summary = stats.summarise([record(t, None, outcome=outcome) for t, outcome in enumerate(outcomes)])
    assert summary.requests == len(outcomes)
    assert summary.requests == summary.answered + summary.refused + summary.dropped + summary.lost
    assert summary.dropped == outcomes.count("dropped")


def test_what_is_missing_is_missing_not_zero() -> None:
    summary = stats.summarise([record(0.0, None)], elapsed_s=1.0)
    assert summary.mean_ms is None and summary.p99_ms is None and summary.accuracy_top1 is None
    assert summary.agreement_top1 is None and summary.rows_per_step is None
    assert summary.throughput_rps == 0.0, "this one is known: nothing came in one second"


def test_accuracy_counts_labelled_answers_and_agreement_compared_ones() -> None:
    rows = [
        record(0),  # right, agrees
        record(1, top1=3),  # wrong, and the unsliced model says 7
        record(2, top1=3, reference_top1=3),  # wrong, as the unsliced model
        record(3, label=None),  # no label: agrees only
        record(4, reference_top1=None),  # not compared: right only
        record(5, None),  # lost: in neither
    ]
    summary = stats.summarise(rows)
    assert summary.accuracy_top1 == 2 / 4
    assert summary.agreement_top1 == 3 / 4


def test_phases_are_means_over_the_answers_that_have_them() -> None:
    rows = [record(0, head_ms=4.0, queue_ms=1.0), record(1, head_ms=6.0), record(2, None, head_ms=99.0)]
    phases = stats.summarise(rows).phases_ms
    assert phases["head"] == 5.0 and phases["queue"] == 1.0 and phases["network"] is None


def test_what_the_phases_leave_is_the_rest() -> None:
    rows = [record(0, 20.0, head_ms=4.0, queue_ms=10.0), record(1, 10.0, head_ms=8.0)]
    assert stats.rest_ms(rows[0]) == 6.0
    assert stats.summarise(rows).rest_ms == 4.0  # (6 + 2) / 2
    assert stats.rest_ms(record(2, None)) is None


def test_rows_per_step_is_the_mean_over_steps() -> None:
    assert stats.summarise([record(0, rows_per_step=(1, 2)), record(1, rows_per_step=(6,))]).rows_per_step == 3.0


def test_warmup_is_excluded_and_the_drain_included() -> None:
    measured = run([record(0.5, 1.0), record(1.0, 1.0), record(3.0, 2500.0)], warmup_s=1.0, window_s=2.0)
    assert len(measured.measured) == 2
    assert stats.elapsed_s(measured) == pytest.approx(4.5)  # from 1.0 to the last answer at 5.5
    assert stats.summarise_runs([measured]).throughput_rps == pytest.approx(2 / 4.5)
    early = run([record(1.0, 1.0)], warmup_s=1.0, window_s=2.0)
    assert stats.elapsed_s(early) == 2.0, "a quiet end of the window is part of it"


def test_runs_are_pooled_over_seeds_and_split_by_cut() -> None:
    runs = [run([record(0, 10), record(1, 30, cut=2)], seed=0), run([record(0, 20)], seed=1)]
    assert stats.summarise_runs(runs).mean_ms == 20.0
    assert stats.summarise_runs(runs, cut=2).mean_ms == 30.0
    assert stats.summarise_runs(runs).throughput_rps == pytest.approx(3 / 20)


def test_a_late_generator_makes_a_run_invalid() -> None:
    fine = run([record(t, 100.0, generator_lag_ms=4.9) for t in range(10)])
    late = run([record(t, 100.0, generator_lag_ms=5.1) for t in range(10)])
    assert stats.invalid_reason(fine) is None
    assert "5.1 ms is more than 5%" in str(stats.invalid_reason(late))
    assert stats.invalid_reason(dataclasses.replace(late, loop="closed")) is None, "a closed loop schedules nothing"
    assert stats.invalid_reason(run([record(0, None)])) == "no request was answered"


def test_a_queue_that_grows_all_through_the_run_is_unstable() -> None:
    # Served at 90 % of the offered rate for 10 s: the wait grows by 100 ms per second, to 1 s.
    growing = [record(t / 10, 20 + 10 * t) for t in range(100)]
    assert stats.is_unstable(run(growing))
    assert not stats.is_unstable(run(growing, loop="closed"))
    assert not stats.is_unstable(run([record(t / 10, 20.0) for t in range(100)]))


def test_one_burst_or_a_slow_first_second_is_not_instability() -> None:
    burst = [record(t / 10, 400.0 if 50 <= t < 75 else 20.0) for t in range(100)]
    assert not stats.is_unstable(run(burst))
    cold = [record(t / 10, 900.0 if t < 25 else 20.0) for t in range(100)]
    assert not stats.is_unstable(run(cold))
    slight = [record(t / 10, 20.0 + t / 100) for t in range(100)]
    assert not stats.is_unstable(run(slight)), "1 ms of growth in 10 s is drift"
    slower = [record(t / 10, 1000.0 + 4 * t) for t in range(100)]
    assert not stats.is_unstable(run(slower)), "0.3 s more on top of 1 s did not double: slower, not a growing queue"


def test_paired_ratios_have_the_t_interval_of_their_logarithms() -> None:
    base = [run([record(0, ms)], seed=seed) for seed, ms in enumerate((100.0, 200.0, 400.0))]
    ours = [run([record(0, ms)], seed=seed) for seed, ms in enumerate((50.0, 50.0, 400.0))]
    ratio = stats.ratio_of(ours, base, lambda r: stats.summarise(r.measured).mean_ms)
    assert ratio is not None
    # Ratios 1/2, 1/4, 1: logarithms -1, -2, 0 times ln 2; mean -ln 2, standard error ln 2 / sqrt 3, t(2) = 4.3027.
    assert ratio.ratio == pytest.approx(0.5)
    assert ratio.high == pytest.approx(0.5 * math.exp(4.3027 * math.log(2) / math.sqrt(3)), rel=1e-4)
    assert ratio.low == pytest.approx(0.5 * math.exp(-4.3027 * math.log(2) / math.sqrt(3)), rel=1e-4)
    assert ratio.pairs == 3


def test_seeds_without_a_partner_are_left_out_of_a_ratio() -> None:
    base = [run([record(0, 100.0)], seed=0), run([record(0, None)], seed=1)]
    ours = [run([record(0, 50.0)], seed=seed) for seed in (0, 1, 2)]
    ratio = stats.ratio_of(ours, base, lambda r: stats.summarise(r.measured).mean_ms)
    assert ratio == Ratio(0.5, None, None, (0.5,))
    assert stats.ratio_of(ours, [], lambda r: 1.0) is None


def test_slo_attainment_counts_refused_dropped_lost_late_and_wrong_ones_as_misses() -> None:
    rows = [
        record(0, 50.0),
        record(1, 51.0),  # late
        record(2, 10.0, top1=3),  # wrong
        record(3, None, outcome="refused"),
        record(4, None, outcome="dropped"),
        record(5, None),
        record(6, 10.0, cut=3),
        record(7, 10.0, cut=3, reference_top1=None),  # nothing to compare with: in time is enough
    ]
    assert stats.slo_attainment(rows, slo_ms=50.0) == {0: 1 / 6, 3: 1.0}


def test_goodput_needs_every_entry_to_hold() -> None:
    good = [record(t, 10.0, cut=t % 2) for t in range(200)]
    one_entry_late = [*good[:-1], record(199, 99.0, cut=1)]  # 1 of 100 at cut 1: 99 % hold
    two_late = [*good[:-3], record(197, 99.0, cut=1), record(198, 10.0), record(199, 99.0, cut=1)]  # 98 % at cut 1
    assert stats.goodput_rps({10.0: good, 20.0: one_entry_late, 30.0: two_late}, slo_ms=50.0) == 20.0
    assert stats.goodput_rps({30.0: two_late}, slo_ms=50.0) is None
