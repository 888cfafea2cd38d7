"""What is said of an outage: requests before, during and after it, when goodput was back, and the tables for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from actors.report import statistics as stats
from actors.report.tables import Table, number
from slicer.core.records.record import Record

ENOUGH = 0.95  # of what a second offered must meet the SLO, for its goodput to be back


def met(record: Record, slo_ms: float) -> bool:
    return record.outcome == "answered" and record.inference_ms is not None and record.inference_ms <= slo_ms


def phases(records: Sequence[Record], at: dict[str, float], slo_ms: float) -> dict[str, dict[str, Any]]:
    spans = {
        "before": (0.0, at["gone_s"]),
        "during": (at["gone_s"], at["back_s"]),
        "first 5 s after": (at["back_s"], at["back_s"] + 5.0),
        "later": (at["back_s"] + 5.0, math.inf),
    }
    found = {}
    for name, (start_s, end_s) in spans.items():
        mine = [r for r in records if start_s <= r.scheduled_s < end_s]
        summary = stats.summarise(mine)
        found[name] = {
            "requests": len(mine),
            "answered": summary.answered,
            "refused": summary.refused,
            "dropped": summary.dropped,
            "lost": summary.lost,
            "reasons": dict(Counter(f"{r.outcome}: {r.code}" for r in mine if r.outcome != "answered")),
            "alone": summary.alone,
            "within_slo": sum(met(r, slo_ms) for r in mine) / len(mine) if mine else None,
            "p50_ms": summary.p50_ms,
            "p99_ms": summary.p99_ms,
            "attempts_most": max((r.attempts for r in mine), default=0),
        }
    return found


def series(records: Sequence[Record], sent_s: Sequence[float], length_s: float, slo_ms: float) -> list[list[int]]:
    """Per second of the run: offered, answered within the SLO, by the device alone, attempts."""
    rows = [[0, 0, 0, 0] for _ in range(math.ceil(length_s))]
    for record in records:
        row = rows[int(record.scheduled_s)]
        row[0] += 1
        row[1] += met(record, slo_ms)
        row[2] += bool(record.alone)
    for moment_s in sent_s:
        if 0 <= moment_s < length_s:
            rows[int(moment_s)][3] += 1
    return rows


def back_after_s(records: Sequence[Record], back_s: float, length_s: float, slo_ms: float) -> float | None:
    """From the server's return until every second meets the SLO again; None: never in this run."""
    seconds = math.floor(length_s - back_s)
    bad = -1
    for second in range(seconds):
        mine = [r for r in records if second <= r.scheduled_s - back_s < second + 1]
        if mine and sum(met(r, slo_ms) for r in mine) < ENOUGH * len(mine):
            bad = second
    return None if bad == seconds - 1 else bad + 1.0


def again_after_s(records: Sequence[Record], back_s: float) -> float | None:
    """From the server's return to the last capture that a device finished by itself."""
    alone = [r.scheduled_s for r in records if r.alone and r.scheduled_s >= back_s]
    return round(max(alone) - back_s, 2) if alone else 0.0


def attempts(moments_s: Sequence[float], at: dict[str, float], length_s: float) -> dict[str, Any]:
    """Per second before and during, and the busiest tenths of a second of the first five after the return."""
    before = [t for t in moments_s if 0 <= t < at["gone_s"]]
    during = [t for t in moments_s if at["gone_s"] <= t < at["back_s"]]
    after = Counter(int(10 * (t - at["back_s"])) for t in moments_s if 0 <= t - at["back_s"] < 5)
    tenths = Counter(int(10 * t) for t in before)
    return {
        "per_s_before": round(len(before) / at["gone_s"], 1),
        "most_in_100_ms_before": max(tenths.values(), default=0),
        "per_s_during": round(len(during) / (at["back_s"] - at["gone_s"]), 1),
        "per_s_after": [sum(after[10 * s + i] for i in range(10)) for s in range(5)],
        "most_in_100_ms_after": max(after.values(), default=0),
    }


def tables(runs: Sequence[dict[str, Any]]) -> str:
    rows, herd = [], []
    for run in runs:
        for name, group in run["groups"].items():
            for phase, p in group["phases"].items():
                share = "-" if p["within_slo"] is None else f"{p['within_slo']:.1%}"
                counts = [str(p[key]) for key in ("requests", "answered", "alone", "refused", "lost")]
                rows.append([run["how"], name, phase, *counts, share, number(p["p50_ms"]), number(p["p99_ms"])])
        for name, a in [
            *((n, g["attempts"]) for n, g in run["groups"].items()),
            ("rows", run["rows_at_the_accelerator"]),
        ]:
            after = " ".join(map(str, a["per_s_after"]))
            most = [str(a[f"most_in_100_ms_{when}"]) for when in ("before", "after")]
            herd.append([run["how"], name, f"{a['per_s_before']:g}", most[0], f"{a['per_s_during']:g}", after, most[1]])
    header = [
        "killed",
        "group",
        "captured",
        "asked",
        "answered",
        "alone",
        "refused",
        "lost",
        "within SLO",
        "p50",
        "p99",
    ]
    made = [Table("Requests by the moment of capture (inference time in ms)", header, rows).text()]
    header = ["killed", "who", "per s before", "most in 0.1 s", "per s during", "after, second by second"]
    made.append(Table("Attempts on the links, and rows at the accelerator", [*header, "most in 0.1 s"], herd).text())
    for run in runs:
        groups = run["groups"]
        made.append(
            f"{run['how']}: gone at {run['gone_s']:.1f} s for {run['back_s'] - run['gone_s']:.1f} s; goodput back in "
            + ", ".join(f"{name} {groups[name]['goodput_back_after_s']} s" for name in groups)
            + f"; the last answer given alone was captured {groups['alone']['by_server_again_after_s']} s after it"
        )
    return "\n\n".join(made)
