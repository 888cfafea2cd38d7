"""The claims about a cluster of several hosts, checked one after the other: `make cluster-test RIG=...`.

One line per claim, with its figure. What a claim needs and does not get makes it NOT MEASURED, never PASS.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.rig import claims_doctor, claims_down, claims_faults, claims_metrics, claims_network, claims_up
from tests.rig.finding import Finding, unfinished, write
from tests.rig.hosts import Hosts, RigError
from tests.rig.operator import Operator

ROOT = Path(__file__).resolve().parents[2]

#: In their order; `up` and `placed` (which starts the server) are needed by the others, `down` ends the cluster.
CLAIMS: dict[str, Callable[[Operator], Iterator[Finding]]] = {
    "up": claims_up.up,
    "placed": claims_up.placed,
    "metrics": claims_metrics.metrics,
    "network": claims_network.network,
    "power": claims_faults.power,
    "link": claims_faults.link,
    "front": claims_faults.front,
    "core": claims_faults.core,
    "doctor": claims_doctor.doctor,
    "down": claims_down.down,
}


def main() -> int:
    """0: all hold; 1: not all, or not all measured; 2: no rig."""
    parser = argparse.ArgumentParser(prog="make cluster-test", description=__doc__)
    parser.add_argument("--only", metavar="A,B", help=f"of {', '.join(CLAIMS)}; up, placed and down always are")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the lines into this file's table, too")
    args = parser.parse_args()
    if args.out is not None and not args.out.is_file():
        print(f"make cluster-test: --out {args.out} is no file; give one with claims, such as docs/cluster.md")
        return 2
    rig = Path(os.environ.get("RIG", ""))
    if not rig.is_file() or os.geteuid() != 0:
        print("make cluster-test: run it as root, with RIG=PATH of the rig (tests/rig/hosts.py says what one is)")
        return 2
    wanted = set(CLAIMS) if not args.only else {"up", "placed", "down", *args.only.split(",")}
    hosts, found, began_s = Hosts(rig), [], time.monotonic()
    try:
        hosts.up(3, 50.0, claims_network.DELAY_MS)
        operator = Operator(hosts, ROOT)
        for name in (name for name in CLAIMS if name in wanted):
            for finding in findings(name, operator):
                print(f"[{time.monotonic() - began_s:5.0f} s] {finding}", flush=True)
                found.append(finding)
    finally:
        hosts.down()
        if args.out is not None:
            write(args.out, found, sorted(wanted))
    counts = {result: sum(f.result == result for f in found) for result in ("PASS", "FAIL", "NOT MEASURED")}
    print(", ".join(f"{count} {result}" for result, count in counts.items()))
    return 0 if counts["PASS"] == len(found) else 1


def findings(name: str, operator: Operator) -> Iterator[Finding]:
    """What the claim's function says; that it could not be measured, where it broke off."""
    try:
        yield from CLAIMS[name](operator)
    except (RigError, LookupError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        yield unfinished(name, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")


if __name__ == "__main__":
    sys.exit(main())
