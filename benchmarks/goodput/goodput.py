"""Goodput of strategies through the real Serve stack, on an emulated accelerator, beside the simulator's prediction.

    python benchmarks/goodput/goodput.py --profile launch-bound --strategies per_tail,continuous --slo-x 2,4
    python benchmarks/goodput/goodput.py --profile launch-bound --strategies continuous --quick

Real: Serve, HTTP through HAProxy as devices use it (``--way handle``: gRPC), admission, engine, scheduler, policies,
cost table (measured at start). Emulated: the accelerator's times. Open loop, Poisson; a seed offers the same arrivals
to every strategy, stretched to the rate.

The SLO clock runs from the request's arrival in the replica to its finished row: ``admission_ms + queue_ms +
execution_ms`` of `slicer.protocol.messages.Timings`. `total_ms`, which adds the hop back to the event loop, and the
client's inference time, from the scheduled moment to the answer, stand beside it. Goodput: the highest offered rate at
which at least 99 % of the offered requests of every entry are within the SLO, to 4 %; searched around the simulator's
prediction. With ``--together R`` several strategies, each with a server and an accelerator of its own, are measured at
the same time as long as their predicted rates add up to R at most: an emulated accelerator sleeps most of its time.

Prints a table for people, then one JSON document as the last line.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.load import applications as server
from actors.report import provenance
from benchmarks.common.command_line import decimals, integers, names, new_parser, say
from benchmarks.common.journal import Journal
from benchmarks.common.rate_search import highest_rate
from benchmarks.common.results import ci95, machine, publish, put, ratio_figures
from benchmarks.goodput.case import Case
from benchmarks.goodput.stack import SHARE, Stack
from deployments.scheduling.registry import current_name
from slicer.common.comparison import interval, paired_ratio
from slicer.errors import HeadTailError

CURVE = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
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


def measure(stack: Stack, slo_x: float, near: list[float], args: argparse.Namespace) -> dict[str, Any]:
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
                    rows.append({**measure(stack, slo_x, near, args), **grid})
        futures = [(pool.submit(measure, stack, slo_x, near, args), grid) for stack, slo_x, near, grid in jobs]
        rows += [{**future.result(), **grid} for future, grid in futures]
    return sorted(rows, key=lambda row: (row["slo_x"], row["strategy"]))


def ray_shutdown() -> None:
    """Ends the Ray of this process."""
    import ray

    ray.shutdown()


def over_simulated(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Emulated p50 and p99 over those of the simulator on the recorded arrivals, at points that were run to the end."""
    whole = [p for p in points if p.get("simulated_ms") and p["stable"] and not p["ended_early"]]
    ratios = {q: [p["slo_clock_ms"][q] / p["simulated_ms"][q] for p in whole] for q in ("p50", "p99")}
    return {
        q: {"median": round(statistics.median(r), 3), "least": round(min(r), 3), "most": round(max(r), 3)}
        for q, r in ratios.items()
        if r
    }


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Continuous against every other strategy at each SLO, paired by seed, beside the simulated gain."""
    found = []
    for ours in (row for row in rows if row["strategy"] == "continuous"):
        for other in (row for row in rows if row["slo_x"] == ours["slo_x"] and row is not ours):
            if not all(other["by_seed_rps"]):
                continue
            one: dict[str, Any] = {"slo_x": ours["slo_x"], "continuous_over": other["strategy"]}
            one |= ratio_figures(paired_ratio(ours["by_seed_rps"], other["by_seed_rps"]))
            if other["simulated_by_seed_rps"] and all(other["simulated_by_seed_rps"]):
                simulated = paired_ratio(ours["simulated_by_seed_rps"], other["simulated_by_seed_rps"]).ratio
                one["simulated_ratio"] = round(simulated, 3)
                gain = one["ratio"] - 1
                one["share_of_simulated_gain"] = round(gain / (simulated - 1), 3) if simulated > 1.02 else None
            means = ours["mean_ms_at_half_bound"], other["mean_ms_at_half_bound"]
            if None not in means and other["stable_at_half_bound"]:
                one["mean_at_half_bound"] = round(means[0] / means[1] - 1, 3)
            found.append(one)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument("--profile", default="launch-bound", help="a shipped profile's name or a file")
    p.add_argument(
        "--strategies", type=names, default="unbatched,serve_batch,per_tail,per_tail_shared,per_slice,lazy,continuous"
    )
    p.add_argument("--slo-x", type=decimals, default="2,4", help="times the unbatched whole model; several: commas")
    p.add_argument("--curve", action="store_true", help=f"goodput at {', '.join(map(str, CURVE))} x, and a plot")
    p.add_argument("--seconds", type=float, default=5.0, help="least length of a point")
    p.add_argument("--requests", type=int, default=2000, help="least number of counted requests of a point")
    p.add_argument("--most-seconds", type=float, default=math.inf, help="a point is cut to it: fewer requests a seed")
    p.add_argument("--entries", type=integers, default="0,3,6,9", help="blocks of the profile at which requests enter")
    p.add_argument("--boundaries", type=int, default=4, help="into how many equal slices the profile is cut")
    p.add_argument("--seeds", type=integers, default="0,1,2,3,4")
    p.add_argument("--points", type=int, default=10, help="most points per seed")
    p.add_argument("--half", type=int, default=3, help="seeds that are also offered half of the bound")
    p.add_argument("--together", type=float, default=0.0, help="predicted requests/s measured at the same time")
    p.add_argument("--max-batch", type=int, default=32)
    p.add_argument("--senders", type=int, default=1, help="actors that send to a server")
    p.add_argument("--way", choices=("auto", "handle"), default="auto", help="in: HTTP, as devices do, or the handle")
    p.add_argument("--deadlines", action="store_true", help="requests carry the SLO as their deadline")
    p.add_argument("--decision-us", type=float, default=0.0, help="of the simulator: time per step beside execution")
    p.add_argument("--burn-launch-ms", type=float, default=0.0, help="per block, burnt on the host as launches are")
    p.add_argument("--quick", action="store_true", help="a smoke test: few requests, one seed, few points; no figures")
    p.add_argument("--out", type=Path, help="default: benchmarks/results/goodput_PROFILE_HARDWARE_DATE.json")
    p.add_argument("--journal", type=Path, help="keeps what was measured, seed by seed; a run that was cut off goes on")
    p.add_argument("--hold", type=Path, help="no point begins while this file exists: the machine is free then")
    p.add_argument("--raw", type=Path, help="a folder for the timestamps of every request")
    return p


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Goodput over the SLO, a line per strategy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        mine = sorted((row["slo_x"], row["goodput_rps"]) for row in rows if row["strategy"] == strategy)
        axes.plot(*zip(*mine, strict=True), marker="o", label=strategy)
    axes.set(xlabel="SLO (times the unbatched whole model)", ylabel="goodput (requests/s)", title=title)
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def document_of(args: argparse.Namespace, case: Case, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What is printed and stored."""
    where = ("share", "journal", "out", "hold", "raw")  # decide about no figure, and are paths of this machine
    settings = {key: value for key, value in vars(args).items() if key not in where and value != math.inf}
    return {
        "benchmark": "goodput",
        "profile": case.profile.name,
        "hypothetical": case.profile.source.hypothetical,
        "emulated": sorted({part for row in rows for part in row["emulated"]}),
        "slo_clock": "admission_ms + queue_ms + execution_ms: from arrival in the replica to the finished row",
        "quick": args.quick,
        "bound_rps": round(case.bound_rps, 2),
        "results": rows,
        "comparisons": comparisons(rows),
        "manifest": {**provenance.provenance(), "configuration": settings, "seeds": args.seeds},
    }


def asked_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides about a seed's figure; strategies, SLOs and seeds may be added later."""
    keys = (
        "profile",
        "boundaries",
        "max_batch",
        "way",
        "deadlines",
        "requests",
        "seconds",
        "points",
        "senders",
    )
    return {key: getattr(args, key) for key in keys} | {"entries": ",".join(map(str, args.entries))}


def show(document: dict[str, Any]) -> None:
    """The table for people."""
    print(f"emulated: {', '.join(document['emulated'])}; bound {document['bound_rps']:.1f}/s")
    for row in document["results"]:
        mean_ms = row["mean_ms_at_half_bound"]
        half = f"{mean_ms} ms" if row["stable_at_half_bound"] and mean_ms else "unstable" if mean_ms else "-"
        print(f"{row['slo_x']:g}x {row['strategy']:16} {row['goodput_rps']:7.1f}/s {row['ci95']}", end="  ")
        print(f"simulated {row['simulated_rps']}/s  at half of the bound: {half}")
    for one in document["comparisons"]:
        print(
            f"{one['slo_x']:g}x continuous over {one['continuous_over']:16} {one['ratio']:.2f} {one['ci95']}", end="  "
        )
        print(f"simulated {one.get('simulated_ratio')}  mean {one.get('mean_at_half_bound')}")


def main(argv: list[str] | None = None) -> int:
    """Run it; 2 if something asked for is wrong."""
    args = parser().parse_args(argv)
    if args.quick:
        args.seeds, args.requests, args.seconds, args.points, args.half = args.seeds[:1], 300, 1.0, 3, 1
    slo_xs = CURVE if args.curve else args.slo_x
    args.share = Share(args.together)
    try:
        case = Case(
            args.profile,
            args.boundaries,
            args.entries,
            args.max_batch,
            args.senders,
            args.deadlines,
            args.decision_us,
            args.burn_launch_ms,
            args.raw,
            args.most_seconds,
            args.way,
        )
        args.journal = Journal(args.journal, asked_of(args))
        order = [(current_name(strategy), x) for strategy in args.strategies for x in slo_xs]
        random.Random(0).shuffle(order)
        with server.ray_session("local"):
            try:
                rows = measure_all(case, order, args)
            except BaseException as error:  # one failed, or Ctrl-C: other threads would start a new Ray and go on
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                ray_shutdown()
                os._exit(2 if isinstance(error, HeadTailError) else 1)
    except HeadTailError as error:
        print(error, file=sys.stderr)
        return 2
    document = document_of(args, case, rows)
    show(document)
    if args.quick and args.out is None:
        put(document, None)
        return 0
    out = publish(document, args.out, f"goodput_{case.profile.name}_{machine()}")
    if args.curve:
        plot(rows, f"{case.profile.name}, emulated accelerator", out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
