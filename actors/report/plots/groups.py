"""What did the devices choose? Per group, the share of its requests that were sent at each cut, with each codec."""

from __future__ import annotations

from collections import Counter
from typing import Any

from actors.report.page import WIDTH_IN
from actors.report.palette import PAPER, entry_colour
from actors.report.result import Result

#: On the light page the first two colours are dark and the others bright; on the dark page all are bright.
_DARK_ENTRIES, _ON_BRIGHT = 2, "#101314"

#: A smaller share has no room for its words.
_ROOM = 0.2


def choices(result: Result) -> dict[str, Counter[tuple[int, str]]]:
    """Per group, how many requests were meant for which cut and codec, all strategies together."""
    found: dict[str, Counter[tuple[int, str]]] = {}
    for run in result.runs:
        for record in run.measured:
            found.setdefault(record.group, Counter())[record.cut, record.codec] += 1
    return found


def fill(figure: Any, result: Result) -> str:
    """Draw it; returns the caption."""
    found = choices(result)
    figure.set_size_inches(WIDTH_IN, 1.0 + 0.42 * len(found))
    axes = figure.add_subplot()
    for place, chosen in enumerate(found.values()):
        left, total = 0.0, sum(chosen.values())
        for (cut, codec), requests in sorted(chosen.items()):
            share = requests / total
            axes.barh(place, share, left=left, color=entry_colour(cut), edgecolor=PAPER, linewidth=1, height=0.72)
            if share >= _ROOM:
                text = f"cut {cut}, {codec}" if codec and share >= 2 * _ROOM else f"cut {cut}"
                colour = PAPER if cut < _DARK_ENTRIES else _ON_BRIGHT
                axes.annotate(text, (left + share / 2, place), ha="center", va="center", fontsize=9, color=colour)
            left += share
    devices: dict[str, set[str]] = {}
    for run in result.runs:
        for record in run.records:
            devices.setdefault(record.group, set()).add(record.device)
    axes.set_yticks(range(len(found)), [f"{group} ({len(devices[group])})" for group in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of the group's requests")
    axes.set_title("Cut and codec per group of devices")
    return "Groups of devices (how many), and at which cut and with which codec they sent, all strategies together."
