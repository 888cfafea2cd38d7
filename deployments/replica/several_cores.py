"""What several cores of one node say of themselves, as one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def together(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of one or several.

    What was done and held is summed. Seconds of execution and utilisation are the mean, so that they stay shares of one
    accelerator's time; the rest is the first one's. ``replica`` names all, so a report tells when one was replaced.
    """
    first = dict(reports[0])
    if len(reports) == 1:
        return first
    nvml: dict[str, Any] = dict(_summed(report["nvml"] for report in reports))
    nvml["utilisation_percent"] = nvml.get("utilisation_percent", 0) / len(reports)
    return {
        **first,
        "replica": "+".join(sorted(report["replica"] for report in reports)),
        "notes": list(dict.fromkeys(note for report in reports for note in report["notes"])),
        "uptime_s": min(report["uptime_s"] for report in reports),
        "busy_s": sum(report["busy_s"] for report in reports) / len(reports),
        "steps": sum(report["steps"] for report in reports),
        "rows": sum(report["rows"] for report in reports),
        **{key: dict(_summed(report[key] for report in reports)) for key in ("waiting", "rows_per_step", "memory")},
        "nvml": {
            key: None if any(report["nvml"].get(key) is None for report in reports) else values
            for key, values in nvml.items()
        },
    }


def _summed(values: Any) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for one in values:
        total.update({key: value or 0 for key, value in one.items()})
    return total
