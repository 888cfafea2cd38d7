"""The paper's experiment: Vision Transformers in four slices, mixed cuts, every strategy on equal terms.

    python benchmarks/paper/paper.py                       where are the 67 %? In 90 seconds, on an emulated accelerator
    python benchmarks/paper/paper.py --full                the whole experiment: all five models, open and closed loop
    python benchmarks/paper/paper.py --models vit_base_patch16_224,swin_base_patch4_window7_224
    python benchmarks/paper/paper.py --executor emulated --profile launch-bound          (an emulated accelerator)
    python benchmarks/paper/paper.py --as-published --models vit_tiny_patch16_224    (beside the published wait)

Any option but --out asks for the experiment, or for the part of it that the option names.

How much does inference time fall against unbatched serving, from which load on by the paper's 67 %, at which
utilisation, and at what memory? The server's engine without Ray, in a fresh process per model and strategy; random
weights. Open loop (Poisson) at shares of unbatched's measured capacity, and closed loop without think time.
`serve_batch` needs Serve and is in goodput.py. A table for people and a figure per question; one JSON document is the
last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import decimals, integers, names, new_parser, say
from benchmarks.common.results import ROOT, manifest, put, ratio_figures
from benchmarks.common.strategies import IN_ENGINE
from benchmarks.paper import answer, plots
from benchmarks.paper.answer import PAPER
from slicer.common.comparison import paired_ratio

#: The paper's models as timm names them.
MODELS = (
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "deit_base_patch16_224",
    "swin_base_patch4_window7_224",
    "swin_large_patch4_window7_224",
)
PUBLISHED = {
    "published: 4 per model": "benchmarks.paper.published:FullPerModel",
    "published: 16 per slice": "benchmarks.paper.published:FullPerSlice",
}
CHAIN = {"units": 12, "img_size": 8, "in_chans": 1}


def job_of(args: argparse.Namespace, model: str, strategy: str, rates_rps: list[float]) -> dict[str, Any]:
    """What a worker does."""
    emulated = args.executor == "emulated"
    options = {"profile": args.profile} if emulated else {}
    return {
        "model": "deployments.executors.emulated:chain" if emulated else model,
        "kwargs": CHAIN if emulated else json.loads(args.model_kwargs),
        "setup": {
            "strategy": PUBLISHED.get(strategy, strategy),
            "entries": list(args.entries),
            "max_batch": args.max_batch,
            "device": args.device,
            "threads": args.threads if args.device == "cpu" else None,
            "executor": args.executor,
            "executor_options": {**options, **json.loads(args.executor_options)},
            "warm_up_by": "per_slice" if strategy in PUBLISHED else None,  # one row never fills a published batch
        },
        "clients": [] if strategy in PUBLISHED else list(args.clients),
        "rates_rps": rates_rps,
        "seeds": list(args.seeds),
        "seconds": args.seconds,
        "process": "periodic" if args.as_published else "poisson",
        "patience_s": 10.0 if args.as_published else 120.0,
        "memory_clients": 32 if strategy not in PUBLISHED else 0,
        "memory_seconds": args.memory_seconds if strategy not in PUBLISHED else 0.0,
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """One worker, to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.paper.worker", json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job['model']} with {job['setup']['strategy']} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_strategies(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """All strategies on one model: unbatched first, since its capacity sets the loads."""
    first = work({**job_of(args, model, "unbatched", []), "clients": [32]})
    capacity_rps = first["closed"]["32"]["rate_rps"]
    rates = [float(args.clients_per_second)] if args.as_published else [share * capacity_rps for share in args.shares]
    by_strategy: dict[str, Any] = {}
    for strategy in (*args.strategies, *(PUBLISHED if args.as_published else ())):
        by_strategy[strategy] = work(job_of(args, model, strategy, rates))
        say(f"{model}: {strategy} measured")
    return {
        "model": model,
        "unbatched_capacity_rps": capacity_rps,
        "rates_rps": rates,
        "strategies": by_strategy,
        "reductions": [] if args.as_published else reductions(by_strategy, rates, args.shares),
    }


def reductions(by_strategy: dict[str, Any], rates: list[float], shares: Sequence[float]) -> list[dict[str, Any]]:
    """Inference time against unbatched at each load where both are stable, and where 67 % is first reached."""
    base = by_strategy.get("unbatched")
    found: list[dict[str, Any]] = []
    if base is None:
        return found
    for strategy, ours in by_strategy.items():
        if strategy == "unbatched":
            continue
        at: dict[str, Any] = {}
        for share, rate_rps in zip(shares, rates, strict=True):
            runs = [
                [run for run in one["open"] if run["rate_rps"] == rate_rps and run["answered"]] for one in (ours, base)
            ]
            if all(run["stable"] for pair in runs for run in pair) and len(runs[0]) == len(runs[1]) > 0:
                ratio = ratio_figures(paired_ratio(*([run["mean_ms"] for run in pair] for pair in runs)))
                low_high = ratio["ci95"] and [round(1 - bound, 3) for bound in reversed(ratio["ci95"])]
                valid = all(run["valid"] for pair in runs for run in pair)
                at[f"{share:.0%}"] = {"reduction": round(1 - ratio["ratio"], 3), "ci95": low_high, "valid": valid}
            else:
                at[f"{share:.0%}"] = {"reduction": None, "unstable": True}
        closed = {
            clients: round(1 - ours["closed"][clients]["mean_ms"] / run["mean_ms"], 3)
            for clients, run in base["closed"].items()
            if clients in ours["closed"]
        }
        reached = [load for load, one in at.items() if (one["reduction"] or 0) >= PAPER]
        reached_closed = [int(clients) for clients, reduction in closed.items() if reduction >= PAPER]
        found.append(
            {
                "strategy": strategy,
                "open_loop": at,
                "closed_loop": closed,
                "67_percent_from_load": reached[0] if reached else None,
                "67_percent_from_clients": min(reached_closed, default=None),
            }
        )
    return found


def memory_claims(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two claims on memory, per model."""
    claims = []
    for result in results:
        memory = {strategy: one["memory"] for strategy, one in result["strategies"].items()}
        one_model = next(iter(memory.values()))["one_model"]
        claim: dict[str, Any] = {
            "model": result["model"],
            "weights_over_one_model": {s: round(m["weights"] / one_model, 3) for s, m in memory.items()},
        }
        if {"continuous", "per_slice"} <= memory.keys() and memory["per_slice"]["process_peak"]:
            ratio = memory["continuous"]["process_peak"] / memory["per_slice"]["process_peak"]
            claim["process_continuous_over_per_slice"] = round(ratio, 3)
        claims.append(claim)
    return claims


def show(document: dict[str, Any]) -> None:
    """The table for people."""
    for result in document["results"]:
        named = f" ({', '.join(document['emulated'])})" if document["emulated"] else ""
        print(f"{result['model']}{named}: unbatched does {result['unbatched_capacity_rps']:.1f}/s")
        for strategy, one in result["strategies"].items():
            for rate_rps in result["rates_rps"]:
                runs = [run for run in one["open"] if run["rate_rps"] == rate_rps and run["answered"]]
                if not runs:
                    print(f"  {strategy:24} {rate_rps:7.1f}/s  nothing answered")
                    continue
                mean = {
                    key: statistics.fmean(run[key] for run in runs) for key in ("mean_ms", "p99_ms", "rows_per_step")
                }
                lost = sum(run["requests"] - run["answered"] for run in runs)
                notes = ("", "  unstable")[not all(run["stable"] for run in runs)]
                notes += f"  {lost} never answered" if lost else ""
                print(
                    f"  {strategy:24} {rate_rps:7.1f}/s  mean {mean['mean_ms']:8.1f} ms  p99 {mean['p99_ms']:8.1f} ms"
                    f"  {mean['rows_per_step']:4.1f} rows a step{notes}"
                )
        for one in result["reductions"] if document["manifest"]["configuration"]["clients"] else ():
            reached = one["67_percent_from_load"] or "no load that unbatched bears"
            clients = one["67_percent_from_clients"]
            print(
                f"  {one['strategy']:24} 67 % less time: open loop from {reached}, closed loop from {clients} clients"
            )
    for claim in document["memory_claims"]:
        print(f"  {claim['model']}: weights over one model {claim['weights_over_one_model']}", end="")
        print(f", process continuous over per_slice {claim.get('process_continuous_over_per_slice')}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument("--models", type=names, default=",".join(MODELS))
    p.add_argument("--model-kwargs", default="{}", help="JSON, for timm's create_model")
    p.add_argument("--strategies", type=names, default=IN_ENGINE)
    p.add_argument("--entries", type=integers, default="0,1,2,3", help="cuts at which requests arrive, equally often")
    p.add_argument("--shares", type=decimals, default="0.3,0.5,0.7,0.8,0.9", help="open loop: of unbatched's capacity")
    p.add_argument("--clients", type=integers, default="1,2,4,8,16,32,64", help="closed loop")
    p.add_argument("--seconds", type=float, default=10.0, help="of a run")
    p.add_argument("--seeds", type=integers, default="0,1,2,3,4")
    p.add_argument("--max-batch", type=int, default=32)
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--threads", type=int, default=1, help="torch's, on the CPU")
    p.add_argument("--executor", default="torch", help="torch or emulated")
    p.add_argument("--executor-options", default="{}", help='JSON, such as {"dtype": "bf16"}')
    p.add_argument("--profile", default="launch-bound", help="of the emulated accelerator")
    p.add_argument("--memory-seconds", type=float, default=5.0, help="of the closed loop that memory is watched in")
    p.add_argument("--as-published", action="store_true", help="beside the scripts' wait for full batches")
    p.add_argument("--clients-per-second", type=float, default=12.0, help="as published: clients with one request/s")
    p.add_argument("--full", action="store_true", help="the whole experiment; any other option asks for it as well")
    p.add_argument("--quick", action="store_true", help="a smoke test; no figures")
    p.add_argument(
        "--out", type=Path, help="a results file; the pictures stand beside it; the short answer's are in report/"
    )
    return p


def wants_short(args: argparse.Namespace) -> bool:
    """Whether nothing was asked for but an answer."""
    asked = vars(args)
    return all(value == asked[key] for key, value in vars(parser().parse_args([])).items() if key != "out")


def short(args: argparse.Namespace) -> int:
    """The short answer: `benchmarks.paper.answer`."""
    args.executor, args.clients, args.seconds, args.seeds = "emulated", answer.CLIENTS, answer.SECONDS, (0,)
    args.strategies, args.memory_seconds, args.models = answer.STRATEGIES, 0.0, (args.profile,)
    by_strategy: dict[str, Any] = {}
    for number, strategy in enumerate(args.strategies, start=1):
        by_strategy[strategy] = work(job_of(args, args.profile, strategy, []))
        say(f"{strategy} measured ({number} of {len(args.strategies)})")
    found = reductions(by_strategy, [], [])
    emulated = sorted({one["emulated"] for one in by_strategy.values()})
    document = {
        "benchmark": "paper",
        "short": True,
        "emulated": emulated,
        "answer": answer.sentence(found),
        "results": [{"model": args.profile, "strategies": by_strategy, "reductions": found}],
        "manifest": manifest(args, seeds=args.seeds),
    }
    print(document["answer"])
    print(f"Closed loop, the server's engine without Ray; emulated: {', '.join(emulated)}.\n")
    for line in answer.table(by_strategy, found):
        print(line)
    stem = Path("report/paper-67") if args.out is None else args.out.with_suffix("")
    print(f"\nPictures: {', '.join(map(str, answer.draw(found, ', '.join(emulated), stem)))}")
    put(document, args.out)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    args = parser().parse_args(argv)
    if wants_short(args):
        try:
            return short(args)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    if args.executor == "emulated":
        args.models = (args.profile,)
    if args.as_published and args.entries == (0, 1, 2, 3):
        args.entries = (1, 2, 3)  # the scripts cut after blocks 3, 6 and 9
    if args.quick:
        args.seconds, args.seeds, args.clients, args.memory_seconds = 0.5, (0,), (1, 8), 0.3
    try:
        results = [measure_strategies(args, model) for model in args.models]
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    parts = {one["emulated"] for result in results for one in result["strategies"].values() if one["emulated"]}
    document = {
        "benchmark": "paper",
        "as_published": args.as_published,
        "quick": args.quick,
        "emulated": sorted(parts),
        "results": results,
        "memory_claims": memory_claims(results),
        "manifest": manifest(args, seeds=args.seeds),
    }
    show(document)
    put(document, args.out)
    if args.out is not None:
        plots.draw(document, args.out.with_suffix(""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
