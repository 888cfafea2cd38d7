"""What the engine itself costs per row: two commits in turns, in virtual time, without Ray.

The server's own engine, scheduler, policy and ledger serve launch-bound's table at its 12 boundaries, and at 4 made of
them; Poisson arrivals at four entries, no deadlines. The executor computes nothing, so the CPU time of the thread is
the engine's. Loads are searched at which a step has `--rows` rows in the mean. Rows are submitted one by one as they
arrive, or, ``together``, those of an entry that arrived while a step ran as one batch, as admission does.

Each commit has a process of its own with its own sources; they take turns, so that the machine's moods hit both alike.
Both must run the same steps and give the same outcomes: compared by a digest. The last line is one JSON document.

    python benchmarks/serving/engine_cost.py --base COMMIT [--rows 1.05,8] [--rounds 15] [--requests 4000] [--out FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import decimals, names, new_parser, say
from benchmarks.common.results import ROOT, manifest, put, ratio_figures
from slicer.common.comparison import paired_ratio

WORKER = Path(__file__).with_name("engine_cost_worker.py")
#: What a case is made of, beside its load.
ENGINES, STRATEGIES, BOUNDARIES, TOGETHER = ("pipelined", "plain"), ("continuous", "per_slice"), (4, 12), (False, True)


class Worker:
    """A process that measures one checkout's engine."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), str(checkout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )

    def ask(self, case: dict[str, Any], *, log: bool = False) -> dict[str, Any]:
        """Its figures of one case.

        Raises:
            RuntimeError: the process has ended; it says why on stderr.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**case, "log": log}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def sources_of(commit: str, folder: Path) -> None:
    """Put the packages of a commit into a folder."""
    packed = subprocess.run(["git", "archive", commit, "deployments", "slicer"], cwd=ROOT, capture_output=True)
    if packed.returncode:
        sys.exit(f"--base {commit}: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(folder)


def load_for(worker: Worker, case: dict[str, Any], rows: float) -> float:
    """The load at which a case has steps of so many rows in the mean; within 2 %, or what 9 halvings give."""
    low, high = 0.0, 1.0
    load = 0.5
    for _ in range(9):
        load = (low + high) / 2
        found = worker.ask({**case, "load": load})["rows_per_step"]
        if abs(found / rows - 1) < 0.02:
            break
        low, high = (load, high) if found < rows else (low, load)
    return round(load, 4)


def main() -> None:
    """Run it."""
    parser = new_parser(__doc__)
    parser.add_argument("--base", required=True, help="the commit to compare with")
    parser.add_argument("--rows", type=decimals, default=(1.05, 8.0), help="mean rows of a step")
    parser.add_argument("--rounds", type=int, default=15, help="repetitions of every case and commit")
    parser.add_argument("--requests", type=int, default=4000, help="of a repetition")
    parser.add_argument("--engines", type=names, default=ENGINES, help="of pipelined, plain")
    parser.add_argument("--strategies", type=names, default=STRATEGIES, help="names of strategies")
    parser.add_argument("--out", type=Path, help="a results file")
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sources_of(args.base, Path(folder))
        workers = {"old": Worker(Path(folder)), "new": Worker(ROOT)}
        try:
            cases = [measured(workers, case, rows, args) for case, rows in _cases(args)]
        finally:
            for worker in workers.values():
                worker.close()
    print(
        f"{'engine':10}{'strategy':12}{'cuts':>4} {'submitted':10}{'rows/step':>9}{'load':>7}{'old us':>8}{'new us':>8}"
    )
    for case in cases:
        print(
            f"{case['engine']:10}{case['strategy']:12}{case['boundaries']:4} "
            f"{'together' if case['together'] else 'one by one':10}{case['rows_per_step']:9.2f}{case['load']:7.3f}"
            f"{case['old_us']:8.1f}{case['new_us']:8.1f}  x {case['new_over_old']['ratio']:.2f}"
            f"{'' if case['same'] else '  OTHER STEPS OR OUTCOMES'}"
        )
    main_rows = max(args.rows)
    document = {
        "benchmark": "engine_cost",
        "engine_us_per_row": _table(cases, main_rows, "new"),
        "engine_us_per_row_old": _table(cases, main_rows, "old"),
        "engine_us_per_row_single": _table(cases, min(args.rows), "new"),
        "engine_us_per_row_single_old": _table(cases, min(args.rows), "old"),
        "rows_per_step": main_rows,
        "rows_per_step_single": min(args.rows),
        "same": all(case["same"] for case in cases),
        "cases": cases,
        "emulated": ["executor without compute, fake clock"],
        "manifest": manifest(args, load_before, seeds=[0]),
    }
    put(document, args.out)


def _cases(args: argparse.Namespace) -> list[tuple[dict[str, Any], float]]:
    every = product(args.rows, args.engines, args.strategies, BOUNDARIES, TOGETHER)
    return [
        (
            {
                "engine": engine,
                "strategy": strategy,
                "boundaries": boundaries,
                "together": together,
                "requests": args.requests,
            },
            rows,
        )
        for rows, engine, strategy, boundaries, together in every
    ]


def measured(workers: dict[str, Worker], case: dict[str, Any], rows: float, args: argparse.Namespace) -> dict[str, Any]:
    """A case with its load and both commits' figures: medians in us per row, and the ratio of the rounds in pairs."""
    case = {**case, "load": load_for(workers["new"], case, rows)}
    digests = {name: worker.ask(case, log=True)["digest"] for name, worker in workers.items()}
    us: dict[str, list[float]] = {name: [] for name in workers}
    found: dict[str, Any] = {}
    for number in range(args.rounds):
        for name in list(workers)[:: 1 if number % 2 else -1]:
            found = workers[name].ask(case)
            us[name].append(found.pop("us"))
    say(f"{case} old {statistics.median(us['old']):.1f} new {statistics.median(us['new']):.1f} us")
    ratio = ratio_figures(paired_ratio(us["new"], us["old"]))
    return {
        **case,
        **{key: round(value, 3) for key, value in found.items()},
        "asked_rows_per_step": rows,
        **{f"{name}_us": round(statistics.median(values), 2) for name, values in us.items()},
        "new_over_old": {"ratio": ratio["ratio"], "ci95": ratio["ci95"]},
        "same": digests["old"] == digests["new"],
    }


def _table(cases: list[dict[str, Any]], rows: float, which: str) -> dict[str, Any]:
    """Microseconds per row by boundaries: the pipelined engine with `continuous`, rows submitted one by one."""
    chosen = {"engine": "pipelined", "strategy": "continuous", "together": False, "asked_rows_per_step": rows}
    return {
        str(case["boundaries"]): case[f"{which}_us"]
        for case in cases
        if all(case[key] == value for key, value in chosen.items())
    }


if __name__ == "__main__":
    main()
