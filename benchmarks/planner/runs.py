"""A case of `benchmarks/planner/planner.py` and its runs: the planner's, and those whose best is the oracle's."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from actors.device.config import PlanConfig
from actors.network.emulated_link import EmulatedLink
from actors.testing import virtual_time
from benchmarks.planner.cases import ENCODE_NS, SIZE_SPREAD, Case, served
from benchmarks.planner.server import ADMISSION_S, VirtualServer, others
from benchmarks.planner.world import costs_of, facts_of, make_device
from slicer.core.device.device_run import DeviceRun
from slicer.core.network.server import ENVELOPE_BYTES
from slicer.core.planning.cut_planner import Choice, DeviceView, Goal, offered, payload_bytes
from slicer.core.records.assignment import Assignment, Capture
from slicer.core.records.record import Record

#: The run's first seconds, not counted in the headline: the planner's first decisions.
WARM_UP_S = 10.0

#: The device joins, and the server's other clients begin, so long before the run.
JOIN_S = 5.0

#: Relative error of the profile that the planner begins with.
PROFILE_ERROR = 0.25

#: A device's first choice, where nobody planned: cut 0, the image as it is.
FIRST = Choice(0, "rgb8")

Schedule = tuple[tuple[float, Choice], ...]


@dataclass
class ExecutedRun:
    """One executed run: (intended capture, ms) of every image, what was chosen when, moves."""

    times: list[tuple[float, float]]
    chosen: list[Choice]
    moves: int

    def mean_ms(self, from_s: float = WARM_UP_S, until_s: float = math.inf) -> float:
        found = [took for at_s, took in self.times if from_s <= at_s < until_s]
        return statistics.fmean(found) if found else 0.0


class Stage:
    """A case, and all runs of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.served = served(case.model)
        self.facts = facts_of(self.served)
        self.costs = costs_of(case.accelerator, self.facts.num_slices)
        loads = [(from_s + JOIN_S if from_s else 0.0, share) for from_s, share in case.loads]
        self.others = others(self.costs, self.facts.entries, loads, case.seconds + JOIN_S, case.name)
        self.board = case.board()
        self.runs: dict[Schedule, ExecutedRun] = {}

    def planned(self, **config: Any) -> ExecutedRun:
        """The online planner."""
        return virtual_time.run(self._run(((0.0, FIRST),), PlanConfig(**config)))

    def executed(self, schedule: Schedule) -> ExecutedRun:
        """Without a planner, by a schedule."""
        if schedule not in self.runs:
            self.runs[schedule] = virtual_time.run(self._run(schedule, None))
        return self.runs[schedule]

    async def _run(self, schedule: Schedule, plan: PlanConfig | None) -> ExecutedRun:
        case, clock = self.case, virtual_time.VirtualClock()
        server = VirtualServer(self.served, self.costs, self.others, case.name)
        device = make_device(case, server, schedule[0][1], plan, PROFILE_ERROR)
        await device.start()
        await clock.until(JOIN_S)
        began_s = clock.now_s()

        def turn(choice: Choice) -> None:
            device.cut.choice = choice

        for from_s, choice in schedule[1:]:
            asyncio.get_running_loop().call_at(began_s + from_s, turn, choice)
        arrivals = tuple(Capture(at_s, 0) for at_s in case.arrivals())
        run = DeviceRun(device, Assignment(case.name, ("image",), (None,), arrivals=arrivals, drain_s=1e6))
        records = await run.run()
        await device.close()
        return _executed_run(records)

    # ------------------------------------------------------------------------------------------------ oracle

    @cached_property
    def choices(self) -> list[Choice]:
        """All static ones that the accuracy floor allows."""
        goal, n = Goal(), self.facts.num_slices
        found = [Choice(cut, codec) for cut in range(n) for codec in offered(self.facts, cut)]
        return [*(one for one in found if goal.agreement_of(one, self.facts) >= goal.agreement), Choice(n, "fp32")]

    def least_ms(self, choice: Choice, at_s: float) -> float:
        """True device, link and server times of a choice at a moment, without any wait."""
        cut, n = choice.cut, self.facts.num_slices
        assert self.board.preprocess_ms is not None
        device_ms = self.board.preprocess_ms.mean_ms + sum(s.mean_ms for s in self.board.slices_ms[:cut])
        if cut == n:
            return device_ms
        shape = self.facts.shapes[cut]
        size = payload_bytes(self.facts, choice, DeviceView((), size_ratio=self.case.size_ratio())) or 0
        if choice in self.facts.calibrated:
            size *= math.exp(SIZE_SPREAD**2 / 2)  # the mean
        size += ENVELOPE_BYTES
        link = virtual_time.run(self._true_link(at_s))
        encode_ms = ENCODE_NS[choice.codec] * math.prod(shape) / 1e6
        upload_s = size / link[0] if link[0] else math.inf
        tail_s = self.costs.tails(1)[cut]
        return device_ms + encode_ms + (upload_s + 2 * link[1] + tail_s + ADMISSION_S) * 1e3

    async def _true_link(self, at_s: float) -> tuple[float, float]:
        link = EmulatedLink(**self.case.link, clock=virtual_time.VirtualClock())
        return link.rate_bytes_per_s(at_s), link.delay_s(at_s)

    def static_ms(self, choice: Choice) -> float:
        """The mean of a static choice where it was run; else, in its favour, what it would be without any wait."""
        if (schedule := ((0.0, choice),)) in self.runs:
            return self.runs[schedule].mean_ms()
        starts = self.case.changes_s
        weighted, total_s = 0.0, 0.0
        for from_s, until_s in zip(starts, (*starts[1:], self.case.seconds), strict=True):
            took_ms = self.least_ms(choice, from_s + 1e-6)
            counted_s = max(until_s - max(from_s, WARM_UP_S), 0.0)
            # On a link that is cut an image waits for half of the time on average.
            weighted += counted_s * (took_ms if math.isfinite(took_ms) else (until_s - from_s) * 500)
            total_s += counted_s
        return weighted / total_s

    def oracle(self) -> tuple[Schedule, ExecutedRun]:
        """The best executed schedule."""
        phases = self.case.changes_s
        ends = (*phases[1:], math.inf)
        least = {c: [self.least_ms(c, at_s + 1e-6) for at_s in phases] for c in self.choices}
        # Static ones, those first that could be best somewhere; the others cannot win in any phase.
        best_ms = [math.inf] * len(phases)
        for choice in sorted(self.choices, key=lambda c: min(least[c])):
            if any(least[choice][i] < best_ms[i] for i in range(len(phases))):
                run = self.executed(((0.0, choice),))
                for i, (from_s, until_s) in enumerate(zip(phases, ends, strict=True)):
                    if until_s > WARM_UP_S:
                        best_ms[i] = min(best_ms[i], run.mean_ms(max(from_s, WARM_UP_S), until_s))
                    else:
                        best_ms[i] = min(best_ms[i], run.mean_ms(from_s, until_s))
        if len(phases) > 1:
            self._improve(phases, ends, least)
        best = min(self.runs, key=lambda schedule: self.runs[schedule].mean_ms())
        return best, self.runs[best]

    def _improve(self, phases: Sequence[float], ends: Sequence[float], least: dict[Choice, list[float]]) -> None:
        """Schedules of one choice per phase, changed a moment before the phase begins, improved phase by phase."""
        statics = {schedule[0][1]: run for schedule, run in self.runs.items()}
        ranked = []
        for i, (from_s, until_s) in enumerate(zip(phases, ends, strict=True)):
            by_run = sorted(statics, key=lambda c: statics[c].mean_ms(from_s, until_s))
            by_least = sorted(self.choices, key=lambda c: least[c][i])
            ranked.append(list(dict.fromkeys([*by_run[:2], *by_least[:2], self.choices[-1]])))
        for start in ([r[0] for r in ranked], [min(r, key=lambda c: least[c][i]) for i, r in enumerate(ranked)]):
            now, now_ms = list(start), math.inf
            for lead_s in (0.0, 0.5):
                now_ms = min(now_ms, self.executed(_schedule(now, phases, lead_s)).mean_ms())
            for i, others_ in enumerate(ranked):
                for choice in others_:
                    trial = [*now[:i], choice, *now[i + 1 :]]
                    for lead_s in (0.0, 0.5):
                        trial_ms = self.executed(_schedule(trial, phases, lead_s)).mean_ms()
                        if trial_ms < now_ms:
                            now, now_ms = trial, trial_ms


def _schedule(choices: Sequence[Choice], phases: Sequence[float], lead_s: float) -> Schedule:
    found: list[tuple[float, Choice]] = []
    for choice, from_s in zip(choices, phases, strict=True):
        if not found or found[-1][1] != choice:
            found.append((max(from_s - lead_s, 0.0) if found else 0.0, choice))
    return tuple(found)


def _executed_run(records: Sequence[Record]) -> ExecutedRun:
    wrong = next((record for record in records if record.outcome != "answered"), None)
    assert wrong is None, f"every image is answered, but {wrong}"
    times = [(record.scheduled_s, record.inference_ms or 0.0) for record in records]
    chosen = [Choice(record.cut, record.codec) for record in records]
    return ExecutedRun(times, chosen, sum(a != b for a, b in itertools.pairwise(chosen)))
