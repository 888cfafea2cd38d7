"""What overhead.py makes of its turns: medians by process, ratios and differences in pairs, a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common.results import ci95, ratio_figures
from slicer.common.comparison import interval, paired_ratio

#: Not of a server's sum: the client, and what Ray and the applications beside it do meanwhile.
BESIDE = ("client", "others")


@dataclass(frozen=True)
class Turn:
    """One form's part of a round, of one case.

    Attributes:
        cpu_us: of a request by process.
        rate: of requests per second that were answered, from the first arrival to the last answer.
        lag_ms: how late the client sent, the 99th percentile.
        rows_per_step: rows by steps.
        loaded_ms: latency of each body under the load.
        alone_ms: latency of each body that was sent when the one before it had been answered; may be empty.
    """

    cpu_us: dict[str, float]
    rate: float
    lag_ms: float
    rows_per_step: float
    loaded_ms: list[float] = field(repr=False)
    alone_ms: list[float] = field(repr=False)

    @property
    def server_us(self) -> float:
        """Of the server's processes and HAProxy together."""
        return sum(us for name, us in self.cpu_us.items() if name not in BESIDE)


Turns = dict[str, list[Turn]]  # by form


def figures(turns: Turns, rate: float) -> dict[str, Any]:
    """A case as it stands in the document.

    Args:
        turns: of `old`, `new` and `single`, as many of each.
        rate: of requests that was offered.
    """
    old, new, single = (turns[form] for form in ("old", "new", "single"))
    return {
        "cpu_us_per_request": {form: _cpu(of_form) for form, of_form in turns.items()},
        "core_over_old_server": _ratio([t.cpu_us["core"] for t in new], [t.cpu_us["server"] for t in old]),
        "sum_over_old": {
            "new": _ratio([t.server_us for t in new], [t.server_us for t in old]),
            "single": _ratio([t.server_us for t in single], [t.server_us for t in old]),
        },
        **(_alone(turns) if old[0].alone_ms else {}),
        "p50_ms_loaded": _percentiles(turns, 50, lambda t: t.loaded_ms),
        "p99_ms_loaded": _percentiles(turns, 99, lambda t: t.loaded_ms),
        "rate_offered": rate,
        "rate_kept": {form: _rounded([t.rate for t in of_form]) for form, of_form in turns.items()},
        "generator_lag_p99_ms": {form: _rounded([t.lag_ms for t in of_form]) for form, of_form in turns.items()},
        "rows_per_step": {form: _rounded([t.rows_per_step for t in of_form]) for form, of_form in turns.items()},
    }


def _alone(turns: Turns) -> dict[str, Any]:
    return {
        "p50_ms_alone": {form: _rounded(_medians(of_form)) for form, of_form in turns.items()},
        "p50_ms_alone_less_old": {form: _difference(turns[form], turns["old"]) for form in ("new", "single")},
        "p99_ms_alone": _percentiles(turns, 99, lambda t: t.alone_ms),
    }


def _cpu(turns: Sequence[Turn]) -> dict[str, float]:
    """Medians of the rounds by process, and of their sum."""
    by_process = {name: _rounded([t.cpu_us[name] for t in turns]) for name in turns[0].cpu_us}
    return {**by_process, "sum": _rounded([t.server_us for t in turns])}


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any] | None:
    """Paired by round; None where noise of the machine left nothing above 0 of a round."""
    return ratio_figures(paired_ratio(ours, theirs)) if min(*ours, *theirs) > 0 else None


def _difference(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """Of the medians of one client alone, paired by round."""
    differences = [a - b for a, b in zip(_medians(ours), _medians(theirs), strict=True)]
    return {
        "ms": round(statistics.fmean(differences), 4),
        "ci95": ci95(interval(differences)),
        "by_round": [round(one, 4) for one in differences],
    }


def _medians(turns: Sequence[Turn]) -> list[float]:
    return [statistics.median(t.alone_ms) for t in turns]


def _percentiles(turns: Turns, q: float, of: Callable[[Turn], list[float]]) -> dict[str, float]:
    """Of all rounds together."""
    return {
        form: round(float(np.percentile([ms for t in of_form for ms in of(t)], q)), 3)
        for form, of_form in turns.items()
    }


def _rounded(values: Sequence[float]) -> float:
    """Their median."""
    return round(statistics.median(values), 3)


def table(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """For people."""
    columns = ("server", "front", "core", "haproxy")
    lines = [f"{'CPU us per request':36}{'form':6}{''.join(f'{one:>8}' for one in (*columns, 'sum'))}  sum over old"]
    for name, case in cases.items():
        for form, cpu in case["cpu_us_per_request"].items():
            cells = "".join(f"{cpu[what]:8.0f}" if what in cpu else " " * 8 for what in columns)
            lines.append(f"{name:36}{form:6}{cells}{cpu['sum']:8.0f}  {_short(case['sum_over_old'].get(form))}")
    for name, case in cases.items():
        lines.append(
            f"{name}: core over old server {_short(case['core_over_old_server'])}; kept {case['rate_kept']}; "
            f"rows per step {case['rows_per_step']}"
        )
        if "p50_ms_alone" in case:
            less = case["p50_ms_alone_less_old"]["new"]
            lines.append(
                f"    alone p50 {case['p50_ms_alone']} ms, new less old {less['ms']:+.3f} {less['ci95']}; "
                f"p99 {case['p99_ms_alone']}"
            )
    return "\n".join(lines)


def _short(ratio: Mapping[str, Any] | None) -> str:
    return f"{ratio['ratio']:.2f} {ratio['ci95']}" if ratio else "-"
