"""All pictures of a load job, in the order of the page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.report.page import HEIGHT_IN, drawing
from actors.report.palette import FAINT
from actors.report.plots import groups, latency, memory, over_time, phases, steps, summary
from actors.report.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Their file names, without an ending; "summary" stands at the top of the page.
NAMES = ("summary", "latency_cdf", "phases", "timeline", "over_time", "memory", "groups")

_HOW: dict[str, Callable[[Figure, Result], str]] = {
    "summary": summary.fill,
    "latency_cdf": latency.fill,
    "phases": phases.fill,
    "timeline": steps.fill,
    "over_time": over_time.fill,
    "memory": memory.fill,
    "groups": groups.fill,
}


@dataclass(frozen=True)
class Picture:
    """A picture of a report: its file name without an ending, what it shows, and matplotlib's figure."""

    name: str
    caption: str
    figure: Figure


def draw(result: Result) -> list[Picture]:
    """Those that there is something to draw for; none if nothing was answered. No display is needed."""
    if not any(record.outcome == "answered" for run in result.runs for record in run.measured):
        return []
    made = []
    for name in NAMES:
        with drawing(height_in=HEIGHT_IN) as figure:
            caption = _HOW[name](figure, result)
            if not caption:
                continue
            figure.set_label(caption)
            if result.emulated:
                parts = ", ".join(part.removeprefix("emulated ") for part in result.emulated)
                text = textwrap.shorten(f"emulated: {parts}", 210, placeholder=" ...")
                figure.supxlabel("\n".join(textwrap.wrap(text, 88)), fontsize=8, color=FAINT)
        made.append(Picture(name, caption, figure))
    return made
