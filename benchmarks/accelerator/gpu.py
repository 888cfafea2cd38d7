"""Strategies on a real accelerator: measured profiles, predictions from them, then the engine itself. No Ray needed.

    python benchmarks/accelerator/gpu.py --out results/ --minutes 9          all parts, as far as the time goes
    python benchmarks/accelerator/gpu.py --out results/ --part load --models vit_tiny_patch16_224 --resume

For each model, and in this order: the cost table t(b) is measured and saved as a profile file; the simulator predicts
from it, before any load (part `predictions` needs no GPU), the goodput of every strategy at each SLO; the engine is
then driven in this process (open loop, Poisson, the same arrivals for all) and searched for its goodput and its
saturated rate. Beside these: share of the bound, useful FLOP/s over the peak, rows per step, joules per answer where
NVML counts them, memory of each strategy in a process of its own. What is done is written after every point, so a run
that is cut off is taken up by --resume. ``--device cpu`` with a small model goes the same way. One JSON document is the
last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.accelerator.bench import Bench
from benchmarks.common.command_line import decimals, integers, names, new_parser, say
from benchmarks.common.results import manifest, ratio_figures
from benchmarks.common.strategies import IN_ENGINE
from benchmarks.paper import paper
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile
from slicer.common.comparison import paired_ratio
from slicer.errors import HeadTailError

MODELS = "vit_base_patch16_224,vit_tiny_patch16_224,deit_base_patch16_224,swin_base_patch4_window7_224"
PARTS = ("profiles", "predictions", "load", "memory")


class OutOfTime(Exception):
    """--minutes have passed; what is done is written."""


class Report:
    """The document so far, written after every step."""

    def __init__(self, path: Path, resume: bool, minutes: float) -> None:
        self._path, self._until_s = path, time.monotonic() + 60 * minutes
        self.document: dict[str, Any] = {"benchmark": "gpu", "emulated": [], "models": {}}
        if resume and path.is_file():
            self.document = json.loads(path.read_text(encoding="utf-8"))

    def of(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = self.document["models"].setdefault(model, {"strategies": {}})
        return found

    def save(self) -> None:
        """Raises OutOfTime once the minutes have passed."""
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)
        if time.monotonic() > self._until_s:
            raise OutOfTime


def work(args: argparse.Namespace, report: Report) -> None:
    """All parts that are asked for and not done yet, model by model."""
    for model in args.models:
        bench, found = Bench(args, model), report.of(model)
        if "profiles" in args.parts and "whole_ms" not in found:
            found |= bench.measure_profile()
            report.save()
        if not bench.profile.is_file():
            continue
        costs = load_cost_profile(bench.profile)
        bound, whole_s = found["bound_rps"], costs.span_s(0, costs.num_slices, 1)
        if "predictions" in args.parts:
            predict(args, report, bench, found, costs, whole_s)
        if "load" in args.parts:
            load(args, report, bench, found, costs, bound, whole_s)
        if "memory" in args.parts and "memory" not in found:
            found["memory"] = memory(args, model)
            report.save()


def predict(
    args: argparse.Namespace, report: Report, bench: Bench, found: dict[str, Any], costs: CostModel, whole_s: float
) -> None:
    """What the simulator says of every strategy; on any machine, and before the engine is measured."""
    for strategy in args.strategies:
        entry = found["strategies"].setdefault(strategy, {})
        for x in args.slo_x:
            if f"{x:g}x" not in entry:
                predicted = bench.predict(strategy, x * whole_s, costs)
                entry[f"{x:g}x"] = {"simulated_by_seed_rps": [round(rate, 2) for rate in predicted]}
                report.save()


def load(
    args: argparse.Namespace,
    report: Report,
    bench: Bench,
    found: dict[str, Any],
    costs: CostModel,
    bound: float,
    whole_s: float,
) -> None:
    """The engine under load, where the simulator's predictions are there."""
    for strategy in args.strategies:
        entry = found["strategies"].get(strategy, {})
        if not all(f"{x:g}x" in entry for x in args.slo_x):
            continue
        for x in args.slo_x:
            at = entry[f"{x:g}x"]
            if "goodput_rps" in at:
                continue
            harness = bench.harness(strategy, x * whole_s, costs)
            at |= bench.goodput(harness, x * whole_s, at["simulated_by_seed_rps"], bound)
            if "saturated" not in entry:
                # Of the memory what is this strategy's alone; the process has held others, and part `memory` has not.
                own = {key: harness.executor.memory()[key] for key in ("weights", "activations")}
                entry["saturated"] = bench.saturated(harness, bound) | {"memory": own}
            harness.close()
            say(f"{bench.model} {strategy} {x:g}x: {at['goodput_rps']}/s")
            report.save()
    found["gains"] = gains(found["strategies"], [f"{x:g}x" for x in args.slo_x])


def gains(strategies: dict[str, Any], slos: list[str]) -> list[dict[str, Any]]:
    """Continuous over each other strategy, measured and simulated."""
    found: list[dict[str, Any]] = []
    ours = strategies.get("continuous")
    for other, theirs in strategies.items():
        for slo in slos if ours and other != "continuous" else ():
            pairs = [(ours[slo].get(key), theirs[slo].get(key)) for key in ("by_seed_rps", "simulated_by_seed_rps")]
            if all(values and all(values) for pair in pairs for values in pair):
                real, simulated = (ratio_figures(paired_ratio(*pair)) for pair in pairs)
                found.append({"slo": slo, "over": other, **real, "simulated_ratio": simulated["ratio"]})
    return found


def memory(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """Each strategy in a fresh process; see benchmarks/paper/worker.py."""
    said = {}
    for strategy in args.strategies:
        asked = paper.parser().parse_args(["--device", args.device, "--clients", "", "--memory-seconds", "2"])
        asked.entries, asked.executor_options, asked.max_batch = (0, 1, 2, 3), args.executor_options, args.max_batch
        asked.model_kwargs = json.dumps({**json.loads(args.model_kwargs), "dtype": args.dtype})
        said[strategy] = paper.work(paper.job_of(asked, model, strategy, []))["memory"]
    return said


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument("--out", type=Path, required=True, help="a folder: gpu.json and the profiles")
    p.add_argument("--part", action="append", choices=PARTS, dest="parts", help="default: all")
    p.add_argument("--resume", action="store_true", help="go on where --out ends")
    p.add_argument("--minutes", type=float, default=1e9, help="then end at the next point")
    p.add_argument("--device", default="cuda")
    p.add_argument("--models", type=names, default=MODELS)
    p.add_argument("--model-kwargs", default="{}", help="JSON, for timm's create_model")
    p.add_argument("--dtype", default="bf16", choices=("fp32", "bf16", "fp16"))
    p.add_argument("--executor-options", default="{}", help='JSON, such as {"graphs": "off"}')
    p.add_argument("--slices", type=int, default=4, help="boundaries at which strategies may act; 4, or a multiple")
    p.add_argument("--strategies", type=names, default=IN_ENGINE)
    p.add_argument("--slo-x", type=decimals, default="2,4", help="times the unbatched whole model")
    p.add_argument("--seeds", type=integers, default="0,1,2,3,4")
    p.add_argument("--requests", type=int, default=2000, help="of a point")
    p.add_argument("--points", type=int, default=6, help="most points per seed")
    p.add_argument(
        "--first-step", type=float, default=1.2, help="factor of the search's first step from the prediction"
    )
    p.add_argument("--seconds", type=float, default=4.0, help="of the saturated run")
    p.add_argument("--repeats", type=int, default=20, help="passes of the profile")
    p.add_argument("--max-batch", type=int, default=32)
    p.add_argument("--peak-tflops", type=float, help="of the device at this dtype; default: from a table, by its name")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    args = parser().parse_args(argv)
    args.parts = args.parts or list(PARTS)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out / "gpu.json", args.resume, args.minutes)
    on_gpu = args.device.startswith("cuda") and torch.cuda.is_available()  # predictions need none
    report.document["manifest"] = {
        **manifest(args, seeds=args.seeds),
        "gpu": torch.cuda.get_device_name(args.device) if on_gpu else None,
    }
    made = {key: report.document["manifest"][key] for key in ("commit", "date_utc", "gpu")}
    report.document.setdefault("runs", []).append({"parts": args.parts, **made})
    report.document["finished"] = False
    try:
        work(args, report)
        report.document["finished"] = True
        report.save()
    except OutOfTime:
        print("time is up; go on with --resume", file=sys.stderr)
    except HeadTailError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(report.document))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
