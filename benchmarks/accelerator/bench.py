"""One model on an accelerator: its cost table, what simulation predicts from it, its goodput and its saturated rate."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.common.engine_harness import WARM_UP, Harness, Setup, summary
from benchmarks.common.rate_search import highest_rate
from benchmarks.common.results import ci95
from benchmarks.common.strategies import options_of
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import save_cost_profile
from deployments.engine.calibrate import calibrate
from deployments.executors.registry import make_executor
from deployments.scheduling.scheduler import SHARED, Resident
from deployments.simulation.simulator import Setup as Simulated
from deployments.simulation.simulator import Simulation
from deployments.simulation.workloads import Workload, bound_rps, goodput_rps
from slicer import slice_model
from slicer.common.comparison import interval
from slicer.common.nvml import NvmlGpu

#: Dense TFLOP/s at bf16/fp16 and at fp32 without tensor cores, by what the device's name holds (NVIDIA's data sheets).
PEAKS = {
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "T4": (65.0, 8.1),
}


class Bench:
    """One model on the device."""

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self.args, self.model = args, model
        kwargs = json.loads(args.model_kwargs)
        self.sliced = slice_model(model, args.slices, seed=0, verify=False, dtype=args.dtype, **kwargs)
        self.entries = tuple(range(args.slices)) if args.slices <= 4 else tuple(range(0, args.slices, args.slices // 4))
        self.profile = args.out / f"profile_{re.sub('[^A-Za-z0-9_]+', '-', model)}_{args.slices}_{args.dtype}.yaml"

    def executor_options(self) -> dict[str, Any]:
        options: dict[str, Any] = json.loads(self.args.executor_options)
        return options

    def measure_profile(self) -> dict[str, Any]:
        """The table, in a file; and its figures for the document."""
        executor = make_executor("torch", device=self.args.device, threads=1, options=self.executor_options())
        last = self.sliced.num_slices
        executor.load("m", self.sliced, {SHARED: Resident(0, last, own_copy=False)})
        costs = CostModel.unknown(last, self.args.max_batch, padded=bool(getattr(executor, "padded", False)))
        costs.name = self.model
        shape = self.sliced.shape_at(0)
        calibrate(costs, executor, model="m", entry=0, shape=shape, repeats=3, budget_s=30.0)  # warm: kernels, graphs
        calibrate(costs, executor, model="m", entry=0, shape=shape, repeats=self.args.repeats, budget_s=60.0)
        on_gpu = self.args.device.startswith("cuda")
        where = torch.cuda.get_device_name(self.args.device) if on_gpu else costs.source.where
        what = f"{self.model}, {last} slices, {self.args.dtype}, rows of zeros, {self.args.repeats} passes"
        costs.source = replace(costs.source, what=what, where=where)
        save_cost_profile(costs, self.profile)
        return {
            "profile": self.profile.name,
            "whole_ms": {str(n): round(costs.span_s(0, last, n) * 1e3, 4) for n in costs.buckets},
            "decision_us": round(costs.decision_s * 1e6, 1),
            "bound_rps": round(bound_rps(costs, self.entries, self.args.max_batch), 2),
        }

    def predict(self, strategy: str, slo_s: float, costs: CostModel) -> list[float]:
        """Simulated goodput of each seed."""
        bound = bound_rps(costs, self.entries, self.args.max_batch)

        def share(seed: int, rate_rps: float) -> float:
            setup = Simulated(
                costs,
                strategy,
                options=options_of(strategy, slo_s),
                max_batch=self.args.max_batch,
                decision_s=0.0 if self.args.device.startswith("cuda") else costs.decision_s,
            )
            arrivals = Workload(self.entries, self.args.requests, seed=seed).arrivals(rate_rps)
            return Simulation(setup).run(arrivals).share_within(slo_s, WARM_UP)

        return [goodput_rps(lambda rate, seed=seed: share(seed, rate), bound) for seed in self.args.seeds]  # type: ignore[misc]

    def harness(self, strategy: str, slo_s: float, costs: CostModel) -> Harness:
        setup = Setup(
            strategy,
            self.entries,
            max_batch=self.args.max_batch,
            device=self.args.device,
            executor_options=self.executor_options(),
            options=options_of(strategy, slo_s),
        )
        return Harness(self.sliced, setup, costs)

    def goodput(self, harness: Harness, slo_s: float, near: list[float], bound: float) -> dict[str, Any]:
        """The highest rate of each seed at which 99 % of every entry are within the SLO, to 4 %."""
        found, lags = list[float](), list[bool]()
        for seed, near_rps in zip(self.args.seeds, near, strict=True):

            def holds(rate_rps: float, seed: int = seed) -> bool:
                arrivals = Workload(self.entries, self.args.requests, seed=seed).arrivals(rate_rps)
                records, _ = harness.open_loop(arrivals)
                counted = records[int(len(records) * WARM_UP) :]
                lags.append(summary(records)["valid"])
                return all(
                    statistics.fmean(r.outcome == "answered" and r.ended_s - r.due_s <= slo_s for r in of_entry) >= 0.99
                    for entry in self.entries
                    if (of_entry := [r for r in counted if r.entry == entry])
                )

            if found and found[-1]:
                near_rps = found[-1]
            found.append(highest_rate(holds, near_rps, bound, self.args.points, self.args.first_step))
        return {
            "goodput_rps": round(statistics.median(found), 2),
            "by_seed_rps": [round(rate, 2) for rate in found],
            "ci95": ci95(interval(found)),
            "invalid_points": lags.count(False),
        }

    def saturated(self, harness: Harness, bound: float) -> dict[str, Any]:
        """As many clients as keep every batch full: the rate, its share of the bound, utilisation, joules."""
        clients = 4 * self.args.max_batch
        gpu = NvmlGpu()
        before = gpu.read()["energy_joules"]
        began_s = time.monotonic()
        records, stats = harness.closed_loop(clients, self.args.seconds)
        joules, wall_s = gpu.read()["energy_joules"], time.monotonic() - began_s
        said = summary(records, wall_s=self.args.seconds, warm_up=0.0)
        flops = [one.flops for one in self.sliced.slices]
        useful = sum(sum(flops[r.entry :]) for r in records) / self.args.seconds / 1e12
        peak = peak_tflops(self.args)
        answers = len(records) * wall_s / self.args.seconds  # those of the warm-up used energy, too
        return {
            "rps": round(said.get("rate_rps", 0.0), 2),
            "share_of_bound": round(said.get("rate_rps", 0.0) / bound, 4),
            "rows_per_step": round(said.get("rows_per_step", 0.0), 2),
            "busy_share": round(min(stats.busy_s / self.args.seconds, 1.0), 4),
            "useful_tflops": round(useful, 4),
            "useful_over_peak": None if peak is None else round(useful / peak, 5),
            "joules_per_answer": None if None in (before, joules) or not answers else (joules - before) / answers,  # type: ignore[operator]
        }


def peak_tflops(args: argparse.Namespace) -> float | None:
    """Given, or from the table; None: unknown, and so is the share of it."""
    if args.peak_tflops:
        return float(args.peak_tflops)
    if not args.device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(args.device)
    half, single = next((peak for key, peak in PEAKS.items() if key in name), (None, None))
    return single if args.dtype == "fp32" else half
