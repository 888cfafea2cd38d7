"""The short answer of paper.py: where are the 67 %? One sentence, one table, one picture, in about 90 seconds.

Closed loop, few numbers of clients, the emulated launch-bound accelerator: unbatched serving beside three strategies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PAPER = 0.67
STRATEGIES = ("unbatched", "per_tail", "per_slice", "continuous")
CLIENTS = (1, 2, 4, 6, 8, 16, 32)
SECONDS = 1.5  # of each number of clients


def sentence(reductions: list[Mapping[str, Any]]) -> str:
    """What was found.

    Args:
        reductions: by strategy, as `benchmarks.paper.paper.reductions` makes them.
    """
    begun, never = list[tuple[int, str]](), list[str]()
    for one in reductions:
        first = one["67_percent_from_clients"]
        if first is None:
            never.append(one["strategy"])
        else:
            begun.append((first, one["strategy"]))
    if not begun:
        return f"Where are the 67 %? Nowhere among these loads ({', '.join(never)})."
    reached = ", ".join(f"{strategy} from {clients} on" for clients, strategy in sorted(begun))
    alone = max(one["closed_loop"].get("1", 0.0) for one in reductions)
    return (
        f"Where are the 67 %? Where enough clients wait for each other: {reached}"
        + (f"; {', '.join(never)} nowhere among these" if never else "")
        + f". A client alone gains {alone:.0%} at best: there is nothing to batch."
    )


def table(by_strategy: Mapping[str, Any], reductions: list[Mapping[str, Any]]) -> Iterator[str]:
    """Mean inference time in ms by the number of clients, and how much less than unbatched that is."""
    less = {one["strategy"]: one["closed_loop"] for one in reductions}
    clients = list(next(iter(by_strategy.values()))["closed"])
    yield "mean inference time, ms" + "".join(f"{number:>14}" for number in clients) + "  clients"
    for strategy, one in by_strategy.items():
        cells = [f"{one['closed'][number]['mean_ms']:.1f}" for number in clients]
        shares = [less.get(strategy, {}).get(number) for number in clients]
        shown = [
            cell if share is None else f"{cell} ({-share:+.0%})" for cell, share in zip(cells, shares, strict=True)
        ]
        yield f"{strategy:23}" + "".join(f"{cell:>14}" for cell in shown)


def draw(reductions: list[Mapping[str, Any]], emulated: str, stem: Path) -> list[Path]:
    """``STEM.svg`` and ``STEM.png``: how much less than unbatched, over the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for one in reductions:
        closed = sorted((int(clients), 100 * share) for clients, share in one["closed_loop"].items())
        axes.plot([x for x, _ in closed], [y for _, y in closed], marker="o", label=one["strategy"])
    axes.axhline(100 * PAPER, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("the paper's 67 %", (1, 100 * PAPER), textcoords="offset points", xytext=(0, 4), fontsize=8)
    axes.set_xscale("log", base=2)
    ticks = sorted({int(clients) for one in reductions for clients in one["closed_loop"]})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(xlabel="clients that ask again at once", ylabel="less inference time than unbatched, %")
    axes.set_title(emulated, fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    written = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return written
