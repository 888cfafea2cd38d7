"""What a load job says to people: its tables, and what they must know beside them. A column is one entry of a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from actors.report import statistics as stats
from actors.report.result import Result, ratios
from actors.report.statistics import PHASES, StrategyRun, Summary
from actors.report.tables import Column, Table, kilobytes, mib, number, share, table
from slicer.common.comparison import Ratio


@dataclass(frozen=True)
class _Row:
    """The runs of one strategy, of their requests at one cut or at all."""

    strategy: str
    runs: Sequence[StrategyRun]
    cut: int | None = None

    @cached_property
    def summary(self) -> Summary:
        return stats.summarise_runs(self.runs, self.cut)

    @cached_property
    def memory(self) -> Mapping[str, float | None]:
        return stats.largest_memory(self.runs)

    @cached_property
    def unstable(self) -> bool:
        return stats.mostly_unstable(self.runs)

    @cached_property
    def invalid(self) -> bool:
        return any(stats.invalid_reason(run) for run in self.runs)

    def stable(self, value: float | None) -> float | None:
        """A time, of which there is none where a queue grew all along."""
        return None if self.unstable else value


@dataclass(frozen=True)
class _Against:
    """One strategy's ratios to the baseline."""

    strategy: str
    ratios: Mapping[str, Ratio | None]

    @property
    def pairs(self) -> int:
        return max((ratio.pairs for ratio in self.ratios.values() if ratio is not None), default=0)


def _times(unit: str) -> tuple[Column[_Row], ...]:
    return (
        Column("mean", lambda row: "unstable" if row.unstable else row.summary.mean_ms, number, unit),
        Column("p50", lambda row: row.stable(row.summary.p50_ms), number, unit),
        Column("p95", lambda row: row.stable(row.summary.p95_ms), number, unit),
        Column("p99", lambda row: row.stable(row.summary.p99_ms), number, unit),
    )


def _phase(header: str, phase: str) -> Column[_Row]:
    return Column(header, lambda row: row.stable(row.summary.phases_ms[phase]), number, "ms")


_STRATEGY = Column[_Row]("strategy", lambda row: row.strategy)
_RATE = Column[_Row]("img/s", lambda row: row.summary.throughput_rps, number)
_TOP_1 = Column[_Row]("top-1", lambda row: row.summary.accuracy_top1, share)
_AGREE = Column[_Row]("agree", lambda row: row.summary.agreement_top1, share)

_PER_STRATEGY: tuple[Column[_Row], ...] = (
    Column("strategy", lambda row: row.strategy + (" (!)" if row.invalid else "")),
    Column("asked", lambda row: row.summary.requests),
    Column("answered", lambda row: row.summary.answered),
    Column("refused", lambda row: row.summary.refused),
    Column("dropped", lambda row: row.summary.dropped),
    Column("lost", lambda row: row.summary.lost),
    _RATE,
    *_times("inference time in ms"),
    Column("rows/step", lambda row: stats.server_mean(row.runs, "rows_per_step"), lambda value: number(value, 2)),
    Column("busy", lambda row: stats.server_mean(row.runs, "busy_share"), lambda value: share(value, 0)),
    Column("weights", lambda row: row.memory.get("weights"), mib, "memory in MiB"),
    Column("process", lambda row: row.memory.get("process"), mib, "memory in MiB"),
    _TOP_1,
    _AGREE,
)

_PER_CUT: tuple[Column[_Row], ...] = (
    _STRATEGY,
    Column("cut", lambda row: row.cut),
    Column("answered", lambda row: f"{row.summary.answered}/{row.summary.requests}"),
    _RATE,
    *_times("ms"),
    *(_phase(*named) for named in zip(("wait", "head", "enc", "net", "admit", "queue", "exec"), PHASES, strict=True)),
    Column("rest", lambda row: row.stable(row.summary.rest_ms), number, "ms"),
    Column("rows/step", lambda row: row.summary.rows_per_step, lambda value: number(value, 2)),
    Column("kB", lambda row: row.summary.payload_bytes, kilobytes, "kB on the wire"),
    Column("kB back", lambda row: row.summary.answer_bytes, kilobytes, "kB on the wire"),
    _TOP_1,
    _AGREE,
)


def _ratio_text(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    interval = "no interval" if ratio.low is None else f"{ratio.low:.2f}, {ratio.high:.2f}"
    return f"{ratio.ratio:.2f} [{interval}]"


_AGAINST: tuple[Column[_Against], ...] = (
    Column("strategy", lambda row: row.strategy),
    Column("mean", lambda row: row.ratios["mean_ms"], _ratio_text),
    Column("p99", lambda row: row.ratios["p99_ms"], _ratio_text),
    Column("img/s", lambda row: row.ratios["throughput_rps"], _ratio_text),
    Column("seeds", lambda row: row.pairs),
)


def _title_per_cut(units: Sequence[str]) -> str:
    first, *others = units
    return f"Per strategy and cut ({'; '.join([first, 'the means from wait to rest sum up to mean', *others])})"


def tables(result: Result) -> list[Table]:
    """Per strategy, per strategy and cut, and the ratios to the baseline where there is something to compare."""
    every = [_Row(name, result.of(name)) for name in result.strategies]
    cuts = [
        _Row(row.strategy, row.runs, cut)
        for row in every
        for cut in sorted({record.cut for run in row.runs for record in run.measured})
    ]
    marked = "; (!) not to be published, see below" if any(row.invalid for row in every) else ""
    made = [
        table(lambda units: f"Per strategy ({', '.join(units)}{marked})", _PER_STRATEGY, every),
        table(_title_per_cut, _PER_CUT, cuts),
    ]
    others = [_Against(name, ratios(result, name)) for name in result.strategies if name != result.baseline]
    if any(row.pairs for row in others):  # none: all invalid or unstable, which the remarks say
        title = f"Against {result.baseline}: geometric mean of the ratios of paired seeds [95 % confidence interval]"
        made.append(table(lambda _: title, _AGAINST, others))
    return made


def group_table(result: Result) -> Table:
    """Per strategy and group of devices: what it chose, and how it fared; what ran its heads, unless all is torch."""
    rows = []
    runtimes = _runtimes(result)
    told = any(names != ["torch"] for names in runtimes.values())
    for name in result.strategies:
        measured = [record for run in result.of(name) for record in run.measured]
        unstable = stats.mostly_unstable(result.of(name))
        for group in dict.fromkeys(record.group for record in measured):
            own = [record for record in measured if record.group == group]
            chosen = Counter((record.cut, record.codec) for record in own).most_common()
            found = stats.summarise(own)
            rows.append(
                [
                    name,
                    group,
                    *([", ".join(runtimes.get(group, ["-"]))] if told else []),
                    ", ".join(f"{cut} {codec}: {requests / len(own):.0%}" for (cut, codec), requests in chosen),
                    str(len({record.device for record in own})),
                    f"{found.answered}/{found.requests}",
                    number(None if unstable else found.p50_ms),
                    number(None if unstable else found.p99_ms),
                    kilobytes(found.payload_bytes),
                    kilobytes(found.answer_bytes),
                ]
            )
    named = ["strategy", "group", *(["runtime"] if told else []), "cut, codec"]
    header = [*named, "devices", "answered", "p50", "p99", "kB", "kB back"]
    return Table("Per strategy and group of devices (ms; kB on the wire)", header, rows, left=len(named))


def _runtimes(result: Result) -> dict[str, list[str]]:
    """Group -> what ran the heads of its devices, each once."""
    found: dict[str, dict[str, None]] = {}
    for device in result.manifest.get("devices", ()):
        found.setdefault(device["group"], {})[device["runtime"]] = None
    return {group: list(names) for group, names in found.items()}


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


def _misses(runs: Sequence[StrategyRun]) -> list[str]:
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
