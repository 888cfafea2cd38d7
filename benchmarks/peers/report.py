"""The run for people: a table, and a picture of the latencies over the rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.settings import LIMIT_MS

_TICKS_MS = (5, 10, 20, 50, 100, 200, 500, 1000)
_COLOURS = {
    "headtail_continuous": "#0b6e4f",
    "headtail_per_slice": "#3fa34d",
    "headtail_per_tail_shared": "#a1c181",
    "triton": "#c1121f",
    "litserve": "#e07a1f",
    "serve_batch": "#5b5f97",
    "fastapi": "#7f7f7f",
}


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The table, as Markdown; and what it does not say."""
    rates: list[str] = [f"{rate:g}" for rate in document["rates"]]
    yield f"p50/p99 ms, client's clock; emulated: {', '.join(document['emulated'])}"
    yield ""
    heads = [f"{rate}/s" for rate in rates]
    yield f"| server | {' | '.join(heads)} | within {LIMIT_MS:g} ms up to | CPU us per request |"
    yield "|" + "---|" * (len(rates) + 3)
    for name, points in document["peers"].items():
        cells = [_cell(points.get(rate)) for rate in rates]
        used = document["cpu_us_per_request"].get(name)
        most = document["rate_within_100ms"].get(name)
        yield f"| {name} | {' | '.join(cells)} | {'-' if most is None else f'{most:g}/s'} | {used or '-'} |"
    yield ""
    yield "-: more than the server bears. *: the load generator was late by more than 5 % of the median; no figure."
    for name, choice in document["settings"].items():
        if choice:
            yield f"{name}: best of its grid: {', '.join(f'{key} {value}' for key, value in choice.items())}"
    for name, why in document["skipped"].items():
        yield f"{name}: skipped: {why}"


def _cell(point: Mapping[str, Any] | None) -> str:
    if point is None or point["p50_ms"] is None:
        return "-"
    return f"{point['p50_ms']:.0f}/{point['p99_ms']:.0f}{'' if point['valid'] else ' *'}"


def draw(document: Mapping[str, Any], stem: Path) -> None:
    """``STEM.svg`` and ``STEM.png``: median and p99 over the rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    figure, both = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, which, title in zip(both, ("p50_ms", "p99_ms"), ("median", "99th percentile"), strict=True):
        for name, points in document["peers"].items():
            known = sorted((float(rate), point[which]) for rate, point in points.items() if point[which] is not None)
            ours = name.startswith("headtail")
            style = {"color": _COLOURS.get(name), "linewidth": 2 if ours else 1.4, "linestyle": "-" if ours else "--"}
            axes.plot([x for x, _ in known], [y for _, y in known], marker="o", markersize=4, label=name, **style)
        axes.axhline(LIMIT_MS, color="black", linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel="requests per second", yscale="log")
        axes.set_yticks(_TICKS_MS, [f"{tick:g}" for tick in _TICKS_MS])
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(_TICKS_MS[0], _TICKS_MS[-1])
        axes.grid(alpha=0.25, which="both")
    both[0].set_ylabel("inference time, ms")
    both[0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"Mixed cuts on one emulated accelerator ({document['profile']}); a line ends where a server is overrun"
    )
    for suffix in (".svg", ".png"):
        figure.savefig(stem.with_suffix(suffix), dpi=150)
    pyplot.close(figure)
