"""What a run of one device came to, for people and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..common.statistics import mean, percentile
from ..records.record import Record
from ..settings import DeviceSettings

#: The phases of a request that the summary shows, as the record has them.
PHASES = ("wait_ms", "head_ms", "encode_ms", "network_ms", "admission_ms", "queue_ms", "execution_ms")

#: No outcomes.
NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Sent:
    """What a run came to.

    Attributes:
        records: one per image.
        emulated: the parts of device, link and server that are.
        labels: of the model's classes; empty: the server knows none.
    """

    records: tuple[Record, ...]
    emulated: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass
class SoFar:
    """What a run has come to while it goes on, for whoever interrupts it.

    Attributes:
        ended: the requests that have their outcome, without those of the warm-up; filled by the run's event loop.
        emulated, labels: as in `Sent`; known once the run begins.
    """

    ended: list[Record] = field(default_factory=list)
    emulated: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def second_line(ended: Sequence[Record], before: int, earlier: Mapping[str, int] = NONE) -> str:
    """What a person sees each second: totals, and the times of what ended since `before` records were there.

    Args:
        earlier: outcomes of records that `ended` does not hold any more.
    """
    answered = sum(record.outcome == "answered" for record in ended) + earlier.get("answered", 0)
    missed = len(ended) + sum(earlier.values()) - answered
    new = [record.inference_ms for record in ended[before:] if record.inference_ms is not None]
    times = f"; last second {len(new)}, p50 {percentile(new, 50):.1f} ms, worst {max(new):.1f} ms" if new else ""
    return f"{answered} answered, {missed} missed{times}"


def document(config: DeviceSettings, sent: Sent, *, interrupted: bool = False) -> dict[str, Any]:
    """The summary as plain values; what nobody knows is None.

    Args:
        interrupted: the run was, and `sent` holds what had ended until then.
    """
    times = [record.inference_ms for record in sent.records if record.inference_ms is not None]
    judged = [record for record in sent.records if record.label is not None and record.outcome == "answered"]
    outcomes = ("answered", "refused", "dropped", "lost")
    phases = {name: [getattr(record, name) for record in sent.records] for name in PHASES}
    return {
        "device": config.name,
        "model": config.model,
        "cut": config.cut,
        "codec": config.codec,
        "emulated": list(sent.emulated),
        "interrupted": interrupted,
        "requests": len(sent.records),
        **{name: sum(record.outcome == name for record in sent.records) for name in outcomes},
        "inference_ms": {
            "mean": mean(times),
            "p50": percentile(times, 50),
            "p99": percentile(times, 99),
        },
        "phases_mean_ms": {
            name.removesuffix("_ms"): mean([value for value in values if value is not None])
            for name, values in phases.items()
        },
        "classes": classes_of(sent),
        "top1_right": sum(record.top1 == record.label for record in judged) if judged else None,
        "messages": list(dict.fromkeys(record.message for record in sent.records if record.message))[:5],
    }


def classes_of(sent: Sent, most: int = 5) -> list[dict[str, Any]]:
    """The classes that were answered most often: number, label (None: nobody knows it) and how often."""
    counted = Counter(record.top1 for record in sent.records if record.top1 is not None)
    return [
        {"class": index, "label": sent.labels[index] if index < len(sent.labels) else None, "answers": count}
        for index, count in counted.most_common(most)
    ]


def summary(found: Mapping[str, Any]) -> str:
    """The document for people."""
    times, phases = found["inference_ms"], found["phases_mean_ms"]
    emulated = "".join(f"\nEmulated: {part.removeprefix('emulated ')}." for part in found["emulated"])
    word = " (emulated)" if found["emulated"] else ""
    until = ", until it was interrupted" if found["interrupted"] else ""
    lines = [
        f"{found['device']}: {found['model']}, cut {found['cut']}, {found['codec']}{until}",
        ", ".join(f"{found[name]} {name}" for name in ("answered", "refused", "dropped", "lost")),
    ]
    if times["mean"] is not None:
        lines.append(
            f"inference time{word}: mean {times['mean']:.1f} ms, p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms"
        )
        lines.append(
            "of which, on average: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in phases.items() if ms is not None)
        )
    if found["classes"]:
        often = [
            f"{one['class'] if one['label'] is None else one['label']} ({one['answers']})" for one in found["classes"]
        ]
        lines.append(f"answered most often: {', '.join(often)}")
    if found["top1_right"] is not None:
        lines.append(f"top-1 right: {found['top1_right']} of {found['answered']}")
    lines += [f"missed: {message}" for message in found["messages"]]
    return "\n".join(lines) + emulated
