"""The three pictures, in the style of `actors.report.page`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actors.report.page import drawing
from actors.report.palette import FAINT, strategy_colour, strategy_line
from headtail.demo.batching import LivePoint, Simulated
from headtail.demo.exactness import Heard
from headtail.demo.load_curve import LIMIT_MS, SERIES
from headtail.demo.splitting import DEADLINE_MS, LINKS, Cell, Verdict, verdict_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from slicer.core.planning.cut_planner import Estimate

#: Fields keep their colours on a dark page, and so do the words in them (pure black would turn white there).
_FIELD_INK = "#101010"
_GOOD, _BAD = "#5fbf9f", "#f08a4b"

_VERDICTS: dict[Verdict, str] = {
    "split": "#5fbf9f",
    "server-only": "#9cc9e8",
    "device-only": "#f0d58c",
    "impossible": "#d9d9d9",
}


def same(heard: Heard) -> Figure:
    """A field per strategy and cut: how many images agree."""
    names, cuts, counts = list(heard.served), list(heard.cuts), heard.counts()
    with drawing() as figure:
        figure.set_label("Per strategy and cut, of how many digits the class is the unsliced model's")
        axes = figure.add_subplot()
        for y, name in enumerate(names):
            for x, cut in enumerate(cuts):
                good = counts[name][cut] == heard.images
                _field(axes, x, y, _GOOD if good else _BAD, f"{counts[name][cut]}/{heard.images}", 8)
        _fields(axes, [f"cut {cut}" for cut in cuts], names)
        axes.set_title("digits with the unsliced model's class, through Ray Serve", fontsize=10)
    return figure


def batching(simulated: Simulated, live: Sequence[LivePoint]) -> Figure:
    """The 99th percentile over the offered rate; live points as dots."""
    with drawing() as figure:
        figure.set_label("99th percentile of the time in ms over the offered rate, a line per strategy")
        axes = figure.add_subplot()
        for series in SERIES:
            points = simulated.curves[series]
            axes.plot(
                [point.rate_rps for point in points],
                [point.p99_ms for point in points],
                linestyle=strategy_line(series),
                color=strategy_colour(series),
                label=series,
            )
            for one in live:
                if one.series == series and one.valid:  # what is INVALID is told in words, and is no figure
                    axes.plot(one.rate_rps, one.p99_ms, "o", ms=4, color=strategy_colour(series))
        axes.axhline(LIMIT_MS, color=FAINT, linewidth=1, linestyle=":")
        axes.text(0.02, LIMIT_MS + 1, f"{LIMIT_MS:g} ms", fontsize=8, transform=axes.get_yaxis_transform())
        axes.set_ylim(0, 2 * LIMIT_MS)
        axes.set_xlabel("offered requests/s")
        axes.set_ylabel("p99 in ms, emulated accelerator")
        axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def splitting(cells: Sequence[Cell]) -> Figure:
    """A field per case: left the fastest choice, right the one that spares the server within the deadline."""
    from matplotlib.patches import Patch

    firsts = cells[:: len(LINKS)]
    names = [f"{one.board.name} {one.board.rate_rps:g}/s, load {one.load:.0%}" for one in firsts]
    with drawing(7.2, 4.4) as figure:
        figure.set_label("Per board, load and link, what the planner chooses and its time in ms")
        left, right = figure.subplots(1, 2)
        for axes, best in ((left, True), (right, False)):
            for index, one in enumerate(cells):
                y, x = divmod(index, len(LINKS))
                estimate = one.best if best else one.enough
                _field(axes, x, y, _VERDICTS[verdict_of(estimate)], _words(estimate), 7)
            _fields(axes, list(LINKS), names if best else [""] * len(names))
        left.set_title("fastest choice, ms (emulated)", fontsize=9)
        right.set_title(f"within {DEADLINE_MS:g} ms, least server work (emulated)", fontsize=9)
        figure.legend(
            handles=[Patch(color=colour, label=verdict) for verdict, colour in _VERDICTS.items()],
            loc="outside lower center",
            ncols=4,
        )
    return figure


def _field(axes: Any, x: int, y: int, colour: str, words: str, size: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour))
    axes.text(x, y, words, ha="center", va="center", fontsize=size, color=_FIELD_INK)


def _fields(axes: Any, columns: list[str], rows: list[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    split = verdict_of(estimate) == "split"
    return f"cut {estimate.choice.cut}: {estimate.total_ms:.0f}" if split else f"{estimate.total_ms:.0f}"
