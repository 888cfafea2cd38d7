"""The three pictures, as matplotlib figures of about 5.2 x 3.4 in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headtail.demo.batching import LivePoint, Simulated
from headtail.demo.exactness import Heard
from headtail.demo.load_curve import LIMIT_MS, SERIES
from headtail.demo.splitting import LINKS, Cell, Verdict, verdict_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from slicer.planning.cut_planner import Estimate

SIZE_IN = (5.2, 3.4)

#: Colours that stay apart for colour-blind eyes, on light and dark (Okabe and Ito).
COLOURS = {
    "server-only": "#999999",
    "unbatched": "#D55E00",
    "serve_batch": "#CC79A7",
    "per_tail_shared": "#E69F00",
    "per_slice": "#56B4E9",
    "continuous": "#0072B2",
}

_VERDICTS: dict[Verdict, str] = {
    "split": "#009E73",
    "server-only": "#9CC9E8",
    "device-only": "#F0D58C",
    "impossible": "#D9D9D9",
}


def _figure(size_in: tuple[float, float] = SIZE_IN, columns: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in, layout="constrained")
    return figure, figure.subplots(1, columns, sharey=columns > 1)


def same(heard: Heard) -> Figure:
    """A field per strategy and cut: how many images agree."""
    from matplotlib.patches import Rectangle

    figure, axes = _figure()
    names, cuts = list(heard.served), list(heard.cuts)
    counts = heard.counts()
    for y, name in enumerate(names):
        for x, cut in enumerate([*cuts, len(cuts)]):
            count = heard.same(heard.alone) if x == len(cuts) else counts[name][cut]
            good = count == heard.images
            axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, color="#009E73" if good else "#D55E00"))
            axes.text(x, y, f"{count}/{heard.images}", ha="center", va="center", color="white", fontsize=8)
    axes.set_xlim(-0.5, len(cuts) + 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(cuts) + 1), [*(f"cut {cut}" for cut in cuts), "device\nalone"])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("digits with the unsliced model's class", fontsize=10)
    return figure


def batching(simulated: Simulated, live: Sequence[LivePoint]) -> Figure:
    """p99 and mean over the offered rate; live points as dots."""
    figure, (left, right) = _figure((7.2, 3.4), columns=2)
    for axes, what in ((left, "mean_ms"), (right, "p99_ms")):
        for series in SERIES:
            points = simulated.curves[series]
            style = "--" if series == "per_slice" else "-"
            axes.plot(
                [point.rate_rps for point in points],
                [getattr(point, what) for point in points],
                style,
                color=COLOURS[series],
                linewidth=2 if series == "continuous" else 1.4,
                label=series,
            )
            dots = [one for one in live if one.series == series]
            axes.plot(
                [one.rate_rps for one in dots],
                [getattr(one, what) for one in dots],
                "o",
                color=COLOURS[series],
                markersize=4,
            )
        axes.set_xlabel("offered requests/s")
        axes.grid(alpha=0.25)
        axes.set_title({"mean_ms": "mean", "p99_ms": "p99"}[what] + " in ms (emulated accelerator)", fontsize=9)
    left.set_ylim(0, 2 * LIMIT_MS)
    right.axhline(LIMIT_MS, color="#888888", linewidth=1, linestyle=":")
    right.text(600, LIMIT_MS, f"{LIMIT_MS:g} ms", ha="right", va="bottom", fontsize=8)
    left.legend(fontsize=7, frameon=False, title="dots: live", title_fontsize=7)
    return figure


def splitting(cells: Sequence[Cell]) -> Figure:
    """A field per case: left the fastest choice, right the one that spares the server within the deadline."""
    from matplotlib.patches import Patch, Rectangle

    figure, (left, right) = _figure((7.2, 4.2), columns=2)
    rows = len(cells) // len(LINKS)
    for axes, best in ((left, True), (right, False)):
        for index, one in enumerate(cells):
            y, x = divmod(index, len(LINKS))
            estimate = one.best if best else one.enough
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=_VERDICTS[verdict_of(estimate)]))
            axes.text(x, y, _field(estimate), ha="center", va="center", fontsize=6.5, color="black")
        axes.set_xlim(-0.5, len(LINKS) - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xticks(range(len(LINKS)), LINKS, fontsize=8)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    firsts = cells[:: len(LINKS)]
    left.set_yticks(
        range(rows), [f"{one.board.name} {one.board.rate_rps:g}/s, load {one.load:.0%}" for one in firsts], fontsize=7
    )
    left.set_title("fastest choice, ms", fontsize=9)
    right.set_title("within 250 ms, least server time", fontsize=9)
    figure.legend(
        handles=[Patch(color=colour, label=verdict) for verdict, colour in _VERDICTS.items()],
        loc="outside lower center",
        ncols=4,
        fontsize=7,
        frameon=False,
    )
    return figure


def _field(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    verdict = verdict_of(estimate)
    return f"cut {estimate.choice.cut}: {estimate.total_ms:.0f}" if verdict == "split" else f"{estimate.total_ms:.0f}"
