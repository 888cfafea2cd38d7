"""What a load job found, and its figures as one JSON document for programs; `report_tables` has them for people.

A strategy whose queue grew is reported as unstable, without a latency; a run whose generator was late is named invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.report import statistics as stats
from actors.report.statistics import StrategyRun, Summary
from slicer.common.comparison import Ratio


@dataclass(frozen=True)
class Result:
    """Everything a job measured.

    Attributes:
        load: the load in one line, for people; begins with "open loop" or "closed loop".
        runs: all runs, in the order in which they ran.
        emulated: names of the emulated parts; empty when all was real.
        manifest: commit, configuration, versions, hardware, seeds.
        baseline: the strategy that ratios are given against.
        notes: what the server or the fleet want a person to know.
        failures: runs that could not be measured, or not to their end; the command then exits with 2.
    """

    load: str
    runs: tuple[StrategyRun, ...]
    emulated: tuple[str, ...]
    manifest: Mapping[str, Any]
    baseline: str
    notes: tuple[str, ...] = field(default=())
    failures: tuple[str, ...] = field(default=())

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies in the order in which they were asked for."""
        asked = self.manifest.get("configuration", {}).get("strategies", ())
        ran = dict.fromkeys(run.strategy for run in self.runs)
        return tuple(sorted(ran, key=lambda name: asked.index(name) if name in asked else len(asked)))

    def of(self, strategy: str) -> list[StrategyRun]:
        """The runs of one strategy."""
        return [run for run in self.runs if run.strategy == strategy]


def document(result: Result) -> dict[str, Any]:
    """The job's result as one JSON value; `actors/report/result.schema.json` describes it."""
    lags = [lag for run in result.runs if (lag := stats.generator_lag_p99_ms(run)) is not None]
    return {
        "load": result.load,
        "strategies": {name: _strategy(result, name) for name in result.strategies},
        "emulated": list(result.emulated),
        "generator_lag_ms": {"p99_worst_run": max(lags, default=None)},
        "notes": [*result.failures, *result.notes],
        "manifest": dict(result.manifest),
    }


def _strategy(result: Result, name: str) -> dict[str, Any]:
    runs = result.of(name)
    unstable = stats.mostly_unstable(runs)
    cuts = sorted({record.cut for run in runs for record in run.measured})
    return {
        **_figures(stats.summarise_runs(runs), unstable),
        "unstable": unstable,
        "invalid": {str(run.seed): reason for run in runs if (reason := stats.invalid_reason(run)) is not None},
        "server": {key: stats.server_mean(runs, key) for key in ("busy_share", "rows_per_step", "joules_per_answer")},
        "memory_bytes": stats.largest_memory(runs),
        "cuts": {str(cut): _figures(stats.summarise_runs(runs, cut), unstable) for cut in cuts},
        "runs": [
            {
                "seed": run.seed,
                "unstable": stats.is_unstable(run),
                "generator_lag_p99_ms": stats.generator_lag_p99_ms(run),
                "server": dict(run.server),
                "traced_steps": len(run.steps),
                **_figures(stats.summarise(run.measured, stats.elapsed_s(run)), stats.is_unstable(run)),
            }
            for run in runs
        ],
        **({} if name == result.baseline else {f"ratio_to_{result.baseline}": _ratios(result, name)}),
    }


def _figures(summary: Summary, unstable: bool) -> dict[str, Any]:
    figures = asdict(summary)
    if unstable:
        figures.update(dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms", "phases_ms", "rest_ms")))
    return figures


def _ratios(result: Result, name: str) -> dict[str, Any]:
    """Paired over the seeds, of valid and stable runs only."""
    return {
        label: None if ratio is None else {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "n": ratio.pairs}
        for label, ratio in ratios(result, name).items()
    }


def sound(result: Result, name: str) -> list[StrategyRun]:
    """The runs of a strategy that may be compared: valid, and without a growing queue."""
    return [run for run in result.of(name) if not stats.is_unstable(run) and stats.invalid_reason(run) is None]


def ratios(result: Result, name: str, base: str | None = None) -> dict[str, Ratio | None]:
    """Paired ratios of `name` to `base` (None: the baseline): mean and p99 inference time and throughput."""
    ours, others = sound(result, name), sound(result, result.baseline if base is None else base)
    return {
        "mean_ms": stats.ratio_of(ours, others, lambda run: stats.summarise(run.measured).mean_ms),
        "p99_ms": stats.ratio_of(ours, others, lambda run: stats.summarise(run.measured).p99_ms),
        "throughput_rps": stats.ratio_of(
            ours, others, lambda run: stats.summarise(run.measured, stats.elapsed_s(run)).throughput_rps
        ),
    }
