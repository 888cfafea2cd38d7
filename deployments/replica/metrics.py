"""Metrics of the server through Ray's metrics API, so that the dashboard and Prometheus show them.

Requests are counted as they end, and handed to Ray once per period by a slow task, which feeds the gauges, too: a
call of Ray's metrics costs 2 to 3 us, and a request would need seven. A value that the hardware does not give is
missing, never zero.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve import metrics

from slicer.core.protocol.messages import Answer, Reply, Timings

logger = logging.getLogger("headtail.server")

_MS_BUCKETS = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
_ROW_BUCKETS = [1, 2, 4, 8, 16, 32, 64, 128]


class RequestMetrics:
    """Of who answers requests. Not thread-safe: use it from one event loop.

    Metrics: `headtail_requests` by model, entry and outcome (`answered` or a refusal code), `headtail_queue_ms`,
    `headtail_execution_ms` and `headtail_rows_per_step` by model. The counter counts every request; the histograms hold
    at most `SAMPLES` requests per period of the watch, evenly spread where there were more, so their shares are right
    and their counts are of samples.
    """

    SAMPLES = 200

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._timings: list[tuple[str, Timings]] = []
        self._requests = metrics.Counter(
            "headtail_requests", description="Requests by outcome", tag_keys=("model", "entry", "outcome")
        )
        self._queue_ms = metrics.Histogram(
            "headtail_queue_ms", description="Waiting in the engine", boundaries=_MS_BUCKETS, tag_keys=("model",)
        )
        self._execution_ms = metrics.Histogram(
            "headtail_execution_ms", description="On the accelerator", boundaries=_MS_BUCKETS, tag_keys=("model",)
        )
        self._rows = metrics.Histogram(
            "headtail_rows_per_step", description="Rows per step", boundaries=_ROW_BUCKETS, tag_keys=("model",)
        )

    def count(self, model: str, entry: int, answer: Answer) -> None:
        """Record one answered or refused request."""
        if isinstance(answer, Reply):
            self._counts[model, entry, "answered"] += 1
            self._timings.append((model, answer.timings))
        else:
            self._counts[model, entry, answer.code] += 1

    async def update(self) -> None:
        """Hand over to Ray what was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        timings, self._timings = self._timings, []
        for (model, entry, outcome), count in counts.items():
            self._requests.inc(float(count), tags={"model": model, "entry": str(entry), "outcome": outcome})
        for model, timing in timings[:: max(1, math.ceil(len(timings) / self.SAMPLES))]:
            tags = {"model": model}
            self._queue_ms.observe(timing.queue_ms, tags=tags)
            self._execution_ms.observe(timing.execution_ms, tags=tags)
            for rows in timing.rows_per_step:
                self._rows.observe(float(rows), tags=tags)


class AcceleratorMetrics:
    """Of who owns an accelerator.

    Gauges: `headtail_accelerator_utilisation_percent`, `headtail_accelerator_memory_bytes`,
    `headtail_accelerator_power_watts`, `headtail_waiting_rows` and `headtail_busy_ratio`.

    Args:
        read: gives `waiting`, `busy_s`, `uptime_s` and `nvml`; called on a thread.
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        self._read = read
        self._before: Mapping[str, Any] = {"busy_s": 0.0, "uptime_s": 0.0}
        self._waiting = metrics.Gauge("headtail_waiting_rows", description="Rows in the engine", tag_keys=("model",))
        self._busy = metrics.Gauge("headtail_busy_ratio", description="Share of wall time in steps")
        self._gpu = {
            "utilisation_percent": metrics.Gauge("headtail_accelerator_utilisation_percent", description="By NVML"),
            "memory_bytes": metrics.Gauge("headtail_accelerator_memory_bytes", description="Used, by NVML"),
            "power_watts": metrics.Gauge("headtail_accelerator_power_watts", description="By NVML"),
        }

    async def update(self) -> None:
        """Feed the gauges."""
        now = await asyncio.get_running_loop().run_in_executor(None, self._read)
        for model, rows in now["waiting"].items():
            self._waiting.set(rows, tags={"model": model})
        wall_s = now["uptime_s"] - self._before["uptime_s"]
        if wall_s > 0:
            self._busy.set((now["busy_s"] - self._before["busy_s"]) / wall_s)
        for name, value in now["nvml"].items():
            if name in self._gpu and value is not None:
                self._gpu[name].set(value)
        self._before = now


class Watch:
    """Updates metrics every `period_s`, from `start` to `stop`, on one event loop."""

    def __init__(self, *parts: RequestMetrics | AcceleratorMetrics, period_s: float = 2.0) -> None:
        self._parts, self._period_s = parts, period_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the running event loop; nothing, if it runs already."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """End it, if it runs."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            for part in self._parts:
                try:
                    await part.update()
                except Exception:
                    logger.exception("metrics are not handed over this time")
