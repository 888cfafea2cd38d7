"""HeadTail beside what one would use instead: Triton, LitServe, Ray Serve's @serve.batch, a FastAPI loop.

    python benchmarks/peers/peers.py --setup            once: the peers' packages, in an environment of their own
    python benchmarks/peers/peers.py                    all of it, about 15 minutes
    python benchmarks/peers/peers.py --peers headtail_continuous,triton --rates 330 --quick

One emulated accelerator for all: one step at a time, as long as the profile says for its span and rows. Requests enter
at blocks 0, 3, 6 and 9 of 12, with 39 kB of int8 activations; Poisson, open loop, the same arrivals for every server;
times run on the client's clock, from the scheduled moment to the answer. Every peer is set up as its documentation
says, with the best of a published grid (`benchmarks/peers/settings.py`). Servers take turns at every rate; those that
are not asked are frozen. A peer that is not installed, or does not start, is skipped with a word.

rate_within_100ms: the highest rate of a published list at which 99 % of the requests are answered within 100 ms.
cpu_us_per_request: of all processes of the server, at 330/s or at the highest rate below that it bears.

Prints a table for people, then one JSON document as the last line; beside the results file lie an SVG and a PNG.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import decimals, names, new_parser, say
from benchmarks.common.journal import Journal
from benchmarks.common.results import manifest, publish, put
from benchmarks.peers import install, report
from benchmarks.peers.figures import highest, next_rate, score
from benchmarks.peers.settings import (
    BLOCKS,
    ENTRIES,
    GRID_RATES,
    GRIDS,
    LIMIT_MS,
    NAMES,
    RATES,
    SEARCH,
)
from benchmarks.peers.stacks import Stack, Stacks
from deployments.costs.profile_files import load_cost_profile
from slicer.errors import ConfigError, HeadTailError

_IN_PEERS_OWN = ("triton", "litserve", "fastapi")
_CPU_AT_RPS = 330.0


class Run:
    """One run: what is measured, what is known already, and the servers that are up."""

    def __init__(self, args: argparse.Namespace, stacks: Stacks, journal: Journal) -> None:
        self._args, self._stacks, self._journal = args, stacks, journal
        self._up: dict[str, Stack] = {}
        self._rest = random.Random(args.seed)
        self.skipped: dict[str, str] = {}
        self.settings: dict[str, Mapping[str, Any]] = {}
        self.tried: dict[str, list[dict[str, Any]]] = {}
        self.points: dict[str, dict[str, dict[str, Any]]] = {}
        self.idle_cores: dict[str, float] = {}
        self.emulated: set[str] = set()

    def choose(self, name: str) -> None:
        """The best setting of a peer's grid."""
        grid = GRIDS.get(name, ({},))
        if self._args.quick or len(grid) == 1:
            self.settings[name] = grid[0]
            return
        found = []
        for number, setting in enumerate(grid):
            tried = self._journal.get("grid", name, number)
            if tried is None:
                with self._trying(name, setting) as stack:
                    tried = {f"{rate:g}": self._offer(stack, rate, self._args.grid_seconds) for rate in GRID_RATES}
                self._journal.put(tried, "grid", name, number)
            found.append((score(tried, GRID_RATES), number, tried))
        self.settings[name] = grid[min(found)[1]] if min(found)[0] < float("inf") else grid[0]
        self.tried[name] = [
            {**grid[number], "p50_ms_at_330": tried["330"]["p50_ms"], "p99_ms_at_500": tried["500"]["p99_ms"]}
            for _, number, tried in found
        ]

    @contextlib.contextmanager
    def _trying(self, name: str, setting: Mapping[str, Any]) -> Any:
        stack = self._stacks.start(name, setting)
        try:
            self._stacks.only(stack)
            yield stack
        finally:
            self._stacks.stop(stack)

    def measure(self, name: str, rate: float) -> dict[str, Any]:
        """A server at a rate; at once where that is known."""
        point = self._journal.get("point", name, rate)
        if point is None:
            stack = self._up.get(name)
            if stack is None:
                stack = self._up[name] = self._stacks.start(name, self.settings[name])
                self.emulated.update(stack.emulated)
            self._stacks.only(stack)
            if name not in self.idle_cores:
                self.idle_cores[name] = round(stack.idle_share(self._args.idle_seconds), 3)
            point = self._offer(stack, rate, self._args.seconds)
            self._journal.put(point, "point", name, rate)
        self.points.setdefault(name, {})[f"{rate:g}"] = point
        return dict(point)

    def _offer(self, stack: Stack, rate: float, seconds: float) -> dict[str, Any]:
        point = stack.offer(rate, seconds, self._args.requests, self._args.seed)
        p50, p99 = point["p50_ms"], point["p99_ms"]
        said = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms" if point["stable"] else "more than it bears"
        say(f"{stack.name} {rate:g}/s: {said}{'' if point['valid'] else ', INVALID (generator lag)'}")
        return point

    def all_rates(self, asked: list[str]) -> None:
        """Every server at every rate, in turns; one that was overrun is asked no more."""
        for rate in sorted(self._args.rates):
            order = [name for name in asked if name not in self.skipped]
            self._rest.shuffle(order)
            for name in order:
                if all(point["stable"] for point in self.points.get(name, {}).values()):
                    self.guarded(name, self.measure, name, rate)

    def search(self, name: str) -> None:
        """The highest rate within the limit, from what is known on."""
        for _ in range(self._args.search_points):
            held, lost = self._held_and_lost(name)
            rate = next_rate(SEARCH, held, lost)
            if rate is None:
                return
            self.measure(name, rate)

    def rate_within(self, name: str) -> float:
        """The highest rate within the limit, of those that were tried."""
        return highest(*self._held_and_lost(name))

    def _held_and_lost(self, name: str) -> tuple[list[float], list[float]]:
        points = self.points.get(name, {}).values()
        held = [point["rate_rps"] for point in points if point["holds"]]
        return held, [point["rate_rps"] for point in points if not point["holds"]]

    def guarded(self, name: str, step: Any, *args: Any) -> None:
        """A step of one server; if that fails, the server is skipped and the others go on."""
        if name in self.skipped:
            return
        try:
            step(*args)
        except (HeadTailError, OSError, subprocess.SubprocessError) as error:
            self.skipped[name] = str(error)
            say(f"{name}: skipped: {error}")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    costs = load_cost_profile(args.profile)
    if costs.num_slices != BLOCKS:
        raise ConfigError(f"--profile {args.profile} has {costs.num_slices} slices; the entries are of {BLOCKS} blocks")
    load_before = os.getloadavg()[0]
    versions = install.versions()
    asked = {key: getattr(args, key) for key in ("profile", "seconds", "requests", "seed", "quick", "grid_seconds")}
    journal = Journal(args.resume, {**asked, "grids": repr(GRIDS)})
    stacks = Stacks(args.profile, costs)
    found = Run(args, stacks, journal)
    signal.signal(signal.SIGTERM, _interrupted)  # so that no server stays behind
    try:
        for name in args.peers:
            if name in _IN_PEERS_OWN and not versions:
                found.skipped[name] = "not installed: python benchmarks/peers/peers.py --setup"
        # Peers without Ray first: while their grids are tried, no Ray runs.
        for name in sorted(args.peers, key=lambda one: one not in _IN_PEERS_OWN):
            found.guarded(name, found.choose, name)
        found.all_rates(list(args.peers))
        for name in args.peers:
            found.guarded(name, found.search, name)
    finally:
        stacks.close()
    measured = [name for name in args.peers if found.points.get(name)]  # also what failed later
    used = {name: cpu_at(found.points[name]) for name in measured}
    ours = {"nvidia-pytriton": "triton", "tritonclient": "triton", "litserve": "litserve", "fastapi": "fastapi"}
    return {
        "benchmark": "peers",
        "profile": costs.name,
        "hypothetical": costs.source.hypothetical,
        "emulated": sorted(found.emulated | {f"accelerator of all servers, profile {costs.name}"}),
        "quick": args.quick,
        "entries_of_12_blocks": ENTRIES,
        "payload_bytes": stacks.payload_bytes,
        "rates": list(args.rates),
        "limit_ms": LIMIT_MS,
        "settings": {name: dict(found.settings[name]) for name in measured},
        "grids": found.tried,
        "skipped": found.skipped,
        "peer_versions": {package: versions[package] for package in ours if package in versions},
        "peers": {name: dict(sorted(found.points[name].items(), key=lambda one: float(one[0]))) for name in measured},
        "rate_within_100ms": {name: found.rate_within(name) for name in measured},
        "cpu_us_per_request": {name: figures and figures["us"] for name, figures in used.items()},
        "cpu_measured_at_rps": {name: figures and figures["rps"] for name, figures in used.items()},
        "idle_cores": found.idle_cores,
        "manifest": manifest(args, load_before, without=("out", "resume", "setup")),
    }


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def cpu_at(points: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """CPU per request at `_CPU_AT_RPS`, or at the highest rate below it that the server bore."""
    known = [(point["rate_rps"], point["cpu_us_per_request"]) for point in points.values() if point["stable"]]
    rps, us = max((one for one in known if one[0] <= _CPU_AT_RPS), default=(0.0, 0.0))
    return {"rps": rps, "us": us} if rps else None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument("--setup", action="store_true", help="install the peers' packages, and end")
    p.add_argument("--peers", type=names, default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    p.add_argument("--rates", type=decimals, default=",".join(f"{rate:g}" for rate in RATES), help="requests/s")
    p.add_argument("--seconds", type=float, default=8.0, help="of a run")
    p.add_argument("--requests", type=int, default=400, help="least number of a run")
    p.add_argument("--grid-seconds", type=float, default=4.0, help="of a run that chooses a setting")
    p.add_argument("--search-points", type=int, default=6, help="most runs of the search of a server")
    p.add_argument("--idle-seconds", type=float, default=2.0, help="how long an idle server's CPU is watched")
    p.add_argument("--profile", default="launch-bound", help="of 12 blocks; a shipped one's name or a file")
    p.add_argument("--seed", type=int, default=0, help="of the arrivals and of the order")
    p.add_argument("--quick", action="store_true", help="a smoke test: short runs, no grids, no search; no figures")
    p.add_argument("--resume", type=Path, help="a file that keeps what was measured; a run that was cut off goes on")
    p.add_argument("--out", type=Path, help="default: benchmarks/results/peers_PROFILE-emulated-CPUScpu_DATE.json")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run it; 2 if something asked for is wrong, 1 if nothing could be measured."""
    args = parser().parse_args(argv)
    try:
        if args.setup:
            install.install()
            return 0
        wrong = [name for name in args.peers if name not in NAMES]
        if wrong or not args.peers:
            raise ConfigError(
                f"--peers {','.join(args.peers)}: {', '.join(wrong) or 'none'}; known: {', '.join(NAMES)}"
            )
        if not args.rates or min(args.rates) <= 0 or args.seconds <= 0:
            raise ConfigError(f"--rates {args.rates} and --seconds {args.seconds:g} must be above 0")
        if args.quick:
            args.seconds, args.requests, args.search_points, args.idle_seconds = 1.0, 40, 0, 0.2
        document = run(args)
    except HeadTailError as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"pip failed: {error}", file=sys.stderr)
        return 1
    for line in report.lines(document):
        print(line)
    if not document["peers"]:
        print("nothing could be measured", file=sys.stderr)
        return 1
    if args.quick and args.out is None:
        put(document, None)
        return 0
    out = publish(document, args.out, f"peers_{document['profile']}-emulated")
    report.draw(document, out.with_suffix(""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
