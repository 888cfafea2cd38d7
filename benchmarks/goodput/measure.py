"""The search for each strategy's goodput, seed by seed; one strategy after another, or several at the same time."""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common.command_line import say
from benchmarks.common.rate_search import highest_rate
from benchmarks.common.results import ci95
from benchmarks.goodput.case import Case
from benchmarks.goodput.stack import SHARE, Stack
from slicer.common.comparison import interval

#: The published grid of serve_batch: (batch_wait_timeout_s, max_concurrent_batches, max_batch_size).
SERVE_BATCH_GRID = ((0.0, 1, 32), (0.002, 1, 32), (0.01, 1, 32), (0.0, 2, 32), (0.01, 2, 32), (0.0, 1, 8), (0.01, 1, 8))


class Share:
    """Lets threads in while the weights of those inside add up to no more than a limit; one alone always gets in."""

    def __init__(self, limit: float) -> None:
        self._limit, self._inside, self._count = limit, 0.0, 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, weight: float) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._count or self._inside + weight <= self._limit)
            self._inside, self._count = self._inside + weight, self._count + 1
        try:
            yield
        finally:
            with self._changed:
                self._inside, self._count = self._inside - weight, self._count - 1
                self._changed.notify_all()


def search(stack: Stack, seed: int, near_rps: float, args: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """The highest rate that holds, to 4 %, and all points."""
    points: list[dict[str, Any]] = []

    def holds(rate_rps: float) -> bool:
        wait_while(args.hold)
        points.append(stack.offer(rate_rps, seed, args.requests, args.seconds))
        say(f"{stack.strategy} {stack.slo_s * 1e3:.1f} ms seed {seed}: {rate_rps:.1f}/s: {verdict(points[-1])}")
        return bool(points[-1]["share_within"] >= SHARE)

    return highest_rate(holds, near_rps, stack.case.bound_rps, args.points), points


def wait_while(file: Path | None) -> None:
    """Between points: a person needs the machine as long as the file exists."""
    while file is not None and file.exists():
        time.sleep(0.5)


def verdict(point: dict[str, Any]) -> str:
    """For a person who watches."""
    if point["ended_early"]:
        return "missed, ended early"
    return f"{point['share_within']:.4f} within" + ("" if point["valid"] else ", INVALID (generator lag)")


def best_of_grid(
    name: str, case: Case, slo_s: float, near_rps: float, args: argparse.Namespace
) -> tuple[float, tuple[float, int, int], list[dict[str, Any]]]:
    """The settings of serve_batch, each searched on the first seed with a quarter of the requests; the best one."""
    grid = []
    fewer = argparse.Namespace(**{**vars(args), "requests": max(args.requests // 4, 100), "points": 6})
    for candidate in SERVE_BATCH_GRID[:2] if args.quick else SERVE_BATCH_GRID:
        rps = args.journal.get("serve_batch", slo_s, *candidate)
        if rps is None:
            with Stack(f"{name}-grid", case, "serve_batch", slo_s, candidate) as stack:
                rps = search(stack, args.seeds[0], near_rps, fewer)[0]
            args.journal.put(rps, "serve_batch", slo_s, *candidate)
        grid.append((rps, candidate))
    rps, setting = max(grid)
    tried = [{"batch_wait_s": c[0], "concurrency": c[1], "max_batch": c[2], "rps": round(r, 2)} for r, c in grid]
    return rps, setting, tried


def measure_goodput(stack: Stack, slo_x: float, near: list[float], args: argparse.Namespace) -> dict[str, Any]:
    """All seeds of one strategy at one SLO, and half of the bound.

    Args:
        near: the simulator's prediction for each seed (serve_batch: the grid's best): where the search of the first
            begins; those after it begin at what the earlier ones reached of theirs.
    """
    case, strategy, found = stack.case, stack.strategy, list[float]()
    points: list[dict[str, Any]] = []
    half: list[dict[str, Any]] = []
    with args.share.hold(max(near)):
        for seed, near_rps in zip(args.seeds, near, strict=True):
            # Where the seeds before it were found, of their own predictions: fewer points until the search is there.
            met = statistics.median([rps / guess for rps, guess in zip(found, near, strict=False) if rps] or [1.0])
            known = args.journal.get(strategy, slo_x, seed)
            rps, tried = known or search(stack, seed, near_rps * met, args)
            if known is None:
                args.journal.put((rps, tried), strategy, slo_x, seed)
            found.append(rps)
            points += tried
    for seed in args.seeds[: args.half]:
        wait_while(args.hold)
        with args.share.hold(case.bound_rps / 2):
            point = args.journal.get(strategy, "half", seed)
            if point is None:
                point = stack.offer(case.bound_rps / 2, seed, args.requests, args.seconds, whole=True)
                args.journal.put(point, strategy, "half", seed)
            half.append(point)
        say(f"{strategy} seed {seed}: half of the bound: {half[-1]['slo_clock_ms']}")
    predicted = None if strategy == "serve_batch" else near
    means = [point["slo_clock_ms"].get("mean") for point in half]
    return {
        "strategy": strategy,
        "slo_x": slo_x,
        "slo_ms": round(stack.slo_s * 1e3, 3),
        "emulated": list(stack.emulated),
        "goodput_rps": round(statistics.median(found), 2),
        "ci95": ci95(interval(found)),
        "by_seed_rps": [round(rps, 2) for rps in found],
        "simulated_rps": predicted and round(statistics.median(predicted), 2),
        "simulated_by_seed_rps": predicted and [round(rps, 2) for rps in predicted],
        "mean_ms_at_half_bound": round(statistics.fmean(means), 3) if means and None not in means else None,
        "stable_at_half_bound": all(point["stable"] for point in half),
        "real_over_simulated": over_simulated([*points, *half]),
        "invalid_points": sum(not point["valid"] for point in [*points, *half] if not point["ended_early"]),
        "points": points,
        "at_half_bound": half,
    }


def measure_all(case: Case, order: list[tuple[str, float]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """One after another, or together; then all servers are up before any is measured, since a start takes a core."""
    rows = []
    pool = ThreadPoolExecutor(len(order))
    with ExitStack() as up:
        jobs = []
        for number, (strategy, slo_x) in enumerate(order):
            name, slo_s = f"goodput-{number}", slo_x * case.whole_s
            near = [case.predict(strategy, seed, slo_s, args.requests, args.seconds) for seed in args.seeds]
            setting, grid = None, {}
            if strategy == "serve_batch":
                best_rps, setting, tried = best_of_grid(name, case, slo_s, near[0], args)
                near, grid = [best_rps] * len(args.seeds), {"grid": tried}
            stack = Stack(name, case, strategy, slo_s, setting)
            if args.together:
                jobs.append((up.enter_context(stack), slo_x, near, grid))
            else:
                with stack:
                    rows.append({**measure_goodput(stack, slo_x, near, args), **grid})
        futures = [(pool.submit(measure_goodput, stack, slo_x, near, args), grid) for stack, slo_x, near, grid in jobs]
        rows += [{**future.result(), **grid} for future, grid in futures]
    return sorted(rows, key=lambda row: (row["slo_x"], row["strategy"]))


def over_simulated(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Emulated p50 and p99 over those of the simulator on the recorded arrivals, at points that were run to the end."""
    whole = [p for p in points if p.get("simulated_ms") and p["stable"] and not p["ended_early"]]
    ratios = {q: [p["slo_clock_ms"][q] / p["simulated_ms"][q] for p in whole] for q in ("p50", "p99")}
    return {
        q: {"median": round(statistics.median(r), 3), "least": round(min(r), 3), "most": round(max(r), 3)}
        for q, r in ratios.items()
        if r
    }
