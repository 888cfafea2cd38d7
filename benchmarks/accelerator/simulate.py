"""Goodput and latency of strategies in virtual time: the server's own scheduler and policies, a cost profile, arrivals.

    python benchmarks/accelerator/simulate.py --profile launch-bound --goodput --slo-x 2 4 \
        --strategies per_tail,continuous
    python benchmarks/accelerator/simulate.py --profile edge-gpu --strategies continuous --rate 100 --boundaries 12
    python benchmarks/accelerator/simulate.py --profile launch-bound --strategies per_slice,continuous --curve

Prints a table for people, then one JSON document as the last line. Everything in it is simulated, and hypothetical
where the profile is. SLO x is x times the time of the whole model, one row, on that profile.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import integers, names, new_parser
from benchmarks.common.results import manifest, put
from benchmarks.common.strategies import OWN_STEPS, options_of
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile
from deployments.simulation.simulator import Run, Setup, Simulation
from deployments.simulation.workloads import Workload, bound_rps, goodput_rps
from slicer.common.comparison import interval
from slicer.errors import ConfigError

_CURVE = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)


def parser() -> argparse.ArgumentParser:
    p = new_parser(__doc__)
    p.add_argument(
        "--profile", type=names, default="launch-bound", help="a shipped profile's name or a file; several: commas"
    )
    p.add_argument("--strategies", type=names, default=OWN_STEPS)
    p.add_argument(
        "--entries", type=integers, default="0,3,6,9", help="boundaries of the profile at which requests enter"
    )
    p.add_argument(
        "--boundaries",
        type=integers,
        default="4",
        help="into how many equal slices the profile is cut; several: commas",
    )
    p.add_argument("--goodput", action="store_true", help="search the goodput at every --slo-x")
    p.add_argument(
        "--slo-x", type=float, nargs="+", default=[2.0, 4.0], help="SLOs; at a --rate the largest one counts"
    )
    p.add_argument("--curve", action="store_true", help=f"goodput at {', '.join(map(str, _CURVE))} x")
    p.add_argument("--rate", type=float, nargs="+", default=[], help="latency and utilisation at these rates (1/s)")
    p.add_argument("--deadlines", action="store_true", help="requests carry the SLO as their deadline")
    p.add_argument("--lazy-share", type=float, default=1.0, help="lazy keeps slack against this share of the SLO")
    p.add_argument("--process", choices=["poisson", "periodic"], default="poisson")
    p.add_argument("--device-rate", type=float, default=1.0, help="requests/s of one periodic device")
    p.add_argument("--accelerators", type=int, default=1)
    p.add_argument("--routing", choices=["round_robin", "least_loaded"], default="round_robin")
    p.add_argument("--max-batch", type=int, default=32)
    p.add_argument("--decision-us", type=float, default=0.0, help="time that every step costs beside its execution")
    p.add_argument("--draw", action="store_true", help="draw durations from the profile's spread")
    p.add_argument("--requests", type=int, default=5000, help="per point and seed")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--out", type=Path, help="also write the document here")
    return p


class Bench:
    """One profile at one granularity."""

    def __init__(self, args: argparse.Namespace, profile: CostModel, boundaries: int) -> None:
        self.args = args
        if boundaries < 1 or profile.num_slices % boundaries:
            raise ConfigError(f"--boundaries {boundaries} does not divide the profile's {profile.num_slices} slices")
        size = profile.num_slices // boundaries
        self.costs = profile.regroup(range(0, profile.num_slices + 1, size))
        if any(entry % size or not 0 <= entry < profile.num_slices for entry in args.entries):
            entries = ",".join(map(str, args.entries))
            raise ConfigError(f"--entries {entries}: with {boundaries} boundaries they are multiples of {size}")
        self.entries = tuple(entry // size for entry in args.entries)
        self.whole_s = profile.span_s(0, profile.num_slices, 1)
        self.bound_rps = bound_rps(self.costs, self.entries, args.max_batch) * args.accelerators
        self.workload = Workload(self.entries, args.requests, process=args.process, device_rate_rps=args.device_rate)

    def run(self, strategy: str, rate_rps: float, seed: int, slo_s: float) -> Run:
        args = self.args
        setup = Setup(
            self.costs,
            strategy,
            options=options_of(strategy, slo_s, args.lazy_share),
            max_batch=args.max_batch,
            accelerators=args.accelerators,
            routing=args.routing,
            decision_s=args.decision_us * 1e-6,
            draw=args.draw,
            seed=seed,
        )
        arrivals = self.workload.seeded(seed).arrivals(rate_rps, slo_s if args.deadlines else None)
        return Simulation(setup).run(arrivals)

    def goodput(self, strategy: str, slo_x: float) -> list[float]:
        """One figure per seed."""
        slo_s = slo_x * self.whole_s

        def within(seed: int) -> Callable[[float], float]:
            return lambda rate_rps: self.run(strategy, rate_rps, seed, slo_s).share_within(slo_s)

        return [goodput_rps(within(seed), self.bound_rps) for seed in range(self.args.seeds)]

    def at_rate(self, strategy: str, rate_rps: float) -> dict[str, Any]:
        """Means over the seeds of what `Run.summary` says, and what a decision cost on this machine."""
        began_s = time.perf_counter()
        slo_s = max(self.args.slo_x) * self.whole_s
        runs = [self.run(strategy, rate_rps, seed, slo_s).summary() for seed in range(self.args.seeds)]
        wall_s = time.perf_counter() - began_s
        keys = ("mean_ms", "p50_ms", "p99_ms", "rows_per_step", "steps_per_request", "utilisation")
        return {
            **{key: round(statistics.fmean(run[key] for run in runs), 4) for key in keys},
            "answered": round(statistics.fmean(run["answered"] / run["requests"] for run in runs), 4),
            "stable": all(run["stable"] for run in runs),
            "wall_us_per_request": round(wall_s / (self.args.requests * self.args.seeds) * 1e6, 1),
        }


def simulated_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    slo_xs = _CURVE if args.curve else args.slo_x if args.goodput or not args.rate else []
    for name in args.profile:
        profile = load_cost_profile(name)
        for boundaries in args.boundaries:
            bench = Bench(args, profile, boundaries)
            order = random.Random(0).sample(args.strategies, len(args.strategies))
            for strategy in order:
                row: dict[str, Any] = {
                    "profile": profile.name or name,
                    "hypothetical": profile.source.hypothetical,
                    "boundaries": boundaries,
                    "strategy": strategy,
                    "bound_rps": round(bench.bound_rps, 2),
                }
                if slo_xs:
                    found = {slo_x: bench.goodput(strategy, slo_x) for slo_x in slo_xs}
                    row["goodput_rps"] = {str(x): round(statistics.fmean(each), 2) for x, each in found.items()}
                    row["ci95_rps"] = {str(x): _half_width(each) for x, each in found.items()}
                    row["by_seed_rps"] = {str(x): [round(one, 2) for one in each] for x, each in found.items()}
                    row["at_half_bound"] = bench.at_rate(strategy, bench.bound_rps / 2)
                row["at_rate"] = {str(rate): bench.at_rate(strategy, rate) for rate in args.rate}
                yield row


def _half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % confidence interval of the mean; None for a single value."""
    found = interval(values)
    return None if found is None else round((found[1] - found[0]) / 2, 2)


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["simulated" + (", hypothetical profile" if any(row["hypothetical"] for row in rows) else "")]
    for row in rows:
        cells = [f"{row['profile']:14} {row['boundaries']:>3} {row['strategy']:16}"]
        cells += [f"{x}x {rps:7.1f}/s ±{row['ci95_rps'][x] or 0:.1f}" for x, rps in row.get("goodput_rps", {}).items()]
        if "at_half_bound" in row:
            half = row["at_half_bound"]
            cells.append(f"half bound: mean {half['mean_ms']:.1f} ms" if half["stable"] else "half bound: unstable")
        for rate, figures in row["at_rate"].items():
            state = "" if figures["stable"] else " unstable"
            cells.append(f"{rate}/s: mean {figures['mean_ms']:.1f} p99 {figures['p99_ms']:.1f} ms{state}")
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        rows = list(simulated_rows(args))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    nowhere = {"hardware": "none: simulated in virtual time", "simulated": True}
    made = manifest(args, seeds=range(args.seeds))
    print(table_of(rows))
    put({"manifest": {**made, **nowhere, "requests_per_point": args.requests}, "results": rows}, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
