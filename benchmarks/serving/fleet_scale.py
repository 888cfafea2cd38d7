"""Does one server take 10, 100 and 1,000 devices? Virtual devices through the real Ray and Serve stack.

    python benchmarks/serving/fleet_scale.py                                    three sizes, 40 s each
    python benchmarks/serving/fleet_scale.py --devices 10 --rates 20 --seconds 5

Real: Ray, fleet, device actors, Serve, its handle by gRPC (in parcels), admission, engine, scheduler; heads and
activations of the shipped digits_vit. Emulated: the devices (hypothetical boards, a profile per group), their links
(presets), and the accelerator (its times; with --answers true torch computes the logits within them, and agreement with
the unsliced model is counted). Activations are replayed: each image's is computed once per process.

Devices are of five kinds: images at cut 0 as PNG, wired; cut 1, int8, Wi-Fi; cut 2, fp16, LTE; cut 3, fp32, 5G; and
devices that plan for themselves, Wi-Fi. Each has a Poisson process of its own. Open loop: the clock starts at the
schedule.

Says: whether the ledger closes (every intended request has one record, and the accelerator took one row for each that
the server answered), the generator's lag against 5 % of the median, and the memory of device processes and replica over
the run. Prints a table for people, then one JSON document as the last line; --out gets it, too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml

from actors.fleet.config import FleetConfig, parse_fleet
from actors.fleet.fleet import Fleet
from actors.load import applications, arrivals, reference
from actors.report import statistics as stats
from actors.report.tables import Table, number
from benchmarks.common.command_line import decimals, integers, new_parser, say
from benchmarks.common.process_memory import Watch
from benchmarks.common.results import manifest, publish
from slicer.common.comparison import in_time, percentile
from slicer.core.images.folders import LabelledImages
from slicer.core.records.assignment import Assignment
from slicer.core.records.record import Record
from slicer.models.images import write_digits

MODEL = "digits_vit"
APP = "headtail-fleet-scale"

#: (group, share of the devices, ms per slice of its board, what else its group says).
KINDS: tuple[tuple[str, float, float, dict[str, Any]], ...] = (
    ("image", 0.2, 30.0, {"cut": 0, "codec": "png", "link": "wired"}),
    ("quarter", 0.3, 60.0, {"cut": 1, "codec": "int8", "link": "wifi"}),
    ("half", 0.2, 40.0, {"cut": 2, "codec": "fp16", "link": "lte"}),
    ("most", 0.2, 25.0, {"cut": 3, "codec": "fp32", "link": "5g"}),
    ("planner", 0.1, 50.0, {"cut": 1, "codec": "fp32", "link": "wifi", "plan": {}}),
)


def fleet_of(devices: int, parcel_ms: float, cache: Path, boards: Path) -> FleetConfig:
    """A fleet of so many virtual devices; the profiles are written to `boards`."""
    groups: list[dict[str, Any]] = []
    for index, (name, share, slice_ms, more) in enumerate(KINDS):
        others = sum(group["count"] for group in groups)
        count = devices - others if index == len(KINDS) - 1 else round(share * devices)
        board = {
            "name": f"board-{slice_ms:g}ms",
            "hypothetical": True,
            "preprocess_ms": {"mean": slice_ms / 10, "std": slice_ms / 100},
            "slices_ms": [{"mean": slice_ms, "std": slice_ms / 10}] * 4,
        }
        (boards / f"{name}.yaml").write_text(yaml.safe_dump(board), encoding="utf-8")
        group = {"name": name, "count": count, "profile": f"{name}.yaml", "virtual": True, "per_actor": 500, **more}
        groups.append({**group, "parcel_ms": parcel_ms, "transport": "handle", "cpus": 0.01})
    return parse_fleet({"model": MODEL, "groups": groups, "cache": {"directory": str(cache)}}, "fleet", boards)


def assignments_of(
    fleet: FleetConfig, images: LabelledImages, rate_rps: float, args: argparse.Namespace
) -> dict[str, Assignment]:
    names = [device.name for group in fleet.groups for device in fleet.devices(group)]
    process = arrivals.parse_process("poisson", rate_rps)
    count, spans = len(images.files), {"warmup_s": args.warmup, "duration_s": args.seconds, "requests": None}
    scheduled = arrivals.schedule(process, names, images=count, seed=args.seed, **spans)
    paths, labels = tuple(map(str, images.files)), tuple(images.labels)
    return {
        name: Assignment(f"seed{args.seed}", paths, labels, mine, top_k=1, warmup=(0,), drain_s=30.0)
        for name, mine in scheduled.items()
    }


@contextmanager
def served(record: Path, args: argparse.Namespace) -> Iterator[None]:
    """One replica on an emulated accelerator, in a fresh process."""
    config = {
        "models": [{"name": MODEL, "strategy": args.strategy, "max_batch": 32}],
        "accelerator": "cpu",
        "cpus": 0.01,
        "torch_threads": 1,
        "executor": "emulated",
        "executor_options": {"profile": args.profile, "answers": args.answers, "record": str(record)},
    }
    applications.start({APP: config})
    try:
        yield
    finally:
        applications.stop(APP)


def measure_fleet(devices: int, rate_rps: float, images: LabelledImages, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="headtail-fleet-") as folder:
        place = Path(folder)
        config = fleet_of(devices, args.parcel_ms, place / "cache", place)
        assignments = assignments_of(config, images, rate_rps, args)
        record = place / "record"
        with served(record, args):
            began_s = time.monotonic()
            with Fleet(config, app=APP, run=f"scale-{devices}") as fleet:
                say(f"{devices} devices have joined after {time.monotonic() - began_s:.1f} s")
                joined_s = time.monotonic() - began_s
                before, bar, at = applications.status(APP), _Bar(), record.stat().st_size
                with Watch() as watch:
                    by_device = fleet.run(assignments, start_in_s=1.0, on_progress=bar.progress)
                after = applications.status(APP)
                infos, failures = fleet.devices, fleet.failures
        rows = [line.split() for line in record.read_text()[at:].splitlines() if line.startswith("row ")]
    return {
        "devices": devices,
        "rate_rps": rate_rps,
        "joined_s": round(joined_s, 1),
        **judge(assignments, by_device, len(rows), images, args),
        "memory": {kind: watch.summary(kind) for kind in ("devices", "replica")},
        "server": {key: after[key] - before[key] for key in ("steps", "rows")}
        | {"busy_share": round(applications.usage(before, after, 0)["busy_share"] or 0.0, 3)},
        "failures": failures,
        "emulated": sorted({part for info in infos for part in (*info.emulated, *info.server_emulated)}),
        "example_devices": [asdict(info) for info in {info.group: info for info in infos}.values()],
    }


class _Bar:
    """Progress for a person who waits."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def progress(self, counts: Counter[str]) -> None:
        if time.monotonic() > self._next_s:
            self._next_s = time.monotonic() + 10.0
            say(f"  {dict(counts)}")


def judge(
    assignments: dict[str, Assignment],
    by_device: dict[str, list[Record]],
    rows: int,
    images: LabelledImages,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What became of every intended request."""
    everything = [record for device in assignments for record in by_device[device]]
    sent = sum(len(assignment.arrivals) for assignment in assignments.values())
    outcomes = Counter(record.outcome for record in everything)
    reasons = Counter(f"{r.outcome}: {r.code}" for r in everything if r.outcome != "answered")
    warm_up = sum(len(mine.warmup) for mine in assignments.values())  # of every device one image, not in the records
    by_server = sum(r.outcome == "answered" and not r.alone and bool(r.rows_per_step) for r in everything)
    if args.answers == "true":
        asked = sorted({record.image for record in everything})
        classes = reference.answers(*reference.named_model(MODEL), [images.files[index] for index in asked]).top1
        truth = dict(zip(asked, classes, strict=True))
        for record in everything:
            record.reference_top1 = truth[record.image]
    counted = [record for record in everything if record.scheduled_s >= args.warmup]
    summary = stats.summarise(counted, args.seconds)
    lags_ms = [record.generator_lag_ms for record in counted]
    lag_ms = percentile(lags_ms, 99)
    return {
        "sent": sent,
        **{outcome: outcomes[outcome] for outcome in ("answered", "refused", "dropped", "lost")},
        "reasons": dict(reasons),
        "ledger_closes": sent == len(everything) == len({r.id for r in everything}) == sum(outcomes.values()),
        "answered_by_server": by_server,
        "rows_on_accelerator": rows,
        "rows_beyond_answers_and_warm_up": rows - by_server - warm_up,
        "sent_again": sum(record.attempts > 1 for record in everything),
        "agreement_top1": summary.agreement_top1,
        "inference_ms": {"mean": summary.mean_ms, "p50": summary.p50_ms, "p95": summary.p95_ms, "p99": summary.p99_ms},
        "phases_ms": summary.phases_ms,
        "generator_lag_p99_ms": lag_ms,
        "lag_share_of_p50": lag_ms / summary.p50_ms if lag_ms is not None and summary.p50_ms else None,
        "valid": in_time(lags_ms, [ms for record in counted if (ms := stats.answered_ms(record)) is not None]),
        "unstable": stats.is_unstable(
            stats.StrategyRun("", args.seed, "open", args.warmup, args.seconds, tuple(everything))
        ),
        "overruns": summary.overruns,
        "cuts": dict(sorted(Counter(record.cut for record in counted).items())),
    }


def table(points: Sequence[dict[str, Any]]) -> str:
    header = ["devices", "img/s", "sent", "answered", "refused", "dropped", "lost", "agree", "p50", "p99", "lag p99"]
    header += ["of p50", "device MiB", "grown", "replica MiB", "grown"]
    rows = []
    for p in points:
        memory = [p["memory"]["devices"], p["memory"]["replica"]]
        rows.append(
            [str(p["devices"]), f"{p['rate_rps']:g}", *(str(p[k]) for k in ("sent", "answered", "refused", "dropped"))]
            + [str(p["lost"]), "-" if p["agreement_top1"] is None else f"{p['agreement_top1']:.4f}"]
            + [number(p["inference_ms"]["p50"]), number(p["inference_ms"]["p99"]), number(p["generator_lag_p99_ms"], 2)]
            + [f"{p['lag_share_of_p50']:.1%}" + ("" if p["valid"] else " (!)") + (" unstable" if p["unstable"] else "")]
            + [f"{part.get(key, 0):.0f}" for part in memory for key in ("peak_mib", "grown_mib")]
        )
    title = "Virtual devices on one emulated accelerator (inference time in ms; MiB: peak of the largest process)"
    return Table(title, header, rows).text()


def parser() -> argparse.ArgumentParser:
    p = new_parser(__doc__)
    p.add_argument("--devices", type=integers, default="10,100,1000", help="sizes (default %(default)s)")
    p.add_argument(
        "--rates", type=decimals, default="20,100,200", help="images/s of the fleet for each size (default %(default)s)"
    )
    p.add_argument("--seconds", type=float, default=40.0)
    p.add_argument("--warmup", type=float, default=5.0)
    p.add_argument("--strategy", default="continuous")
    p.add_argument("--profile", default="launch-bound", help="of the emulated accelerator")
    p.add_argument("--answers", choices=("true", "none"), default="none")
    p.add_argument("--parcel-ms", type=float, default=2.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="default: benchmarks/results/fleet-scale_emulated-CPUScpu_DATE.json")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if len(args.devices) != len(args.rates):
        raise SystemExit(
            f"{len(args.devices)} sizes in --devices, {len(args.rates)} in --rates: one rate for each size"
        )
    images = write_digits(Path("~/.cache/headtail/digits").expanduser())
    before = os.getloadavg()[0]
    with applications.ray_session("local"):
        points = [measure_fleet(size, rate, images, args) for size, rate in zip(args.devices, args.rates, strict=True)]
    document = {
        "benchmark": "fleet_scale",
        "load": "open loop: poisson arrivals per device",
        "emulated": sorted({part for point in points for part in point["emulated"]}),
        "points": points,
        "manifest": {**manifest(args, before), "kinds": [list(kind) for kind in KINDS]},
    }
    print(table(points))
    publish(document, args.out, "fleet-scale_emulated")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
