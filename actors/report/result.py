"""What a load job says: tables for people, one JSON document for programs.

A strategy whose queue grew is reported as unstable, without a latency; a run whose generator was late is named invalid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.report import statistics as stats
from actors.report.statistics import PHASES, Run, Summary
from actors.report.tables import Table, mib, number, share
from slicer.common.comparison import Ratio, mean


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
    runs: tuple[Run, ...]
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

    def of(self, strategy: str) -> list[Run]:
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
    unstable = _unstable(runs)
    cuts = sorted({record.cut for run in runs for record in run.measured})
    return {
        **_figures(stats.summarise_runs(runs), unstable),
        "unstable": unstable,
        "invalid": {str(run.seed): reason for run in runs if (reason := stats.invalid_reason(run)) is not None},
        "server": {key: _mean_of(runs, key) for key in ("busy_share", "rows_per_step", "joules_per_answer")},
        "memory_bytes": _memory(runs),
        "cuts": {str(cut): _figures(stats.summarise_runs(runs, cut), unstable) for cut in cuts},
        "runs": [
            {
                "seed": run.seed,
                "unstable": stats.is_unstable(run),
                "generator_lag_p99_ms": stats.generator_lag_p99_ms(run),
                "server": dict(run.server),
                **_figures(stats.summarise(run.measured, stats.elapsed_s(run)), stats.is_unstable(run)),
            }
            for run in runs
        ],
        **({} if name == result.baseline else {f"ratio_to_{result.baseline}": _ratios(result, name)}),
    }


def _figures(summary: Summary, unstable: bool) -> dict[str, Any]:
    figures = {
        "requests": summary.requests,
        "answered": summary.answered,
        "refused": summary.refused,
        "dropped": summary.dropped,
        "lost": summary.lost,
        "throughput_rps": summary.throughput_rps,
        "mean_ms": summary.mean_ms,
        "p50_ms": summary.p50_ms,
        "p95_ms": summary.p95_ms,
        "p99_ms": summary.p99_ms,
        "phases_ms": summary.phases_ms,
        "rest_ms": summary.rest_ms,
        "rows_per_step": summary.rows_per_step,
        "payload_bytes": summary.payload_bytes,
        "accuracy_top1": summary.accuracy_top1,
        "agreement_top1": summary.agreement_top1,
        "overruns": summary.overruns,
        "alone": summary.alone,
    }
    if unstable:
        figures.update(dict.fromkeys(("mean_ms", "p50_ms", "p95_ms", "p99_ms", "phases_ms", "rest_ms")))
    return figures


def _unstable(runs: Sequence[Run]) -> bool:
    """A strategy is unstable at this load when it was so under at least half of the seeds."""
    return 2 * sum(map(stats.is_unstable, runs)) >= len(runs)


def _mean_of(runs: Sequence[Run], key: str) -> float | None:
    return mean([value for run in runs if (value := run.server.get(key)) is not None])


def _memory(runs: Sequence[Run]) -> dict[str, Any]:
    """The largest of each part of the server's memory that its runs saw."""
    parts: dict[str, Any] = {}
    for run in runs:
        for name, value in run.server.get("memory_bytes", {}).items():
            known = [v for v in (parts.get(name), value) if v is not None]
            parts[name] = max(known, default=None)
    return parts


def _ratios(result: Result, name: str) -> dict[str, Any]:
    """Paired over the seeds, of valid and stable runs only."""
    return {
        label: None if ratio is None else {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "n": ratio.pairs}
        for label, ratio in ratios(result, name).items()
    }


def ratios(result: Result, name: str) -> dict[str, Ratio | None]:
    """Paired ratios of `name` to the baseline: mean and p99 inference time and throughput."""

    def sound(runs: Sequence[Run]) -> list[Run]:
        return [run for run in runs if not stats.is_unstable(run) and stats.invalid_reason(run) is None]

    ours, base = sound(result.of(name)), sound(result.of(result.baseline))
    return {
        "mean_ms": stats.ratio_of(ours, base, lambda run: stats.summarise(run.measured).mean_ms),
        "p99_ms": stats.ratio_of(ours, base, lambda run: stats.summarise(run.measured).p99_ms),
        "throughput_rps": stats.ratio_of(
            ours, base, lambda run: stats.summarise(run.measured, stats.elapsed_s(run)).throughput_rps
        ),
    }


def tables(result: Result) -> list[Table]:
    """Per strategy, per strategy and cut, and the ratios to the baseline where there is something to compare."""
    made = [_by_strategy(result), _by_cut(result)]
    others = [name for name in result.strategies if name != result.baseline]
    if any(_pairs(ratios(result, name)) for name in others):  # none: all invalid or unstable, which the remarks say
        made.append(_ratio_table(result, others))
    return made


def _latencies(summary: Summary, unstable: bool) -> list[str]:
    if unstable:
        return ["unstable", "-", "-", "-"]
    return [number(value) for value in (summary.mean_ms, summary.p50_ms, summary.p95_ms, summary.p99_ms)]


def _by_strategy(result: Result) -> Table:
    rows = []
    for name in result.strategies:
        runs = result.of(name)
        summary = stats.summarise_runs(runs)
        invalid = any(stats.invalid_reason(run) for run in runs)
        memory = _memory(runs)
        rows.append(
            [
                name + (" (!)" if invalid else ""),
                str(summary.requests),
                str(summary.answered),
                str(summary.refused),
                str(summary.dropped),
                str(summary.lost),
                number(summary.throughput_rps),
                *_latencies(summary, _unstable(runs)),
                number(_mean_of(runs, "rows_per_step"), 2),
                share(_mean_of(runs, "busy_share"), 0),
                mib(memory.get("weights")),
                mib(memory.get("process")),
                share(summary.accuracy_top1),
                share(summary.agreement_top1),
            ]
        )
    header = ["strategy", "asked", "answered", "refused", "dropped", "lost", "img/s", "mean", "p50", "p95", "p99"]
    header += ["rows/step", "busy", "weights", "process", "top-1", "agree"]
    marked = "; (!) not to be published, see below" if any(row[0].endswith("(!)") for row in rows) else ""
    return Table(f"Per strategy (inference time in ms, memory in MiB{marked})", header, rows)


def _by_cut(result: Result) -> Table:
    rows = []
    for name in result.strategies:
        runs = result.of(name)
        for cut in sorted({record.cut for run in runs for record in run.measured}):
            summary = stats.summarise_runs(runs, cut)
            phases = [number(None if _unstable(runs) else summary.phases_ms[phase]) for phase in PHASES]
            rows.append(
                [
                    name,
                    str(cut),
                    f"{summary.answered}/{summary.requests}",
                    number(summary.throughput_rps),
                    *_latencies(summary, _unstable(runs)),
                    *phases,
                    number(None if _unstable(runs) else summary.rest_ms),
                    number(summary.rows_per_step, 2),
                    number(None if summary.payload_bytes is None else summary.payload_bytes / 1e3),
                    share(summary.accuracy_top1),
                    share(summary.agreement_top1),
                ]
            )
    header = ["strategy", "cut", "answered", "img/s", "mean", "p50", "p95", "p99", "wait", "head", "enc", "net"]
    header += ["admit", "queue", "exec", "rest", "rows/step", "kB", "top-1", "agree"]
    return Table("Per strategy and cut (ms; the means from wait to rest sum up to mean; kB on the wire)", header, rows)


def _ratio_table(result: Result, others: Sequence[str]) -> Table:
    rows = []
    for name in others:
        found = ratios(result, name)
        rows.append([name, *(_ratio_text(ratio) for ratio in found.values()), str(max(_pairs(found), default=0))])
    title = f"Against {result.baseline}: geometric mean of the ratios of paired seeds [95 % confidence interval]"
    return Table(title, ["strategy", "mean", "p99", "img/s", "seeds"], rows)


def _pairs(found: Mapping[str, Ratio | None]) -> list[int]:
    return [ratio.pairs for ratio in found.values() if ratio is not None]


def _ratio_text(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    interval = "no interval" if ratio.low is None else f"{ratio.low:.2f}, {ratio.high:.2f}"
    return f"{ratio.ratio:.2f} [{interval}]"


def remarks(result: Result) -> list[str]:
    """What a reader must know before using a figure: emulated parts, invalid and unstable runs, overruns."""
    lines = [f"Emulated: {part.removeprefix('emulated ')}." for part in result.emulated]
    lines += [f"FAILED: {failure}." for failure in result.failures]
    for run in result.runs:
        if (reason := stats.invalid_reason(run)) is not None:
            lines.append(f"INVALID: {run.strategy}, seed {run.seed}: {reason}.")
        if stats.is_unstable(run):
            lines.append(f"UNSTABLE: {run.strategy}, seed {run.seed}: its queue grew all through the run.")
    for name in result.strategies:
        summary = stats.summarise_runs(result.of(name))
        if summary.alone:
            lines.append(
                f"ALONE: {name}: {summary.alone} of {summary.answered} answers the devices gave by themselves, since "
                "the server was away, too late or refused."
            )
        if summary.overruns:
            lines.append(
                f"OVERRUN: {name}: {summary.overruns} of {summary.requests} emulated heads took longer on this host "
                "than their profile says."
            )
        lines += [f"MISSED: {name}: {line}" for line in _misses(result.of(name))]
    return [*lines, *result.notes]


def _misses(runs: Sequence[Run]) -> list[str]:
    """How many requests were missed for which reason, with one message as an example; most frequent first."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in (record for run in runs for record in run.measured if record.outcome != "answered"):
        found.setdefault((record.outcome, record.code), []).append(record.message)
    return [
        f"{len(messages)} {outcome}{f' ({code})' if code else ''}{f', such as: {messages[0]}' if messages[0] else ''}."
        for (outcome, code), messages in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def text(result: Result) -> str:
    """The whole report for a terminal."""
    return "\n\n".join(
        [
            result.load,
            *(table.text() for table in tables(result)),
            *(["\n".join(remarks(result))] * bool(remarks(result))),
        ]
    )
