"""The server is gone for 20 s in the middle of a run: what becomes of the requests, and how soon is all as before?

    python benchmarks/outage/outage.py                          three ways to go, one after the other
    python benchmarks/outage/outage.py --how replica --before 5 --outage 5 --after 5

Ways to go: ``replica``: its process gets SIGKILL, and Serve starts another one; ``http``: the same, but devices come by
HTTP and not by Serve's handle, which keeps requests while there is no replica; ``application``: it is deleted, to be
deployed again after half of the outage; ``application-http``: by HTTP, which wants another token then. What comes up is
held back until the outage has lasted as long as it should.

Real: Ray, Serve, handle or HAProxy, fleet, device actors, admission, engine; weights and heads of digits_vit. Emulated:
devices (a hypothetical board; activations are replayed), links (Wi-Fi) and the accelerator.

Two groups of virtual devices, half of the load each, open loop, Poisson:

* ``alone`` holds the whole model and finishes by itself what the server does not answer in time for its deadline;
* ``patient`` cannot: it sends again, with pauses that double and are drawn anew, until the server is back.

Before, during and after are by the intended moment of capture. Goodput counts answers within the SLO, which is alone's
deadline. It is back when in every later second of the run at least 95 % of what was offered meets the SLO. A second's
attempts are what the devices put on their links; rows are what reached the accelerator.

Prints tables for people, then one JSON document as the last line; --out gets it, too.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml

from actors.fleet.config import FleetConfig, parse_fleet
from actors.fleet.fleet import Fleet
from actors.load import applications, arrivals
from benchmarks.common.command_line import names, new_parser, say
from benchmarks.common.results import manifest, publish
from benchmarks.outage.fault import START_IN_S, Began, Outage, times
from benchmarks.outage.figures import again_after_s, attempts, back_after_s, phases, series, tables
from slicer.common.comparison import percentile
from slicer.core.images.folders import LabelledImages
from slicer.core.records.assignment import Assignment
from slicer.models.images import write_digits

MODEL = "digits_vit"
GROUPS = ("alone", "patient")


def fleet_of(args: argparse.Namespace, place: Path) -> FleetConfig:
    board = {
        "name": "board-25ms",
        "hypothetical": True,
        "preprocess_ms": {"mean": 3.0, "std": 0.3},
        "slices_ms": [{"mean": 25.0, "std": 2.5}] * 4,
    }
    (place / "board.yaml").write_text(yaml.safe_dump(board), encoding="utf-8")
    groups = [
        {
            "name": name,
            "count": args.devices,
            "cut": 1,
            "codec": "fp16",
            "profile": "board.yaml",
            "virtual": True,
            "per_actor": 500,
            "alone": "tail" if name == "alone" else "",
            "link": "benchmarks.outage.parts:WatchedLink",
            "link_options": {"preset": "wifi", "log": str(place / f"{name}.log")},
            "transport": "auto",
            "cpus": 0.01,
        }
        for name in GROUPS
    ]
    return parse_fleet({"model": MODEL, "groups": groups, "cache": {"directory": str(place / "cache")}}, "fleet", place)


def assignments_of(fleet: FleetConfig, images: LabelledImages, args: argparse.Namespace) -> dict[str, Assignment]:
    names = [device.name for group in fleet.groups for device in fleet.devices(group)]
    process = arrivals.parse_process("poisson", args.rate)
    length_s = args.before + args.outage + args.after
    scheduled = arrivals.schedule(
        process, names, images=len(images.files), seed=args.seed, warmup_s=0.0, duration_s=length_s, requests=None
    )
    paths, labels = tuple(map(str, images.files)), tuple(images.labels)
    assignments = {
        name: Assignment("outage", paths, labels, mine, top_k=1, warmup=(0, 1), drain_s=60.0)
        for name, mine in scheduled.items()
    }
    return {n: replace(p, deadline_ms=args.slo_ms) if n.startswith("alone") else p for n, p in assignments.items()}


def measure_outage(how: str, images: LabelledImages, args: argparse.Namespace) -> dict[str, Any]:
    app = f"headtail-outage-{how}"
    with tempfile.TemporaryDirectory(prefix="headtail-outage-") as folder:
        place = Path(folder)
        hold, record = place / "hold", place / "record"
        config = {
            "models": [{"name": MODEL, "strategy": "continuous"}],
            "accelerator": "cpu",
            "cpus": 0.01,
            "torch_threads": 1,
            "http": {"enabled": "auto" if how.endswith("http") else False},
            "executor": "benchmarks.outage.parts:HeldExecutor",
            "executor_options": {
                "hold": str(hold),
                "profile": args.profile,
                "answers": args.answers,
                "record": str(record),
            },
        }
        fleet_config = fleet_of(args, place)
        assignments = assignments_of(fleet_config, images, args)
        applications.start({app: config})
        try:
            with Fleet(fleet_config, app=app, run=f"outage-{how}") as fleet:
                say(f"{how}: {len(assignments)} devices have joined")
                outage = Outage(how, app, config, hold, math.inf, args.outage)
                began = Began(place, outage, args.before)
                by_device = fleet.run(assignments, start_in_s=START_IN_S, on_progress=began.look, every_s=0.2)
                outage.join()
                infos, failures = fleet.devices, [*fleet.failures, *filter(None, [outage.error])]
        finally:
            applications.stop(app)
        rows_s = [float(line.split()[1]) for line in record.read_text().splitlines() if line.startswith("row ")]
        sent_s = {name: times(place / f"{name}.log", "send") for name in GROUPS}
    at = {key: getattr(outage, key) - began.began_s for key in ("gone_s", "released_s", "back_s")}
    records = {
        name: [r for device in assignments if device.startswith(name) for r in by_device[device]] for name in GROUPS
    }
    planned = {name: sum(len(p.arrivals) for d, p in assignments.items() if d.startswith(name)) for name in GROUPS}
    length_s = args.before + args.outage + args.after
    return {
        "how": how,
        **{key: round(value, 3) for key, value in at.items()},
        "groups": {
            name: {
                "sent": planned[name],
                "ledger_closes": planned[name] == len(records[name]) == len({r.id for r in records[name]}),
                "phases": phases(records[name], at, args.slo_ms),
                "goodput_back_after_s": back_after_s(records[name], at["back_s"], length_s, args.slo_ms),
                "by_server_again_after_s": again_after_s(records[name], at["back_s"]),
                "attempts": attempts([t - began.began_s for t in sent_s[name]], at, length_s),
                "series": series(records[name], [t - began.began_s for t in sent_s[name]], length_s, args.slo_ms),
            }
            for name in GROUPS
        },
        "rows_at_the_accelerator": attempts([t - began.began_s for t in rows_s], at, length_s),
        "generator_lag_p99_ms": percentile([r.generator_lag_ms for m in records.values() for r in m], 99),
        "failures": failures,
        "emulated": sorted({part for info in infos for part in (*info.emulated, *info.server_emulated)}),
    }


def parser() -> argparse.ArgumentParser:
    p = new_parser(__doc__)
    p.add_argument(
        "--how",
        type=names,
        default="replica,application,http,application-http",
        help="what is killed (default %(default)s)",
    )
    p.add_argument("--devices", type=int, default=50, help="of each group")
    p.add_argument("--rate", type=float, default=40.0, help="images/s of all devices")
    p.add_argument("--before", type=float, default=10.0)
    p.add_argument("--outage", type=float, default=20.0)
    p.add_argument("--after", type=float, default=15.0)
    p.add_argument("--slo-ms", type=float, default=300.0)
    p.add_argument("--profile", default="launch-bound", help="of the emulated accelerator")
    p.add_argument("--answers", choices=("true", "none"), default="none")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="default: benchmarks/results/outage_emulated-CPUScpu_DATE.json")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    images = write_digits(Path("~/.cache/headtail/digits").expanduser())
    load = os.getloadavg()[0]
    runs = []
    for how in args.how:
        with applications.ray_session("local"):  # Serve's way in is fixed at its start
            runs.append(measure_outage(how, images, args))
    document = {
        "benchmark": "outage",
        "load": "open loop: poisson arrivals per device",
        "slo_ms": args.slo_ms,
        "emulated": sorted({part for run in runs for part in run["emulated"]}),
        "runs": runs,
        "manifest": manifest(args, load),
    }
    print(tables(runs))
    publish(document, args.out, "outage_emulated")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
