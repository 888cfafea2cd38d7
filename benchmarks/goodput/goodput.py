"""Goodput of strategies through the real Serve stack, on an emulated accelerator, beside the simulator's prediction.

    python benchmarks/goodput/goodput.py --profile launch-bound --strategies per_tail,continuous --slo-x 2,4
    python benchmarks/goodput/goodput.py --profile launch-bound --strategies continuous --quick

Real: Serve, HTTP through HAProxy as devices use it (``--way handle``: gRPC), admission, engine, scheduler, policies,
cost table (measured at start). Emulated: the accelerator's times. Open loop, Poisson; a seed offers the same arrivals
to every strategy, stretched to the rate.

The SLO clock runs from the request's arrival in the replica to its finished row: ``admission_ms + queue_ms +
execution_ms`` of a reply's timings. `total_ms`, which adds the hop back to the event loop, and the client's
inference time, from the scheduled moment to the answer, stand beside it. Goodput: the highest offered rate at
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
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.load import applications
from actors.report import provenance
from benchmarks.common.command_line import decimals, integers, names, new_parser
from benchmarks.common.journal import Journal
from benchmarks.common.results import machine, publish, put
from benchmarks.common.strategies import ALL
from benchmarks.goodput.case import Case
from benchmarks.goodput.measure import Share, measure_all
from benchmarks.goodput.report import comparisons, plot, show
from deployments.scheduling.registry import current_name
from slicer.errors import HeadTailError

CURVE = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)


def ray_shutdown() -> None:
    """Ends the Ray of this process."""
    import ray

    ray.shutdown()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument("--profile", default="launch-bound", help="a shipped profile's name or a file")
    p.add_argument("--strategies", type=names, default=ALL)
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
        with applications.ray_session("local"):
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
