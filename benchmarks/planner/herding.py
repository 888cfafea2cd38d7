"""Do devices that plan alone herd to one cut? Many of them and one server that cannot take them all, in virtual time.

Each device would be faster with the server if it were alone there; all of them are nearly twice what it can do. Other
clients come at a third of the run and leave at two thirds. Run with the damping as it is (`movers` 2), with more, and
without (1); beside them every fixed split of the devices into "all to the server" and "all alone", of which the best is
what a coordinator could have reached without moving anybody.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.device.config import PlanConfig
from actors.testing import virtual_time
from benchmarks.planner.cases import SHAPES, Case, served
from benchmarks.planner.runs import JOIN_S, PROFILE_ERROR
from benchmarks.planner.server import VirtualServer, others
from benchmarks.planner.world import EmulatedDevice, costs_of, make_device
from slicer.common.comparison import percentile
from slicer.core.device.device_run import DeviceRun
from slicer.core.planning.cut_planner import Choice
from slicer.core.records.assignment import Assignment, Capture
from slicer.core.records.record import Record

#: Not counted: the devices join all at once, and find the server idle.
WARM_UP_S = 15.0


@dataclass(frozen=True)
class Herd:
    """So many devices of one kind, with links and arrivals of their own."""

    devices: int = 60
    seconds: float = 90.0
    rate_rps: float = 5.0
    whole_ms: float = 100.0
    link: str = "5g"
    others: tuple[float, float, float] = (0.1, 0.4, 0.1)  # of the server's bound, in the three thirds

    def case(self, index: int) -> Case:
        """One device."""
        whole_ms = self.whole_ms * (0.8 + 0.4 * index / max(self.devices - 1, 1))
        name = f"herd {index}"
        return Case(
            name,
            "herd",
            next(iter(SHAPES)),
            whole_ms,
            self.rate_rps,
            "periodic",
            {"preset": self.link},
            (),
            self.seconds,
        )


def run(herd: Herd, plan: PlanConfig | None, with_server: float, seed: str) -> tuple[list[list[Record]], float]:
    """All devices' records, and the accelerator's utilisation. Without a plan the first `with_server` of them (a share)
    stay with the server at cut 0, the others alone."""

    async def scenario() -> tuple[list[list[Record]], float]:
        cases = [herd.case(index) for index in range(herd.devices)]
        model = served(cases[0].model)
        costs = costs_of("edge-gpu", model.num_slices)
        thirds = [(JOIN_S + herd.seconds * i / 3 if i else 0.0, share) for i, share in enumerate(herd.others)]
        server = VirtualServer(
            model, costs, others(costs, model.entries, thirds, herd.seconds + JOIN_S, f"herd {seed}"), f"herd {seed}"
        )
        clock, devices = virtual_time.VirtualClock(), list[EmulatedDevice]()
        for index, case in enumerate(cases):
            goes = plan is not None or index < round(with_server * herd.devices)
            first = Choice(0, "rgb8") if goes else Choice(model.num_slices, "fp32")
            named = replace(case, name=f"{case.name} {seed}")
            devices.append(make_device(named, server, first, plan, PROFILE_ERROR))
        await asyncio.gather(*(device.start() for device in devices))
        await clock.until(JOIN_S)
        runs = []
        for case, device in zip(cases, devices, strict=True):
            arrivals = tuple(Capture(at_s, 0) for at_s in replace(case, name=f"{case.name} {seed}").arrivals())
            runs.append(DeviceRun(device, Assignment(case.name, ("image",), (None,), arrivals=arrivals, drain_s=1e6)))
        records = await asyncio.gather(*(one.run() for one in runs))
        ended_s = clock.now_s()
        for device in devices:
            await device.close()
        return list(records), server.busy_s / ended_s

    return virtual_time.run(scenario())


def figures(records: Sequence[Sequence[Record]], busy: float, seconds: float) -> dict[str, Any]:
    """What happened after the warm-up."""
    counted = [[r for r in of_one if r.scheduled_s >= WARM_UP_S] for of_one in records]
    took = [r.inference_ms or 0.0 for of_one in counted for r in of_one]
    cuts = Counter(r.cut for of_one in counted for r in of_one)
    moments = [b.scheduled_s for of_one in counted for a, b in itertools.pairwise(of_one) if a.cut != b.cut]
    at_once = Counter(int(at_s) for at_s in moments)
    n = max(r.cut for of_one in records for r in of_one)
    served_share = [
        statistics.fmean(float(r.cut < n) for of_one in counted for r in of_one if at_s <= r.scheduled_s < at_s + 1)
        for at_s in range(int(WARM_UP_S), int(seconds))
    ]
    return {
        "mean_ms": round(statistics.fmean(took), 1),
        "p95_ms": round(percentile(took, 95) or 0.0, 1),
        "cut_changes_per_device_and_minute": round(len(moments) / len(counted) / ((seconds - WARM_UP_S) / 60), 2),
        "most_changes_in_one_second": round(max(at_once.values(), default=0) / len(counted), 3),
        "share_at_cut": {str(cut): round(count / len(took), 3) for cut, count in sorted(cuts.items())},
        "share_with_server_std_over_seconds": round(statistics.pstdev(served_share), 3),
        "accelerator_busy": round(busy, 3),
    }


def herding(
    herd: Herd, seeds: Sequence[int], movers: Sequence[float] = (1.0, 2.0, 4.0), steps: int = 10
) -> dict[str, Any]:
    """All of it, as it goes into the document."""
    planned = {
        f"movers {value:g}": [
            figures(*run(herd, PlanConfig(movers=value), 0.0, str(seed)), herd.seconds) for seed in seeds
        ]
        for value in movers
    }
    splits = {}
    for index in range(steps + 1):
        found = figures(*run(herd, None, index / steps, str(seeds[0])), herd.seconds)
        splits[f"{index / steps:.2f}"] = {key: found[key] for key in ("mean_ms", "p95_ms", "accelerator_busy")}
        if found["mean_ms"] > 4 * splits["0.00"]["mean_ms"]:
            break  # more of them only make its queue longer
    best = min(splits, key=lambda share: float(splits[share]["mean_ms"]))
    return {
        "devices": herd.devices,
        "seconds": herd.seconds,
        "warm_up_s": WARM_UP_S,
        "rate_rps_each": herd.rate_rps,
        "link": herd.link,
        "others_share_of_bound": herd.others,
        "seeds": list(seeds),
        "planned": planned,
        "fixed_split_share_with_server": splits,
        "best_fixed_split": best,
    }
