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
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml

from actors.fleet.config import FleetConfig, parse_fleet
from actors.fleet.fleet import Fleet
from actors.load import applications as server
from actors.load import arrivals
from actors.records.record import Record
from actors.records.request_plan import Plan
from actors.report import statistics as stats
from actors.report.tables import Table, number
from benchmarks.common.command_line import names, new_parser, say
from benchmarks.common.results import manifest, publish
from slicer.common.comparison import percentile
from slicer.errors import ServerError
from slicer.models.images import LabelledImages, write_digits

MODEL = "digits_vit"
GROUPS = ("alone", "patient")
START_IN_S = 1.0
ENOUGH = 0.95  # of what a second offered must meet the SLO, for its goodput to be back


class Outage:
    """Takes the server away and gives it back, on a thread of its own. Moments are of this host's monotonic clock."""

    def __init__(self, how: str, app: str, config: dict[str, Any], hold: Path, begin_s: float, length_s: float) -> None:
        self.gone_s = self.released_s = self.back_s = math.nan
        self.error = ""
        self._how, self._app, self._config, self._hold = how, app, config, hold
        self._begin_s, self._length_s = begin_s, length_s
        self._thread = threading.Thread(target=self._run, name="outage", daemon=True)

    def start(self) -> None:
        self._pid = server.status(self._app)["pid"]
        self._thread.start()

    def join(self) -> None:
        self._thread.join(timeout=120)

    def _run(self) -> None:
        try:
            time.sleep(max(self._begin_s - time.monotonic(), 0))
            self._hold.touch()
            self.gone_s = time.monotonic()
            if not self._how.startswith("application"):
                os.kill(self._pid, signal.SIGKILL)
            else:
                server.stop(self._app)
                time.sleep(max(self.gone_s + self._length_s / 2 - time.monotonic(), 0))
                deploy(self._app, self._config)
            time.sleep(max(self.gone_s + self._length_s - time.monotonic(), 0))
            self.released_s = time.monotonic()
            self._hold.unlink()
            while math.isnan(self.back_s):
                try:
                    server.status(self._app)
                    self.back_s = time.monotonic()
                except ServerError:
                    time.sleep(0.05)
        except BaseException as error:
            self.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._hold.unlink(missing_ok=True)


def deploy(app: str, config: dict[str, Any]) -> None:
    """Ask for the application, without waiting for it."""
    from deployments import app as applications

    applications.deploy(config, name=app)


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


def plans_of(fleet: FleetConfig, images: LabelledImages, args: argparse.Namespace) -> dict[str, Plan]:
    names = [device.name for group in fleet.groups for device in fleet.devices(group)]
    process = arrivals.parse_process("poisson", args.rate)
    length_s = args.before + args.outage + args.after
    scheduled = arrivals.schedule(
        process, names, images=len(images.files), seed=args.seed, warmup_s=0.0, duration_s=length_s, requests=None
    )
    paths, labels = tuple(map(str, images.files)), tuple(images.labels)
    plans = {
        name: Plan("outage", paths, labels, mine, top_k=1, warmup=(0, 1), drain_s=60.0)
        for name, mine in scheduled.items()
    }
    return {n: replace(p, deadline_ms=args.slo_ms) if n.startswith("alone") else p for n, p in plans.items()}


def measure(how: str, images: LabelledImages, args: argparse.Namespace) -> dict[str, Any]:
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
        plans = plans_of(fleet_config, images, args)
        server.start({app: config})
        try:
            with Fleet(fleet_config, app=app, run=f"outage-{how}") as fleet:
                say(f"{how}: {len(plans)} devices have joined")
                outage = Outage(how, app, config, hold, math.inf, args.outage)
                began = _Began(place, outage, args.before)
                by_device = fleet.run(plans, start_in_s=START_IN_S, on_progress=began.look, every_s=0.2)
                outage.join()
                infos, failures = fleet.devices, [*fleet.failures, *filter(None, [outage.error])]
        finally:
            server.stop(app)
        rows_s = [float(line.split()[1]) for line in record.read_text().splitlines() if line.startswith("row ")]
        sent_s = {name: times(place / f"{name}.log", "send") for name in GROUPS}
    at = {key: getattr(outage, key) - began.began_s for key in ("gone_s", "released_s", "back_s")}
    records = {name: [r for device in plans if device.startswith(name) for r in by_device[device]] for name in GROUPS}
    planned = {name: sum(len(p.arrivals) for d, p in plans.items() if d.startswith(name)) for name in GROUPS}
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
                "attempts": _attempts([t - began.began_s for t in sent_s[name]], at, length_s),
                "series": series(records[name], [t - began.began_s for t in sent_s[name]], length_s, args.slo_ms),
            }
            for name in GROUPS
        },
        "rows_at_the_accelerator": _attempts([t - began.began_s for t in rows_s], at, length_s),
        "generator_lag_p99_ms": percentile([r.generator_lag_ms for m in records.values() for r in m], 99),
        "failures": failures,
        "emulated": sorted({part for info in infos for part in (*info.emulated, *info.server_emulated)}),
    }


class _Began:
    """Finds out when the run began, and starts the outage then."""

    def __init__(self, place: Path, outage: Outage, before_s: float) -> None:
        self.began_s = math.nan
        self._place, self._outage, self._before_s = place, outage, before_s

    def look(self, counts: Counter[str]) -> None:
        if math.isnan(self.began_s) and (found := times(self._place / "alone.log", "begin")):
            self.began_s = max(found) + START_IN_S
            self._outage._begin_s = self.began_s + self._before_s
            self._outage.start()


def times(log: Path, what: str) -> list[float]:
    if not log.exists():
        return []
    return [float(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(what + " ")]


def met(record: Record, slo_ms: float) -> bool:
    return record.outcome == "answered" and record.inference_ms is not None and record.inference_ms <= slo_ms


def phases(records: Sequence[Record], at: dict[str, float], slo_ms: float) -> dict[str, dict[str, Any]]:
    spans = {
        "before": (0.0, at["gone_s"]),
        "during": (at["gone_s"], at["back_s"]),
        "first 5 s after": (at["back_s"], at["back_s"] + 5.0),
        "later": (at["back_s"] + 5.0, math.inf),
    }
    found = {}
    for name, (start_s, end_s) in spans.items():
        mine = [r for r in records if start_s <= r.scheduled_s < end_s]
        summary = stats.summarise(mine)
        found[name] = {
            "requests": len(mine),
            "answered": summary.answered,
            "refused": summary.refused,
            "dropped": summary.dropped,
            "lost": summary.lost,
            "reasons": dict(Counter(f"{r.outcome}: {r.code}" for r in mine if r.outcome != "answered")),
            "alone": summary.alone,
            "within_slo": sum(met(r, slo_ms) for r in mine) / len(mine) if mine else None,
            "p50_ms": summary.p50_ms,
            "p99_ms": summary.p99_ms,
            "attempts_most": max((r.attempts for r in mine), default=0),
        }
    return found


def series(records: Sequence[Record], sent_s: Sequence[float], length_s: float, slo_ms: float) -> list[list[int]]:
    """Per second of the run: offered, answered within the SLO, by the device alone, attempts."""
    rows = [[0, 0, 0, 0] for _ in range(math.ceil(length_s))]
    for record in records:
        row = rows[int(record.scheduled_s)]
        row[0] += 1
        row[1] += met(record, slo_ms)
        row[2] += bool(record.alone)
    for moment_s in sent_s:
        if 0 <= moment_s < length_s:
            rows[int(moment_s)][3] += 1
    return rows


def back_after_s(records: Sequence[Record], back_s: float, length_s: float, slo_ms: float) -> float | None:
    """From the server's return until every second meets the SLO again; None: never in this run."""
    seconds = math.floor(length_s - back_s)
    bad = -1
    for second in range(seconds):
        mine = [r for r in records if second <= r.scheduled_s - back_s < second + 1]
        if mine and sum(met(r, slo_ms) for r in mine) < ENOUGH * len(mine):
            bad = second
    return None if bad == seconds - 1 else bad + 1.0


def again_after_s(records: Sequence[Record], back_s: float) -> float | None:
    """From the server's return to the last capture that a device finished by itself."""
    alone = [r.scheduled_s for r in records if r.alone and r.scheduled_s >= back_s]
    return round(max(alone) - back_s, 2) if alone else 0.0


def _attempts(moments_s: Sequence[float], at: dict[str, float], length_s: float) -> dict[str, Any]:
    """Per second before and during, and the busiest tenths of a second of the first five after the return."""
    before = [t for t in moments_s if 0 <= t < at["gone_s"]]
    during = [t for t in moments_s if at["gone_s"] <= t < at["back_s"]]
    after = Counter(int(10 * (t - at["back_s"])) for t in moments_s if 0 <= t - at["back_s"] < 5)
    tenths = Counter(int(10 * t) for t in before)
    return {
        "per_s_before": round(len(before) / at["gone_s"], 1),
        "most_in_100_ms_before": max(tenths.values(), default=0),
        "per_s_during": round(len(during) / (at["back_s"] - at["gone_s"]), 1),
        "per_s_after": [sum(after[10 * s + i] for i in range(10)) for s in range(5)],
        "most_in_100_ms_after": max(after.values(), default=0),
    }


def tables(runs: Sequence[dict[str, Any]]) -> str:
    rows, herd = [], []
    for run in runs:
        for name, group in run["groups"].items():
            for phase, p in group["phases"].items():
                share = "-" if p["within_slo"] is None else f"{p['within_slo']:.1%}"
                counts = [str(p[key]) for key in ("requests", "answered", "alone", "refused", "lost")]
                rows.append([run["how"], name, phase, *counts, share, number(p["p50_ms"]), number(p["p99_ms"])])
        for name, a in [
            *((n, g["attempts"]) for n, g in run["groups"].items()),
            ("rows", run["rows_at_the_accelerator"]),
        ]:
            after = " ".join(map(str, a["per_s_after"]))
            most = [str(a[f"most_in_100_ms_{when}"]) for when in ("before", "after")]
            herd.append([run["how"], name, f"{a['per_s_before']:g}", most[0], f"{a['per_s_during']:g}", after, most[1]])
    header = [
        "killed",
        "group",
        "captured",
        "asked",
        "answered",
        "alone",
        "refused",
        "lost",
        "within SLO",
        "p50",
        "p99",
    ]
    made = [Table("Requests by the moment of capture (inference time in ms)", header, rows).text()]
    header = ["killed", "who", "per s before", "most in 0.1 s", "per s during", "after, second by second"]
    made.append(Table("Attempts on the links, and rows at the accelerator", [*header, "most in 0.1 s"], herd).text())
    for run in runs:
        groups = run["groups"]
        made.append(
            f"{run['how']}: gone at {run['gone_s']:.1f} s for {run['back_s'] - run['gone_s']:.1f} s; goodput back in "
            + ", ".join(f"{name} {groups[name]['goodput_back_after_s']} s" for name in groups)
            + f"; the last answer given alone was captured {groups['alone']['by_server_again_after_s']} s after it"
        )
    return "\n\n".join(made)


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
        with server.ray_session("local"):  # Serve's way in is fixed at its start
            runs.append(measure(how, images, args))
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
