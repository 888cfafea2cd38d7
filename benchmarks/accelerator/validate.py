"""Is the simulator right? Its p50 and p99 against a real CPU executor that was calibrated in another run.

    python benchmarks/accelerator/validate.py --model vit_tiny_patch16_224 --out benchmarks/results/validate.json

Three processes of its own, one after another: one measures the cost table t_j(b) with its spread and saves it as a
profile; the next offers Poisson arrivals to the server's engine with torch on the CPU
(`benchmarks.common.engine_harness`: no Ray, nothing emulated) at shares of the bound that the table gives; last, the
simulator replays the recorded arrivals on the saved table, drawing from its spread. Latency is from submission to
the row's end. One JSON document is the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import decimals, names, new_parser, say
from benchmarks.common.engine_harness import WARM_UP, Harness, Setup, latencies_ms, replayed, summary
from benchmarks.common.results import ROOT, manifest, put
from benchmarks.common.strategies import OWN_STEPS
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile, save_cost_profile
from deployments.engine.calibrate import calibrate
from deployments.executors.registry import make_executor
from deployments.scheduling.scheduler import SHARED, Resident
from deployments.simulation.simulator import Setup as Simulated
from deployments.simulation.simulator import Simulation
from deployments.simulation.workloads import Workload, bound_rps
from slicer import slice_model
from slicer.common.comparison import Values, percentile
from slicer.slicing.slice_model import SlicedModel

ENTRIES = (0, 1, 2, 3)
WANTED = 0.2


def model_of(args: argparse.Namespace) -> SlicedModel:
    """Random weights do: the time does not depend on them."""
    return slice_model(args.model, 4, seed=0, verify=False, **json.loads(args.model_kwargs))


def save_table(args: argparse.Namespace) -> None:
    """Measure the table and save it at ``args.profile``."""
    sliced = model_of(args)
    executor = make_executor("torch", device="cpu", threads=1)
    executor.load("m", sliced, {SHARED: Resident(0, 4, own_copy=False)})
    costs = CostModel.unknown(4, args.max_batch)
    costs.name = args.model
    calibrate(
        costs, executor, model="m", entry=0, shape=sliced.shape_at(0), repeats=args.repeats, budget_s=args.budget_s
    )
    save_cost_profile(costs, args.profile)


def drive(args: argparse.Namespace) -> None:
    """Run every strategy at every load, and write what happened to ``args.runs``."""
    sliced, costs = model_of(args), load_cost_profile(args.profile)
    bound = bound_rps(costs, ENTRIES, args.max_batch)
    runs = []
    for strategy in args.strategies:
        harness = Harness(sliced, Setup(strategy, ENTRIES, max_batch=args.max_batch), costs)
        for load in args.loads:
            records, _ = harness.open_loop(Workload(ENTRIES, args.requests, seed=args.seed).arrivals(load * bound))
            said = summary(records)
            skip = int(len(records) * WARM_UP)
            runs.append(
                {
                    "strategy": strategy,
                    "load": load,
                    "real": _percentiles(latencies_ms(records[skip:])),
                    "rows_per_step": said.get("rows_per_step"),
                    "valid": said["valid"],
                    "stable": said["stable"],
                    "arrivals": [(arrival.arrival_s, arrival.entry) for arrival in replayed(records)],
                }
            )
            say(f"{strategy:16} {load:.0%} of the bound: {runs[-1]['real']}")
        harness.close()
    args.runs.write_text(json.dumps(runs))


def simulate(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The recorded arrivals on the saved table: ratios of simulated to real."""
    from deployments.simulation.simulator import Arrival

    costs, found = load_cost_profile(args.profile), []
    for run in json.loads(args.runs.read_text()):
        arrivals = [Arrival(time_s, entry) for time_s, entry in run.pop("arrivals")]
        setup = Simulated(costs, run["strategy"], max_batch=args.max_batch, decision_s=costs.decision_s, draw=True)
        latency_s = Simulation(setup).run(arrivals).latency_s[int(len(arrivals) * WARM_UP) :]
        run["simulated"] = _percentiles(latency_s * 1e3)
        run["ratio"] = {q: round(run["simulated"][q] / run["real"][q], 3) for q in ("p50_ms", "p99_ms")}
        found.append(run)
    return found


def _percentiles(values_ms: Values) -> dict[str, float]:
    found = {"p50_ms": percentile(values_ms, 50), "p99_ms": percentile(values_ms, 99)}
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument("--model", default="vit_tiny_patch16_224")
    p.add_argument("--model-kwargs", default="{}", help="JSON, for timm or an own model's function")
    p.add_argument("--strategies", type=names, default=OWN_STEPS)
    p.add_argument("--loads", type=decimals, default="0.3,0.5,0.7", help="shares of the bound")
    p.add_argument("--requests", type=int, default=1200, help="of a run")
    p.add_argument("--max-batch", type=int, default=8)
    p.add_argument("--repeats", type=int, default=15, help="passes per batch size of the calibration")
    p.add_argument("--budget-s", type=float, default=30.0, help="of the calibration")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--profile", type=Path, help="where the table is saved; default: a temporary file")
    p.add_argument("--out", type=Path, help="a results file")
    p.add_argument("--part", choices=("calibrate", "drive"), help=argparse.SUPPRESS)
    p.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    return p


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    args = parser().parse_args(argv)
    if args.part:
        {"calibrate": save_table, "drive": drive}[args.part](args)
        return 0
    asked = argparse.Namespace(**vars(args))  # without the temporary files below, which nobody finds again
    with tempfile.TemporaryDirectory() as folder:
        args.profile = args.profile or Path(folder) / "profile.yaml"
        args.runs = Path(folder) / "runs.json"
        own = [sys.executable, str(Path(__file__).resolve()), *(sys.argv[1:] if argv is None else argv)]
        for part in ("calibrate", "drive"):
            command = [*own, "--part", part, "--profile", str(args.profile), "--runs", str(args.runs)]
            subprocess.run(command, check=True, cwd=ROOT)
        runs = simulate(args)
        costs = load_cost_profile(args.profile)
    counted = [run for run in runs if run["stable"]]
    worst = {q: max((abs(run["ratio"][q] - 1) for run in counted), default=None) for q in ("p50_ms", "p99_ms")}
    median = {q: statistics.median(run["ratio"][q] for run in counted) if counted else None for q in worst}
    document = {
        "benchmark": "validate",
        "emulated": [],
        "model": args.model,
        "bound_rps": round(bound_rps(costs, ENTRIES, args.max_batch), 2),
        "decision_us": round(costs.decision_s * 1e6, 1),
        "runs": runs,
        "simulated_over_real_median": median,
        "worst_deviation": worst,
        "within_20_percent": {q: sum(abs(run["ratio"][q] - 1) <= WANTED for run in counted) for q in worst},
        "stable_runs": len(counted),
        "manifest": manifest(asked, without=("out", "part", "runs")),
    }
    for run in runs:
        note = "" if run["stable"] else "  unstable" if run["valid"] else "  unstable, INVALID"
        print(f"{run['strategy']:16} {run['load']:.0%}  real {run['real']}  simulated over real {run['ratio']}{note}")
    put(document, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
