"""How far is the online planner from an oracle? In virtual time, so no noise of this machine is in a figure.

    python benchmarks/planner/planner.py --out benchmarks/results/planner_emulated-virtual-time_DATE.json

One device on one link beside other clients of one server (`benchmarks.planner.cases`), as it is, in virtual time
(`benchmarks.planner.world`). The planner sees a profile each of whose times is wrong by some 25 %, and replies. The
oracle knows the emulators' parameters and the future, and is executed: every static choice that could win is run, and
where something changes, schedules of one choice per phase are, improved phase by phase; the best executed mean is the
oracle's (`benchmarks.planner.runs`). Regret = the planner's mean inference time over the oracle's, less 1, on the same
arrivals, loads and draws. A run's first seconds are not counted; `with_warm_up` counts them. Cases marked `held_out`
were not looked at while the planner was written.

Minutes of one core: --resume FILE keeps the rows of a run that was interrupted. One JSON document is the last line:
`regret_mean`, `regret_max`, rows per case, `noisy_links` (does it flap?) and `herding` (`benchmarks.planner.herding`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import names, new_parser
from benchmarks.common.results import manifest, put
from benchmarks.planner import cases
from benchmarks.planner.cases import Case
from benchmarks.planner.herding import Herd, herding
from benchmarks.planner.runs import FIRST, JOIN_S, PROFILE_ERROR, WARM_UP_S, ExecutedRun, Stage
from slicer.core.planning.cut_planner import Choice

#: Seeds of drawn cases and drawn traces: looked at while the planner was written, and not.
SEEN = {"drawn": range(24), "traces": range(8)}
HELD_OUT = {"drawn": range(1000, 1024), "traces": range(1000, 1008)}

EMULATED = [
    "everything in virtual time",
    "devices: hypothetical times per slice, no activation computed",
    "links: presets, traces and drawn ones",
    "accelerator: edge-gpu and cpu-like, hypothetical profiles, spread 5 %",
    "other clients: Poisson arrivals",
]


def all_cases(kinds: Sequence[str]) -> list[Case]:
    """Those of grid, drawn, traces, held-out that are asked for."""
    found = cases.grid() if "grid" in kinds else []
    for held_out, seeds in ((False, SEEN), (True, HELD_OUT)):
        if "drawn" in kinds and (not held_out or "held-out" in kinds):
            found += [cases.drawn(seed, held_out) for seed in seeds["drawn"]]
        if "traces" in kinds and (not held_out or "held-out" in kinds):
            found += [cases.drawn_trace(seed, held_out) for seed in seeds["traces"]]
    return found + (cases.named_traces() if "traces" in kinds else [])


def compare(case: Case) -> dict[str, Any]:
    """One case's row."""
    stage = Stage(case)
    planned = stage.planned()
    schedule, oracle = stage.oracle()
    n = stage.facts.num_slices
    stage.executed(((0.0, Choice(n, "fp32")),))
    statics = {_name(choice): round(stage.static_ms(choice) / oracle.mean_ms(), 4) for choice in stage.choices}
    return {
        "case": case.name,
        "kind": case.kind,
        "held_out": case.held_out,
        "planner_ms": round(planned.mean_ms(), 2),
        "oracle_ms": round(oracle.mean_ms(), 2),
        "regret": round(planned.mean_ms() / oracle.mean_ms() - 1, 4),
        "regret_with_warm_up": round(planned.mean_ms(0.0) / oracle.mean_ms(0.0) - 1, 4),
        "moves": planned.moves,
        "chosen": shares(planned),
        "oracle": [[from_s, _name(choice)] for from_s, choice in schedule],
        "executed": len(stage.runs),
        "static_over_oracle": statics,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Regrets of these cases, and of the baselines in them."""

    def of(regrets: Sequence[float]) -> dict[str, float]:
        return {"mean": round(statistics.fmean(regrets), 4), "max": round(max(regrets), 4)}

    statics = [row["static_over_oracle"] for row in rows]
    uniform = min(statics[0], key=lambda name: statistics.fmean(ratios[name] for ratios in statics))
    return {
        "cases": len(rows),
        "planner": of([row["regret"] for row in rows]),
        "planner_with_warm_up": of([row["regret_with_warm_up"] for row in rows]),
        "best_uniform": {"choice": uniform, **of([ratios[uniform] - 1 for ratios in statics])},
        "device_only": of([ratios["4 fp32"] - 1 for ratios in statics]),
        "server_only": of([min(v for name, v in ratios.items() if name[0] == "0") - 1 for ratios in statics]),
    }


def noisy_links(seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    """Nothing changes but the noise of the link: how often does the planner move after its first seconds?"""
    moves, regrets = [], []
    for seed in seeds:
        link = {"mbit_per_s": 12.0, "delay_ms": 10.0, "jitter_ms": 15.0, "loss": 0.02}
        model = list(cases.SHAPES)[seed % 2]
        case = Case(f"noisy {seed}", "noisy", model, 180.0, 2.5, "poisson", link, ((0.0, 0.5),), seconds)
        stage = Stage(case)
        planned = stage.planned()
        chosen = [c for (at_s, _), c in zip(planned.times, planned.chosen, strict=True) if at_s >= WARM_UP_S]
        moves.append(sum(a != b for a, b in itertools.pairwise(chosen)))
        regrets.append(planned.mean_ms() / stage.oracle()[1].mean_ms() - 1)
    minutes = len(moves) * (seconds - WARM_UP_S) / 60
    return {
        "link": "12 Mbit/s, 10 ms, jitter 15 ms each way, loss 2 %; 50 % load, nothing changes",
        "seeds": list(seeds),
        "seconds": seconds,
        "moves_per_minute": round(sum(moves) / minutes, 3),
        "moves_by_seed": moves,
        "regret_mean": round(statistics.fmean(regrets), 4),
        "regret_max": round(max(regrets), 4),
    }


def shares(run: ExecutedRun) -> dict[str, float]:
    """Share of the images at each choice."""
    names = [_name(choice) for choice in run.chosen]
    return {name: round(names.count(name) / len(names), 3) for name in sorted(set(names))}


def _name(choice: Choice) -> str:
    return f"{choice.cut} {choice.codec}"


def document(rows: list[dict[str, Any]], noisy: dict[str, Any] | None, herd: dict[str, Any] | None) -> dict[str, Any]:
    """What is printed last and written."""
    by = {
        f"{kind}, {'held out' if held_out else 'seen'}": summary(chosen)
        for kind in sorted({row["kind"] for row in rows})
        for held_out in (False, True)
        if (chosen := [row for row in rows if row["kind"] == kind and row["held_out"] == held_out])
    }
    total = summary(rows)
    return {
        "benchmark": "planner",
        "emulated": EMULATED,
        "regret_mean": total["planner"]["mean"],
        "regret_max": total["planner"]["max"],
        "regret_mean_with_warm_up": total["planner_with_warm_up"]["mean"],
        "regret_max_with_warm_up": total["planner_with_warm_up"]["max"],
        "warm_up_s": WARM_UP_S,
        "join_s": JOIN_S,
        "profile_error": PROFILE_ERROR,
        "first_choice": _name(FIRST),
        "all": total,
        "by_kind": by,
        "noisy_links": noisy,
        "herding": herd,
        "rows": rows,
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = new_parser(__doc__)
    p.add_argument(
        "--cases", type=names, default="grid,drawn,traces,held-out,noisy,herding", help="what is run; commas"
    )
    p.add_argument("--every", type=int, default=1, help="only every so manieth case")
    p.add_argument("--resume", type=Path, help="rows as JSON lines; those that stand there are not run again")
    p.add_argument("--devices", type=int, default=Herd.devices, help="of the herd")
    p.add_argument("--seconds", type=float, default=Herd.seconds, help="of the herd")
    p.add_argument("--seeds", type=int, default=2, help="of the herd; noisy links have three times as many")
    p.add_argument("--out", type=Path, help="a results file")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    args = parser().parse_args(argv)
    kinds = args.cases
    kept = args.resume.read_text(encoding="utf-8").splitlines() if args.resume and args.resume.exists() else []
    done: dict[str, Any] = {found["case"]: found for found in map(json.loads, kept)}

    def once(name: str, make: Any) -> Any:
        if name not in done:
            done[name] = {"case": name, **make()}
            if args.resume:
                with args.resume.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[name]) + "\n")
        return done[name]

    rows = []
    for case in all_cases(kinds)[:: args.every]:
        row = once(case.name, lambda case=case: compare(case))
        rows.append(row)
        print(
            f"{row['regret']:7.1%} {row['regret_with_warm_up']:7.1%} {row['planner_ms']:8.1f} of "
            f"{row['oracle_ms']:8.1f} ms {row['moves']:3d} moves  {row['case']:42} {row['chosen']}",
            flush=True,
        )
    noisy = once("noisy links", lambda: noisy_links(range(3 * args.seeds), 120.0)) if "noisy" in kinds else None
    herd = None
    if "herding" in kinds:
        herd = once("herding", lambda: herding(Herd(args.devices, args.seconds), range(args.seeds)))
    found = document(rows, noisy, herd)
    found["manifest"] = manifest(args, seeds=range(args.seeds))
    for name, one in {"all": found["all"], **found["by_kind"]}.items():
        print(f"{name:18} " + "  ".join(f"{k} {v}" for k, v in one.items()))
    put(found, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
