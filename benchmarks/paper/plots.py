"""The figures of paper.py, one per question and model: ``STEM_MODEL_QUESTION.png``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any


def draw(document: dict[str, Any], stem: Path) -> list[Path]:
    """Draw all figures; their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    questions: dict[str, Callable[[Any, dict[str, Any]], None]] = {
        "inference-time": _inference_time,
        "memory": _memory,
        "utilisation": _utilisation,
    }
    if not document["as_published"]:
        questions["reduction"] = _reduction
    written = []
    for result in document["results"]:
        named = f"{result['model']}" + (f"\n({', '.join(document['emulated'])})" if document["emulated"] else "")
        for question, plot in questions.items():
            figure, axes = pyplot.subplots(figsize=(7, 4.5))
            plot(axes, result)
            if not axes.has_data():  # nothing was asked that it could show
                pyplot.close(figure)
                continue
            axes.legend()
            axes.set_title(named, fontsize=10)
            path = stem.with_name(f"{stem.name}_{result['model']}_{question}.png")
            figure.savefig(path, dpi=130, bbox_inches="tight")
            pyplot.close(figure)
            written.append(path)
    return written


def _by_rate(one: dict[str, Any], key: str) -> list[tuple[float, float]]:
    """(rate, mean over the seeds) where all runs are stable."""
    rates = sorted({run["rate_rps"] for run in one["open"]})
    points = []
    for rate_rps in rates:
        runs = [run for run in one["open"] if run["rate_rps"] == rate_rps and run["answered"]]
        if runs and all(run["stable"] for run in runs):
            points.append((rate_rps, statistics.fmean(run[key] for run in runs)))
    return points


def _inference_time(axes: Any, result: dict[str, Any]) -> None:
    for strategy, one in result["strategies"].items():
        if points := _by_rate(one, "mean_ms"):
            axes.plot(*zip(*points, strict=True), marker="o", label=strategy)
    axes.set(xlabel="offered requests/s (open loop, Poisson)", ylabel="mean inference time in the server (ms)")
    axes.set_yscale("log")


def _utilisation(axes: Any, result: dict[str, Any]) -> None:
    for strategy, one in result["strategies"].items():
        if points := _by_rate(one, "rows_per_step"):
            axes.plot(*zip(*points, strict=True), marker="o", label=strategy)
    axes.set(xlabel="offered requests/s (open loop, Poisson)", ylabel="rows per step (mean over requests)")


def _reduction(axes: Any, result: dict[str, Any]) -> None:
    for one in result["reductions"]:
        points = sorted((int(clients), reduction) for clients, reduction in one["closed_loop"].items())
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, [100 * y for y in ys], marker="o", label=f"{one['strategy']}, closed loop")
    if axes.has_data():
        axes.axhline(67, color="grey", linestyle="--", label="67 %, the paper's claim")
        axes.set_xscale("log", base=2)
    axes.set(xlabel="clients without think time", ylabel="less inference time than unbatched (%)")


def _memory(axes: Any, result: dict[str, Any]) -> None:
    named = [(s, one["memory"]) for s, one in result["strategies"].items() if one["memory"]["process_peak"]]
    bottom = [0.0] * len(named)
    for part, label in (
        ("before", "before a model"),
        ("weights", "weights"),
        ("activations_peak", "activations, peak"),
    ):
        heights = [memory[part] / 1e6 for _, memory in named]
        axes.bar([strategy for strategy, _ in named], heights, bottom=bottom, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    totals = [memory["process_peak"] / 1e6 for _, memory in named]
    axes.plot([strategy for strategy, _ in named], totals, "k_", markersize=24, label="whole process, peak")
    axes.set(ylabel="MB")
    axes.tick_params(axis="x", rotation=20)
