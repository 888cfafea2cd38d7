"""One strategy behind the real Serve stack on an emulated accelerator, and the actors that send to it."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.load import applications
from actors.network.auto_transport import Way
from benchmarks.common.strategies import options_of
from benchmarks.goodput.case import WARM_UP, Case
from deployments.simulation.simulator import Arrival
from slicer.common.comparison import in_time, mean, percentile, queue_grew
from slicer.common.thread_timing import prefer_thread
from slicer.errors import ServerError

MODEL, SHAPE = "chain", (1, 8, 8)
SHARE = 0.99
_STARTING = threading.Lock()  # Serve is asked by one thread at a time


@dataclass(frozen=True)
class Answered:
    """One request; all moments on this host's monotonic clock. Times in the server are None without an answer."""

    due_s: float
    sent_s: float
    received_s: float
    entry: int
    outcome: str
    slo_ms: float | None
    total_ms: float | None
    admission_ms: float | None


class Sender:
    """A Ray actor that sends its share of the requests, each at its own moment, whatever the server does."""

    def __init__(self, way: Way) -> None:
        self._way = way
        prefer_thread()  # a generator that waits for a core behind what it measures would send late

    async def connect(self, app: str) -> None:
        from actors.network.auto_transport import make_transport

        self._server = make_transport(self._way, app)
        self._manifest = (await self._server.describe(MODEL)).manifest
        gc.collect()
        gc.freeze()  # a full collection of all that Ray has imported would be a lag of tens of milliseconds

    async def run(
        self,
        requests: list[tuple[float, int]],
        begin_s: float,
        slo_ms: float,
        allowed: dict[int, int],
        deadlines: bool,
    ) -> list[Answered]:
        """`allowed`: misses per entry after which the verdict is clear, so that the rest need not be sent."""
        from slicer.core.common.clock import Clock
        from slicer.core.protocol.messages import Reply, Request

        payload = np.ones(SHAPE, "<f4").tobytes()
        misses: Counter[int] = Counter()
        clock, over, tasks = Clock(), asyncio.Event(), []

        async def one(number: int, due_s: float, entry: int) -> Answered:
            sent_s = clock.now_s()
            slo = slo_ms if deadlines else None
            request = Request(str(number), MODEL, self._manifest, entry, "fp32", SHAPE, payload, None, slo)
            outcome, in_slo_ms, total_ms, admission_ms = "lost", None, None, None
            try:
                [answer] = await self._server.infer([request])
                outcome = "answered" if isinstance(answer, Reply) else answer.code
                if isinstance(answer, Reply):
                    t = answer.timings
                    in_slo_ms, total_ms = t.admission_ms + t.queue_ms + t.execution_ms, t.total_ms
                    admission_ms = t.admission_ms
            except Exception as error:
                outcome = f"lost: {type(error).__name__}"
            if in_slo_ms is None or in_slo_ms > slo_ms:
                misses[entry] += 1
                if misses[entry] > allowed[entry]:
                    over.set()
            return Answered(due_s, sent_s, clock.now_s(), entry, outcome, in_slo_ms, total_ms, admission_ms)

        for number, (offset_s, entry) in enumerate(requests):
            await clock.until(begin_s + offset_s)
            if over.is_set():
                break
            tasks.append(asyncio.get_running_loop().create_task(one(number, begin_s + offset_s, entry)))
        return list(await asyncio.gather(*tasks))


class Stack:
    """An application of its own for one strategy at one SLO. One thread at a time.

    Args:
        name: of the application; nobody else's.
        serve_batch: (batch_wait_timeout_s, max_concurrent_batches, max_batch_size) of strategy serve_batch.
    """

    def __init__(
        self, name: str, case: Case, strategy: str, slo_s: float, serve_batch: tuple[float, int, int] | None
    ) -> None:
        self.name, self.case, self.strategy, self.slo_s = name, case, strategy, slo_s
        self._record = Path(tempfile.mkdtemp(prefix="headtail-goodput-")) / "record"
        wait_s, concurrency, batch = serve_batch or (0.01, 1, case.max_batch)
        self._config = {
            "models": [
                {
                    "name": MODEL,
                    "model": "deployments.executors.emulated:chain",
                    "kwargs": {"units": case.profile.num_slices, "img_size": SHAPE[1], "in_chans": SHAPE[0]},
                    "num_slices": case.boundaries,
                    "strategy": strategy,
                    "options": options_of(strategy, slo_s),
                    "max_batch": batch,
                    "entries": case.entries,
                }
            ],
            "accelerator": "cpu",
            "cpus": 0.01,
            "torch_threads": 1,
            "executor": "emulated",
            "executor_options": {
                "profile": case.profile_name,
                "record": str(self._record),
                "burn_launch_ms": case.burn_launch_ms,
            },
            "http": {"enabled": "auto" if case.way == "auto" else False},
            "serve_batch_wait_timeout_s": wait_s,
            "serve_batch_concurrency": concurrency,
        }
        self.emulated: tuple[str, ...] = ()

    def __enter__(self) -> Stack:
        import ray

        from slicer.common.ray_serve_env import environment

        actor = ray.remote(Sender).options(
            num_cpus=0, max_concurrency=10_000, runtime_env={"env_vars": environment("device", http=False)}
        )
        with _STARTING:
            applications.start({self.name: self._config})
            self.emulated = tuple(applications.status(self.name)["emulated"])
            self._senders = [actor.remote(self.case.way) for _ in range(self.case.senders)]
            ray.get([sender.connect.remote(self.name) for sender in self._senders])
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        with _STARTING:
            applications.stop(self.name)
        for sender in self._senders:
            ray.kill(sender)

    def offer(self, rate_rps: float, seed: int, requests: int, seconds: float, whole: bool = False) -> dict[str, Any]:
        """One point: offer the rate, wait for every answer. Unless `whole`, it ends once the SLO is surely missed.

        A point whose generator lagged too far (measuring rule: p99 of the lag above 5 % of the median) is offered once
        more; what stands is the second, with its own verdict.
        """
        point = self._offer(rate_rps, seed, requests, seconds, whole)
        if not point["valid"] and not point["ended_early"]:
            point = {**self._offer(rate_rps, seed, requests, seconds, whole), "offered_again": True}
        return point

    def _offer(self, rate_rps: float, seed: int, requests: int, seconds: float, whole: bool) -> dict[str, Any]:
        import ray

        entries = self.case.entries
        arrivals = self.case.workload(rate_rps, seed, requests, seconds).arrivals(rate_rps)
        skip = int(len(arrivals) * WARM_UP)
        planned = Counter(arrival.entry for arrival in arrivals[skip:])
        spare = Counter(arrival.entry for arrival in arrivals[:skip])
        allowed = {e: len(arrivals) if whole else math.floor((1 - SHARE) * planned[e]) + spare[e] for e in entries}
        shares: list[list[tuple[float, int]]] = [[] for _ in self._senders]
        for index, arrival in enumerate(arrivals):
            shares[index % len(shares)].append((arrival.arrival_s, arrival.entry))
        at = self._record.stat().st_size
        begin_s = time.monotonic() + 0.5
        calls = [
            sender.run.remote(share, begin_s, self.slo_s * 1e3, allowed, self.case.deadlines)
            for sender, share in zip(self._senders, shares, strict=True)
        ]
        answers = sorted((one for done in ray.get(calls) for one in done), key=lambda one: one.due_s)
        lines = self._recorded(at, rows=sum(one.outcome == "answered" for one in answers))
        point = self._judge(answers[skip:], planned, cut_short=len(answers) < len(arrivals))
        point = {"rate_rps": round(rate_rps, 2), "seed": seed, **point, **_of_steps(lines)}
        rows = sorted((float(line[1]), int(line[2])) for line in lines if line[0] == "row")
        if rows:  # the arrivals as the replica saw them, through the simulator
            deadline_s = self.slo_s if self.case.deadlines else None
            first_s = rows[0][0]
            replay = [Arrival(t - first_s, e, deadline_s and t - first_s + deadline_s) for t, e in rows]
            run = self.case.simulate(self.strategy, replay, self.slo_s)
            if run is not None:
                point["simulated_ms"] = figures([1e3 * v for v in run.latency_s[skip:] if math.isfinite(v)])
                point["simulated_share_within"] = round(run.share_within(self.slo_s, WARM_UP), 5)
        if self.case.raw:
            self.case.raw.mkdir(parents=True, exist_ok=True)
            name = f"{self.strategy}_{self.slo_s * 1e3:.1f}ms_seed{seed}_{rate_rps:.2f}rps.json"
            (self.case.raw / name).write_text(json.dumps([list(vars(one).values()) for one in answers]))
        return point

    def _recorded(self, at: int, rows: int) -> list[list[str]]:
        """What the executor wrote since the file had `at` bytes; it writes a moment after it answers."""
        until_s = time.monotonic() + 10.0
        while True:
            text = self._record.read_bytes()[at:].decode()
            lines = [line.split() for line in text.splitlines()] if text.endswith("\n") or not text else []
            if sum(line[0] == "row" for line in lines) >= rows:
                return lines
            if time.monotonic() > until_s:
                raise ServerError(f"the record {self._record} lacks rows of {rows} that were answered")
            time.sleep(0.05)

    def _judge(self, counted: list[Answered], planned: Counter[int], cut_short: bool) -> dict[str, Any]:
        in_slo = (one for one in counted if one.slo_ms is not None and one.slo_ms <= self.slo_s * 1e3)
        within = Counter(one.entry for one in in_slo)
        least = 0.0 if cut_short else min(within[entry] / planned[entry] for entry in self.case.entries)
        lag_ms = [(one.sent_s - one.due_s) * 1e3 for one in counted]
        client_ms = [(one.received_s - one.due_s) * 1e3 for one in counted if one.outcome == "answered"]
        held = [(one.due_s, one.slo_ms) for one in counted if one.slo_ms is not None]
        slo_ms = [ms for _, ms in held]
        began_s, ended_s = min(one.due_s for one in counted), max(one.due_s for one in counted)
        return {
            "requests": len(counted),
            "share_within": round(least, 5),
            "ended_early": cut_short,
            "outcomes": dict(Counter(one.outcome for one in counted)),
            "slo_clock_ms": figures(slo_ms),
            "total_ms": figures([one.total_ms for one in counted if one.total_ms is not None]),
            "admission_ms": figures([one.admission_ms for one in counted if one.admission_ms is not None]),
            "client_ms": figures(client_ms),
            "generator_lag_p99_ms": figures(lag_ms).get("p99"),
            "valid": in_time(lag_ms, client_ms),
            "stable": not queue_grew([due_s - began_s for due_s, _ in held], slo_ms, ended_s - began_s),
        }


def _of_steps(lines: list[list[str]]) -> dict[str, Any]:
    """What the emulated accelerator did: steps, rows in them, and how well it kept its times."""
    steps = [[float(value) for value in line[1:]] for line in lines if line[0] == "step"]
    if not steps:
        return {"steps": 0}
    idle_s = idle_before_steps_s(lines, slices=round(max(step[4] for step in steps)))
    return {
        "steps": len(steps),
        "idle_with_rows": round(sum(idle_s) / sum(step[2] for step in steps), 4),
        "idle_ms_per_step": {"mean": round(1e3 * statistics.fmean(idle_s), 4), "most": round(1e3 * max(idle_s), 3)},
        "rows_per_step": round(statistics.fmean(step[5] for step in steps), 3),
        "overruns": sum(taken - planned > max(0.05 * planned, 1e-4) for _, planned, taken, *_ in steps),
        "taken_over_planned": round(sum(s[2] for s in steps) / sum(s[1] for s in steps), 4),
    }


def idle_before_steps_s(lines: list[list[str]], slices: int) -> list[float]:
    """How long the accelerator stood still before each step although a row was there since the step before it ended.

    That is what deciding late costs: waking up, choosing, launching. A row counts as there from its arrival on, so its
    admission is in it where the row came just then. The record does not say who was let go without an answer, so such
    rows (``--deadlines``) count as there until the end: the figure is then too high.
    """
    idle_s, arrived_s, inside, free_s = list[float](), list[float](), 0, math.inf
    events = sorted((float(line[1]), line[0] == "step", line) for line in lines if line[0] in ("row", "step"))
    for at_s, is_step, line in events:
        if not is_step:
            arrived_s.append(at_s)
            continue
        there = inside + sum(one_s <= free_s for one_s in arrived_s)
        idle_s.append(max(at_s - free_s, 0.0) if there else 0.0)
        inside, arrived_s = inside + len(arrived_s), []
        free_s = at_s + float(line[3])
        inside -= int(line[6]) if int(line[5]) == slices else 0
    return idle_s


def figures(values_ms: list[float]) -> dict[str, float]:
    """Mean, median and 99th percentile; empty for no value."""
    found = {"mean": mean(values_ms), "p50": percentile(values_ms, 50), "p99": percentile(values_ms, 99)}
    return {name: round(value, 3) for name, value in found.items() if value is not None}
