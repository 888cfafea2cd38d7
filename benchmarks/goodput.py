"""Goodput of strategies through the real Serve stack, on an emulated accelerator, beside the simulator's prediction.

    python benchmarks/goodput.py --profile launch-bound --strategies per_tail,continuous --slo-x 2,4 --seconds 20
    python benchmarks/goodput.py --profile launch-bound --strategies continuous --quick

Real: Serve, its handle by gRPC, admission, engine, scheduler, policies, cost table (measured at start). Emulated: the
accelerator's times. Open loop, Poisson; a seed offers the same arrivals to every strategy, stretched to the rate.

The SLO clock runs from the request's arrival in the replica to its finished row: ``admission_ms + queue_ms +
execution_ms`` of `slicer.wire.Timings`. `total_ms`, which adds the hop back to the event loop, and the client's
inference time, from the scheduled moment to the answer, stand beside it. Goodput: the highest offered rate at which at
least 99 % of the offered requests of every entry are within the SLO, to 4 %; searched around the simulator's
prediction.

Prints a table for people, then one JSON document as the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from actors import provenance, server
from deployments.cost_profiles import load_profile
from deployments.simulator import Arrival, Setup, Simulation
from deployments.workloads import Workload, bound_rps, goodput_rps
from slicer.errors import ConfigError, HeadTailError

CURVE = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
APP, MODEL, SHAPE = "headtail-goodput", "chain", (1, 8, 8)
WARM_UP = 0.05  # share of the requests of a point that is not counted
SHARE = 0.99
#: The published grid of naive: (batch_wait_timeout_s, max_concurrent_batches, max_batch_size).
NAIVE_GRID = ((0.0, 1, 32), (0.002, 1, 32), (0.01, 1, 32), (0.0, 2, 32), (0.01, 2, 32), (0.0, 1, 8), (0.01, 1, 8))
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


@dataclass(frozen=True)
class Answered:
    """One request; all moments on this host's monotonic clock. Times in the server are None without an answer."""

    due_s: float
    sent_s: float
    received_s: float
    entry: int
    outcome: str
    slo_ms: float | None
    total_ms: float | None


class Sender:
    """A Ray actor that sends its share of the requests, each at its own moment, whatever the server does."""

    async def connect(self) -> None:
        from actors.transport import ServeTransport

        self._server = ServeTransport(APP)
        self._manifest = (await self._server.describe(MODEL)).manifest

    async def run(
        self,
        requests: list[tuple[float, int]],
        begin_s: float,
        slo_ms: float,
        allowed: dict[int, int],
        deadlines: bool,
    ) -> list[Answered]:
        """`allowed`: misses per entry after which the verdict is clear, so that the rest need not be sent."""
        from actors.clock import Clock
        from slicer.wire import Reply, Request

        payload = np.ones(SHAPE, "<f4").tobytes()
        misses: Counter[int] = Counter()
        clock, over, tasks = Clock(), asyncio.Event(), []

        async def one(number: int, due_s: float, entry: int) -> Answered:
            sent_s = clock.now_s()
            slo = slo_ms if deadlines else None
            request = Request(str(number), MODEL, self._manifest, entry, "fp32", SHAPE, payload, None, slo)
            outcome, in_slo_ms, total_ms = "lost", None, None
            try:
                answer = await self._server.infer(request)
                outcome = "answered" if isinstance(answer, Reply) else answer.code
                if isinstance(answer, Reply):
                    t = answer.timings
                    in_slo_ms, total_ms = t.admission_ms + t.queue_ms + t.execution_ms, t.total_ms
            except Exception as error:
                outcome = f"lost: {type(error).__name__}"
            if in_slo_ms is None or in_slo_ms > slo_ms:
                misses[entry] += 1
                if misses[entry] > allowed[entry]:
                    over.set()
            return Answered(due_s, sent_s, clock.now_s(), entry, outcome, in_slo_ms, total_ms)

        for number, (offset_s, entry) in enumerate(requests):
            await clock.until(begin_s + offset_s)
            if over.is_set():
                break
            tasks.append(asyncio.get_running_loop().create_task(one(number, begin_s + offset_s, entry)))
        return list(await asyncio.gather(*tasks))


class Bench:
    """One profile at one granularity, and the senders."""

    def __init__(self, args: argparse.Namespace) -> None:
        import ray

        from slicer.serve_settings import environment

        self.args = args
        self.profile = load_profile(args.profile)
        blocks = self.profile.num_slices
        if blocks % args.boundaries:
            raise ConfigError(f"--boundaries {args.boundaries} does not divide the profile's {blocks} slices")
        self.size = blocks // args.boundaries
        wanted = [int(entry) for entry in args.entries.split(",")]
        if any(entry % self.size or not 0 <= entry < blocks for entry in wanted):
            raise ConfigError(f"--entries {args.entries}: with {args.boundaries} boundaries: multiples of {self.size}")
        self.entries = tuple(entry // self.size for entry in wanted)
        self.costs = self.profile.regroup(range(0, blocks + 1, self.size))
        self.whole_s = self.profile.span_s(0, blocks, 1)
        self.bound_rps = bound_rps(self.costs, self.entries, args.max_batch)
        self.record = Path(tempfile.mkdtemp(prefix="headtail-goodput-")) / "record"
        self.emulated: tuple[str, ...] = ()
        actor = ray.remote(Sender).options(
            num_cpus=0, max_concurrency=10_000, runtime_env={"env_vars": environment("device", http=False)}
        )
        self.senders = [actor.remote() for _ in range(args.senders)]

    def options(self, strategy: str, slo_s: float) -> dict[str, Any]:
        return {"slo_s": slo_s} if strategy == "lazy" else {}

    def start(self, strategy: str, slo_s: float, naive: tuple[float, int, int] | None = None) -> None:
        """A fresh replica of this strategy, and the senders connected to it."""
        import ray

        wait_s, concurrency, batch = naive or (0.01, 1, self.args.max_batch)
        kwargs = {"units": self.profile.num_slices, "img_size": SHAPE[1], "in_chans": SHAPE[0]}
        model = {
            "name": MODEL,
            "model": "deployments.emulated:chain",
            "kwargs": kwargs,
            "num_slices": self.args.boundaries,
            "strategy": strategy,
            "options": self.options(strategy, slo_s),
            "max_batch": batch,
            "entries": self.entries,
        }
        executor = {
            "profile": self.args.profile,
            "record": str(self.record),
            "burn_launch_ms": self.args.burn_launch_ms,
        }
        config = {
            "models": [model],
            "accelerator": "cpu",
            "torch_threads": 1,
            "executor": "emulated",
            "executor_options": executor,
            "naive_batch_wait_timeout_s": wait_s,
            "naive_concurrency": concurrency,
        }
        server.stop(APP)
        server.start({APP: config})
        self.emulated = tuple(server.status(APP)["emulated"])
        ray.get([sender.connect.remote() for sender in self.senders])

    def workload(self, rate_rps: float, seed: int) -> Workload:
        counted = max(self.args.requests, math.ceil(rate_rps * self.args.seconds))
        return Workload(self.entries, math.ceil(counted / (1 - WARM_UP)), seed=seed)

    def simulate(self, strategy: str, arrivals: list[Arrival], slo_s: float) -> Any:
        """The simulator on these arrivals; None for naive, whose batches Serve makes."""
        if strategy == "naive":
            return None
        args = self.args
        setup = Setup(
            self.costs,
            strategy,
            options=self.options(strategy, slo_s),
            max_batch=args.max_batch,
            decision_s=args.decision_us * 1e-6,
        )
        return Simulation(setup).run(arrivals)

    def predict(self, strategy: str, seed: int, slo_s: float) -> float:
        """Goodput by the simulator, on the arrivals that the same seed offers; naive starts from per_tail_shared's."""
        asked = "per_tail_shared" if strategy == "naive" else strategy
        workload = Workload(self.entries, max(self.args.requests, 2000), seed=seed)

        def share(rate_rps: float) -> float:
            deadline_s = slo_s if self.args.deadlines else None
            run = self.simulate(asked, workload.arrivals(rate_rps, deadline_s), slo_s)
            return float(run.share_within(slo_s, WARM_UP))

        return goodput_rps(share, self.bound_rps)

    def offer(self, strategy: str, rate_rps: float, seed: int, slo_s: float, whole: bool = False) -> dict[str, Any]:
        """One point: offer the rate, wait for every answer. Unless `whole`, it ends once the SLO is surely missed."""
        import ray

        arrivals = self.workload(rate_rps, seed).arrivals(rate_rps)
        skip = int(len(arrivals) * WARM_UP)
        planned = Counter(arrival.entry for arrival in arrivals[skip:])
        spare = Counter(arrival.entry for arrival in arrivals[:skip])
        allowed = {e: len(arrivals) if whole else math.floor((1 - SHARE) * planned[e]) + spare[e] for e in self.entries}
        shares: list[list[tuple[float, int]]] = [[] for _ in self.senders]
        for index, arrival in enumerate(arrivals):
            shares[index % len(shares)].append((arrival.arrival_s, arrival.entry))
        at = self.record.stat().st_size
        begin_s = time.monotonic() + 0.5
        calls = [
            sender.run.remote(share, begin_s, slo_s * 1e3, allowed, self.args.deadlines)
            for sender, share in zip(self.senders, shares, strict=True)
        ]
        answers = sorted((one for done in ray.get(calls) for one in done), key=lambda one: one.due_s)
        return self.judge(strategy, rate_rps, seed, slo_s, answers, planned, skip, at, len(answers) < len(arrivals))

    def judge(
        self,
        strategy: str,
        rate_rps: float,
        seed: int,
        slo_s: float,
        answers: list[Answered],
        planned: Counter[int],
        skip: int,
        at: int,
        cut_short: bool,
    ) -> dict[str, Any]:
        counted = answers[skip:]
        within = Counter(one.entry for one in counted if one.slo_ms is not None and one.slo_ms <= slo_s * 1e3)
        least = 0.0 if cut_short else min(within[entry] / planned[entry] for entry in self.entries)
        lag_ms = [(one.sent_s - one.due_s) * 1e3 for one in counted]
        client_ms = [(one.received_s - one.due_s) * 1e3 for one in counted if one.outcome == "answered"]
        slo_ms = [one.slo_ms for one in counted if one.slo_ms is not None]
        lines = [line.split() for line in self.record.read_bytes()[at:].decode().splitlines()]
        steps = [[float(value) for value in line[1:]] for line in lines if line[0] == "step"]
        rows = sorted((float(line[1]), int(line[2])) for line in lines if line[0] == "row")
        point: dict[str, Any] = {
            "rate_rps": round(rate_rps, 2),
            "seed": seed,
            "requests": len(counted),
            "share_within": round(least, 5),
            "ended_early": cut_short,
            "outcomes": dict(Counter(one.outcome for one in counted)),
            "slo_clock_ms": figures(slo_ms),
            "total_ms": figures([one.total_ms for one in counted if one.total_ms is not None]),
            "client_ms": figures(client_ms),
            "generator_lag_p99_ms": figures(lag_ms).get("p99"),
            "valid": bool(client_ms and np.percentile(lag_ms, 99) <= 0.05 * np.percentile(client_ms, 50)),
            "steps": len(steps),
            "rows_per_step": round(statistics.fmean(step[5] for step in steps), 3) if steps else None,
            "overruns": sum(taken - planned > max(0.05 * planned, 1e-4) for _, planned, taken, *_ in steps),
            "taken_over_planned": round(sum(s[2] for s in steps) / sum(s[1] for s in steps), 4) if steps else None,
            "stable": stable(slo_ms),
        }
        if rows:  # the arrivals as the replica saw them, through the simulator
            first_s = rows[0][0]
            deadline_s = slo_s if self.args.deadlines else None
            replay = [Arrival(t - first_s, e, deadline_s and t - first_s + deadline_s) for t, e in rows]
            run = self.simulate(strategy, replay, slo_s)
            if run is not None:
                point["simulated_ms"] = figures([1e3 * v for v in run.latency_s[skip:] if math.isfinite(v)])
                point["simulated_share_within"] = round(run.share_within(slo_s, WARM_UP), 5)
        if self.args.raw:
            self.args.raw.mkdir(parents=True, exist_ok=True)
            name = f"{strategy}_{slo_s * 1e3:.1f}ms_seed{seed}_{rate_rps:.2f}rps.json"
            (self.args.raw / name).write_text(json.dumps([list(vars(one).values()) for one in answers]))
        return point

    def search(self, strategy: str, seed: int, slo_s: float, near_rps: float) -> tuple[float, list[dict[str, Any]]]:
        """The highest rate that holds, to 4 %: steps away from the prediction that grow, then bisection."""
        points: list[dict[str, Any]] = []

        def holds(rate_rps: float) -> bool:
            points.append(self.offer(strategy, rate_rps, seed, slo_s))
            say(f"{strategy} seed {seed}: {rate_rps:.1f}/s: {points[-1]['share_within']:.4f} within")
            return bool(points[-1]["share_within"] >= SHARE)

        rate_rps, factor = max(near_rps, 0.02 * self.bound_rps) * 0.97, 1.06
        first = holds(rate_rps)
        low, high = (rate_rps, math.inf) if first else (0.0, rate_rps)
        while high == math.inf or low == 0.0:
            rate_rps = rate_rps * factor if first else rate_rps / factor
            if rate_rps < 0.01 * self.bound_rps or rate_rps > 1.5 * self.bound_rps or len(points) >= self.args.points:
                break
            low, high = (rate_rps, high) if holds(rate_rps) else (low, rate_rps)
            factor **= 1.6
        while low and high / low > 1.04 and high < math.inf and len(points) < self.args.points:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low, points

    def measure(self, strategy: str, slo_x: float) -> dict[str, Any]:
        """All seeds of one strategy at one SLO; naive first finds the best of its grid, on the first seed."""
        slo_s, seeds = slo_x * self.whole_s, self.args.seeds
        predicted = [self.predict(strategy, seed, slo_s) for seed in seeds]
        row: dict[str, Any] = {"strategy": strategy, "slo_x": slo_x, "slo_ms": round(slo_s * 1e3, 3)}
        setting = None
        if strategy == "naive":
            grid = []
            for candidate in NAIVE_GRID[:2] if self.args.quick else NAIVE_GRID:
                self.start(strategy, slo_s, candidate)
                grid.append((self.search(strategy, seeds[0], slo_s, predicted[0] / 2)[0], candidate))
            best_rps, setting = max(grid)
            predicted = [best_rps] * len(seeds)
            row["grid"] = [{"batch_wait_s": c[0], "concurrency": c[1], "max_batch": c[2], "rps": r} for r, c in grid]
        self.start(strategy, slo_s, setting)
        found, points = [], []
        for seed, near_rps in zip(seeds, predicted, strict=True):
            rps, tried = self.search(strategy, seed, slo_s, near_rps)
            found.append(rps)
            points += tried
        half = [self.offer(strategy, self.bound_rps / 2, seed, slo_s, whole=True) for seed in seeds[: self.args.half]]
        means = [point["slo_clock_ms"].get("mean") for point in half]
        row |= {
            "goodput_rps": round(statistics.median(found), 2),
            "ci95": interval(found),
            "by_seed_rps": [round(rps, 2) for rps in found],
            "simulated_rps": None if strategy == "naive" else round(statistics.median(predicted), 2),
            "mean_ms_at_half_bound": round(statistics.fmean(means), 3) if means and None not in means else None,
            "stable_at_half_bound": all(point["stable"] for point in half),
            "points": points,
            "at_half_bound": half,
        }
        return row


def figures(values_ms: list[float]) -> dict[str, float]:
    if not values_ms:
        return {}
    p50, p99 = np.percentile(values_ms, [50, 99])
    return {"mean": round(statistics.fmean(values_ms), 3), "p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def stable(values_ms: list[float]) -> bool:
    """A queue that grows shows as a later half that waits much longer than the earlier one."""
    half = len(values_ms) // 2
    return half > 0 and statistics.median(values_ms[half:]) < 2 * statistics.median(values_ms[:half])


def interval(values: list[float]) -> list[float] | None:
    """Student's 95 % confidence interval of the mean over the seeds; None for one seed."""
    if len(values) < 2:
        return None
    half = _T95.get(len(values) - 1, 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return [round(statistics.fmean(values) - half, 2), round(statistics.fmean(values) + half, 2)]


def say(line: str, since_s: float = time.monotonic()) -> None:
    print(f"[{time.monotonic() - since_s:6.1f} s] {line}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--profile", default="launch-bound", help="a shipped profile's name or a file")
    p.add_argument("--strategies", default="per_tail,per_tail_shared,per_slice,continuous")
    p.add_argument("--slo-x", default="2,4", help="times the unbatched whole model; several: commas")
    p.add_argument("--curve", action="store_true", help=f"goodput at {', '.join(map(str, CURVE))} x, and a plot")
    p.add_argument("--seconds", type=float, default=10.0, help="least length of a point")
    p.add_argument("--requests", type=int, default=2000, help="least number of counted requests of a point")
    p.add_argument("--entries", default="0,3,6,9", help="blocks of the profile at which requests enter")
    p.add_argument("--boundaries", type=int, default=4, help="into how many equal slices the profile is cut")
    p.add_argument("--seeds", default="0,1,2,3,4")
    p.add_argument("--points", type=int, default=10, help="most points per seed")
    p.add_argument("--half", type=int, default=3, help="seeds that are also offered half of the bound")
    p.add_argument("--max-batch", type=int, default=32)
    p.add_argument("--senders", type=int, default=2, help="actors that send")
    p.add_argument("--deadlines", action="store_true", help="requests carry the SLO as their deadline")
    p.add_argument("--decision-us", type=float, default=0.0, help="of the simulator: time per step beside execution")
    p.add_argument("--burn-launch-ms", type=float, default=0.0, help="per block, burnt on the host as launches are")
    p.add_argument("--quick", action="store_true", help="a smoke test: few requests, one seed, few points; no figures")
    p.add_argument("--out", type=Path, help="default: benchmarks/results/goodput_PROFILE_HARDWARE_DATE.json")
    p.add_argument("--raw", type=Path, help="a folder for the timestamps of every request")
    return p


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
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


def document_of(args: argparse.Namespace, bench: Bench, rows: list[dict[str, Any]]) -> dict[str, Any]:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    return {
        "benchmark": "goodput",
        "profile": bench.profile.name,
        "hypothetical": bench.profile.source.hypothetical,
        "emulated": list(bench.emulated),
        "slo_clock": "admission_ms + queue_ms + execution_ms: from arrival in the replica to the finished row",
        "quick": args.quick,
        "bound_rps": round(bench.bound_rps, 2),
        "results": rows,
        "manifest": {**provenance.provenance(), "configuration": settings, "seeds": args.seeds},
    }


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    if args.quick:
        args.seeds, args.requests, args.seconds, args.points, args.half = args.seeds[:1], 300, 1.0, 3, 1
    slo_xs = CURVE if args.curve else tuple(float(x) for x in args.slo_x.split(","))
    strategies = args.strategies.split(",")
    try:
        with server.ray_session("local"):
            bench = Bench(args)
            order = [(strategy, x) for strategy in strategies for x in slo_xs]
            random.Random(0).shuffle(order)
            rows = [bench.measure(strategy, slo_x) for strategy, slo_x in order]
            server.stop(APP)
    except HeadTailError as error:
        print(error, file=sys.stderr)
        return 2
    document = document_of(args, bench, rows)
    print(f"emulated: {', '.join(bench.emulated)}; bound {bench.bound_rps:.1f}/s")
    for row in sorted(rows, key=lambda row: (row["slo_x"], row["strategy"])):
        simulated, mean_ms = row["simulated_rps"], row["mean_ms_at_half_bound"]
        shown = f"{mean_ms} ms" if row["stable_at_half_bound"] else "unstable"
        print(f"{row['slo_x']:g}x {row['strategy']:16} {row['goodput_rps']:7.1f}/s {row['ci95']}", end="  ")
        print(f"simulated {simulated}/s  at half bound: {shown}")
    out = args.out
    if out is None and not args.quick:
        hardware = f"{re.sub('[^a-z0-9]+', '-', (provenance.hardware()['machine'] or 'host').lower())}-"
        hardware += f"{provenance.hardware()['cpus_usable']}cpu"
        name = f"goodput_{bench.profile.name}_{hardware}_{datetime.now(timezone.utc):%Y-%m-%d}.json"
        out = Path(__file__).parent / "results" / name
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        if args.curve:
            plot(rows, f"{bench.profile.name}, emulated accelerator", out.with_suffix(".png"))
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
