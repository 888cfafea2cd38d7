"""One strategy of paper.py in a process of its own: ``python -m benchmarks.paper.worker JSON``, one JSON line back.

A fresh process per strategy, so that its memory is its own. Memory is reported apart: what the process held before a
model was there, weights, the peak of activations while under load, and the peak of the whole process.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from typing import Any

from benchmarks.common.engine_harness import Harness, Setup, summary
from deployments.executors.torch_common import resident_set_bytes, storage_bytes
from deployments.simulation.workloads import Workload
from slicer import slice_model


class MemoryWatch:
    """Samples the executor's memory and this process's resident set, every 5 ms."""

    def __init__(self, harness: Harness) -> None:
        self._harness, self._done = harness, threading.Event()
        self.activations = self.process = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            memory = self._harness.executor.memory()
            self.activations = max(self.activations, memory["activations"])
            self.process = max(self.process, resident_set_bytes())

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See paper.py for the job."""
    before = resident_set_bytes()
    sliced = slice_model(job["model"], 4, seed=0, verify=False, **job["kwargs"])
    flops = [one.flops for one in sliced.slices]
    model_bytes = storage_bytes([*sliced.module.parameters(), *sliced.module.buffers()])
    setup = Setup(**{**job["setup"], "entries": tuple(job["setup"]["entries"])})
    harness = Harness(sliced, setup)
    del sliced  # the harness holds what it needs, as the server does
    gc.collect()
    found: dict[str, Any] = {"closed": {}, "open": []}
    for clients in job["clients"]:
        records, stats = harness.closed_loop(clients, job["seconds"])
        said = summary(records, wall_s=job["seconds"], warm_up=0.0)
        found["closed"][str(clients)] = {**said, **useful(records, flops, job["seconds"], stats.busy_s)}
    for rate_rps in job["rates_rps"]:
        for seed in job["seeds"]:
            workload = Workload(
                setup.entries,
                max(60, round(rate_rps * job["seconds"])),
                seed=seed,
                process=job["process"],
            )
            records, stats = harness.open_loop(workload.arrivals(rate_rps), job["patience_s"])
            wall_s = max(record.ended_s for record in records) - records[0].due_s
            # The offered rate names the point; what came out of it is another figure.
            said = {**summary(records), "rate_rps": rate_rps, "seed": seed}
            found["open"].append({**said, **useful(records, flops, wall_s, stats.busy_s)})
    watch = MemoryWatch(harness)
    harness.closed_loop(job["memory_clients"], job["memory_seconds"])
    watch.stop()
    memory = harness.executor.memory()
    found["memory"] = {
        "one_model": model_bytes,
        "before": before,
        "weights": memory["weights"],
        "activations_peak": watch.activations,
        "process_peak": watch.process,
        **{key: value for key, value in memory.items() if key not in ("weights", "activations", "process")},
    }
    found["emulated"] = harness.executor.emulated
    harness.close()
    return found


def useful(records: list[Any], flops: list[float], wall_s: float, busy_s: float) -> dict[str, float]:
    """FLOP/s that answers needed (no padding, no other rows), and the share of time in which steps ran."""
    work_done = sum(sum(flops[record.entry :]) for record in records if record.outcome == "answered")
    return {"useful_gflops": work_done / wall_s / 1e9, "busy_share": min(busy_s / wall_s, 1.0)}


if __name__ == "__main__":
    print(json.dumps(work(json.loads(sys.argv[1]))))
