"""Statistics of a run: pure functions over records. Raw timestamps first, these afterwards.

A figure that cannot be computed is None, never zero: no answer means no latency, no label means no accuracy. The
arithmetic is `slicer.common.comparison`'s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.records.step import StepSeen
from slicer.common.comparison import MAX_LAG_SHARE, Ratio, in_time, mean, paired_ratio, percentile, queue_grew
from slicer.core.records.record import Record

#: The phases of an answered request, in the order of the path. With the rest they sum up to the inference time.
PHASES = ("wait", "head", "encode", "network", "admission", "queue", "execution")


@dataclass(frozen=True)
class StrategyRun:
    """One measured run: one strategy under one seed, the whole fleet (`FleetRun` makes it).

    Attributes:
        loop: "open" or "closed".
        warmup_s: records scheduled before are not counted.
        window_s: length of the measured arrival window; None in closed loop with a number of requests.
        records: all records, those of the warm-up too.
        server: what the server said of itself over the run (utilisation, steps, memory); empty where it could not.
        steps: the last ones of its accelerator, as many as it keeps, on the clock of the records.
    """

    strategy: str
    seed: int
    loop: str
    warmup_s: float
    window_s: float | None
    records: tuple[Record, ...]
    server: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[StepSeen, ...] = ()

    @property
    def measured(self) -> tuple[Record, ...]:
        """The records that count: all but those of the warm-up."""
        return tuple(record for record in self.records if record.scheduled_s >= self.warmup_s)


@dataclass(frozen=True)
class Summary:
    """What is said of a set of records. Latencies are inference times of the answered requests, in ms."""

    requests: int
    answered: int
    refused: int
    dropped: int
    lost: int
    throughput_rps: float | None
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    phases_ms: dict[str, float | None]
    rest_ms: float | None
    rows_per_step: float | None
    payload_bytes: float | None
    answer_bytes: float | None
    accuracy_top1: float | None
    agreement_top1: float | None
    overruns: int
    alone: int


def summarise(records: Sequence[Record], elapsed_s: float | None = None) -> Summary:
    """Summary of `records`, all of which count. `elapsed_s`: how long it took to make them, drain included."""
    answered = [record for record in records if record.outcome == "answered"]
    outcomes = Counter(record.outcome for record in records)
    latencies = [ms for record in answered if (ms := answered_ms(record)) is not None]
    steps = [rows for record in answered for rows in record.rows_per_step]
    compared = [r for r in answered if r.top1 is not None and r.reference_top1 is not None]
    labelled = [r for r in answered if r.top1 is not None and r.label is not None]
    return Summary(
        requests=len(records),
        answered=len(answered),
        refused=outcomes["refused"],
        dropped=outcomes["dropped"],
        lost=outcomes["lost"],
        throughput_rps=len(answered) / elapsed_s if elapsed_s else None,
        mean_ms=mean(latencies),
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        p99_ms=percentile(latencies, 99),
        phases_ms={name: mean(phase_values(answered, name)) for name in PHASES},
        rest_ms=mean([rest for record in answered if (rest := rest_ms(record)) is not None]),
        rows_per_step=mean(steps),
        payload_bytes=mean([record.payload_bytes for record in answered]),
        answer_bytes=mean([record.answer_bytes for record in answered]),
        accuracy_top1=mean([record.top1 == record.label for record in labelled]),
        agreement_top1=mean([record.top1 == record.reference_top1 for record in compared]),
        overruns=sum(record.overrun for record in records),
        alone=sum(bool(record.alone) for record in answered),
    )


def answered_ms(record: Record) -> float | None:
    """The inference time of an answered request; None for any other."""
    return record.inference_ms if record.outcome == "answered" else None


def phase_values(records: Sequence[Record], phase: str) -> list[float]:
    """The values of one phase in ms, of the records that have one."""
    values = (getattr(record, f"{phase}_ms") for record in records)
    return [value for value in values if value is not None]


def rest_ms(record: Record) -> float | None:
    """What the phases leave of the inference time: pauses before a retry, threads that wake up, building the reply."""
    if record.inference_ms is None:
        return None
    return record.inference_ms - math.fsum(getattr(record, f"{name}_ms") or 0.0 for name in PHASES)


def elapsed_s(run: StrategyRun) -> float | None:
    """From the end of the warm-up to the last answer, and at least the arrival window; None if nothing counts."""
    records = run.measured
    if not records:
        return None
    last_s = max(record.scheduled_s if record.finished_s is None else record.finished_s for record in records)
    return max(last_s - run.warmup_s, run.window_s or 0.0)


def summarise_runs(runs: Sequence[StrategyRun], cut: int | None = None) -> Summary:
    """Summary of all runs of one strategy pooled (the answers of all seeds), at one cut or at all."""
    records = [r for run in runs for r in run.measured if cut is None or r.cut == cut]
    total_s = math.fsum(elapsed_s(run) or 0.0 for run in runs)
    return summarise(records, total_s)


def generator_lag_p99_ms(run: StrategyRun) -> float | None:
    """99th percentile of how late the generator noticed its own arrivals; None in closed loop, which has none."""
    return percentile([record.generator_lag_ms for record in run.measured], 99) if run.loop == "open" else None


def invalid_reason(run: StrategyRun) -> str | None:
    """Why the run may not be published, or None: the generator itself was late, or nothing was answered."""
    latencies_ms = [ms for record in run.measured if (ms := answered_ms(record)) is not None]
    p50_ms, lag_ms = percentile(latencies_ms, 50), generator_lag_p99_ms(run)
    if p50_ms is None:
        return "no request was answered"
    if lag_ms is not None and not in_time([record.generator_lag_ms for record in run.measured], latencies_ms):
        return (
            f"the load generator was late itself: lag p99 {lag_ms:.1f} ms is more than {MAX_LAG_SHARE:.0%} of the p50 "
            f"of {p50_ms:.1f} ms; use fewer devices, a lower rate or another machine for the devices"
        )
    return None


def is_unstable(run: StrategyRun) -> bool:
    """Whether the queue grew all through the run (`comparison.queue_grew`). Closed loop bounds its own queue."""
    if run.loop == "closed" or not run.window_s:
        return False
    answered = [(r.scheduled_s - run.warmup_s, ms) for r in run.measured if (ms := answered_ms(r)) is not None]
    return queue_grew([due_s for due_s, _ in answered], [ms for _, ms in answered], run.window_s)


def mostly_unstable(runs: Sequence[StrategyRun]) -> bool:
    """A strategy is unstable at this load when it was so under at least half of the seeds."""
    return 2 * sum(map(is_unstable, runs)) >= len(runs)


def server_mean(runs: Sequence[StrategyRun], key: str) -> float | None:
    """Mean over the runs of a figure that their servers gave; those that did not are left out."""
    return mean([value for run in runs if (value := run.server.get(key)) is not None])


def largest_memory(runs: Sequence[StrategyRun]) -> dict[str, Any]:
    """The largest of each part of the server's memory that its runs saw."""
    parts: dict[str, Any] = {}
    for run in runs:
        for name, value in run.server.get("memory_bytes", {}).items():
            known = [v for v in (parts.get(name), value) if v is not None]
            parts[name] = max(known, default=None)
    return parts


def ratio_of(
    runs: Sequence[StrategyRun], baseline: Sequence[StrategyRun], metric: Callable[[StrategyRun], float | None]
) -> Ratio | None:
    """metric(run) / metric(baseline run of the same seed), paired.

    Seeds without a positive value on both sides are left out; None if no pair is left.
    """
    base = {run.seed: metric(run) for run in baseline}
    pairs = [
        (value, other)
        for run in runs
        if (value := metric(run)) is not None and (other := base.get(run.seed)) is not None and min(value, other) > 0
    ]
    return paired_ratio(*map(list, zip(*pairs, strict=True))) if pairs else None


def slo_attainment(records: Sequence[Record], slo_ms: float) -> dict[int, float]:
    """Per cut, the share of all offered requests that were answered correctly within `slo_ms`.

    Refused, dropped, lost and late ones are misses; correct means the unsliced model's top-1, where that is known.
    """
    offered: Counter[int] = Counter()
    met: Counter[int] = Counter()
    for record in records:
        offered[record.cut] += 1
        correct = record.reference_top1 is None or record.top1 == record.reference_top1
        in_time = record.inference_ms is not None and record.inference_ms <= slo_ms
        met[record.cut] += record.outcome == "answered" and correct and in_time
    return {cut: met[cut] / offered[cut] for cut in sorted(offered)}


def goodput_rps(offered: Mapping[float, Sequence[Record]], slo_ms: float, share: float = 0.99) -> float | None:
    """The highest offered rate at which every entry has at least `share` within the SLO; None if there is none."""
    met = [
        rate for rate, records in offered.items() if records and min(slo_attainment(records, slo_ms).values()) >= share
    ]
    return max(met, default=None)
