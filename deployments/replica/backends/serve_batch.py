"""Strategy `serve_batch`, for comparison: what a user would write with ``@serve.batch`` directly around each tail.

One decorated function per model and entry stacks its batch, runs the whole tail in a thread and returns the logits.
The thread drives the same executor as every other strategy's engine does.
Batches are closed before the accelerator is free, which is what makes it slow under load (Serve 2.60;
measure it with `headtail load --strategy serve_batch`). It has no deadlines, no priorities, no limit of its own, no
isolation of a failing row and no memory of what came before (`Request.key`), because the plain pattern has none;
requests are checked and decoded as for every other strategy.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ray import serve

from deployments.config import ServerConfig
from deployments.core.hosting import Hosted
from deployments.core.status import Counters
from deployments.engine.engine import Outcome
from deployments.engine.trace import StepTrace, TracedStep
from deployments.executors.base import Executor, Floats
from deployments.ipc.hosted_model import HostedModel
from deployments.replica.admission.calls import CheckedRequest, Result
from deployments.replica.admission.decode import decode_rows
from deployments.replica.backends.backend import Backend
from deployments.scheduling.scheduler import SHARED, Resident, Row, Step
from slicer.core.protocol.messages import Refusal

Tail = Callable[[CheckedRequest], Awaitable[Result]]


class ServeBatch(Backend):
    """The tails of all models, each behind its own ``@serve.batch``.

    Args:
        hosted: the models and their weights; emptied as the executor loads them.
        executor: not loaded; the accelerator's thread is its only one from now on.
    """

    def __init__(self, hosted: list[Hosted], executor: Executor, config: ServerConfig) -> None:
        self._executor = executor
        # One thread is one accelerator: tails take turns.
        self._accelerator = ThreadPoolExecutor(1, "accelerator")
        self._keys = itertools.count()
        self._busy_s = 0.0
        self._rows_per_step: dict[int, int] = {}
        self._trace = StepTrace()
        self._waiting = {model.name: 0 for model, _ in hosted}
        self._tails: dict[tuple[str, int], Tail] = {}
        while hosted:
            model, sliced = hosted.pop(0)
            shared = Resident(min(model.entries), model.num_slices, own_copy=False)
            executor.load(model.name, sliced, {SHARED: shared})
            for entry in model.entries:
                warm_up = [Row(next(self._keys), model.name, entry, time.monotonic())]
                zeros = np.zeros((1, *model.shapes[entry]), np.float32)
                self._accelerator.submit(self._run, model, warm_up, zeros).result()
                self._tails[model.name, entry] = serve.batch(
                    max_batch_size=model.config.max_batch,
                    batch_wait_timeout_s=config.serve_batch_wait_timeout_s,
                    max_concurrent_batches=config.serve_batch_concurrency,
                )(self._handler(model, entry))
        self._busy_s, self._rows_per_step = 0.0, {}
        self._trace.clear()

    def _handler(self, model: HostedModel, entry: int) -> Callable[[list[CheckedRequest]], Awaitable[list[Result]]]:
        async def run_tail(requests: list[CheckedRequest]) -> list[Result]:
            batch, refusals = decode_rows(model, [checked.request for checked in requests])
            good = [checked for checked, refusal in zip(requests, refusals, strict=True) if refusal is None]
            rows = [Row(next(self._keys), model.name, entry, checked.arrived_s) for checked in good]
            logits, seconds = batch, 0.0
            if rows:
                loop = asyncio.get_running_loop()
                logits, seconds = await loop.run_in_executor(self._accelerator, self._run, model, rows, batch)
            ended_s = time.monotonic()
            answers: list[Result] = []
            made = iter(logits)
            for checked, refusal in zip(requests, refusals, strict=True):
                if refusal is not None:
                    answers.append(refusal)
                    continue
                # A row waits in Serve's batch queue and for the accelerator; there is no admission apart from that.
                queue_s = ended_s - checked.arrived_s - seconds
                outcome = Outcome(0, next(made), queue_s=queue_s, execution_s=seconds, rows_per_step=(len(rows),))
                answers.append((outcome, checked.arrived_s))
            return answers

        return run_tail

    def _run(self, model: HostedModel, rows: Sequence[Row], batch: Floats) -> tuple[Floats, float]:
        """One batch through its whole tail, on the accelerator's thread."""
        begun_s = time.monotonic()
        entry = rows[0].entry
        self._executor.put(model.name, rows, batch)
        try:
            self._executor.run(Step(model.name, SHARED, entry, model.num_slices, tuple(rows)))
            for row in rows:
                row.boundary = model.num_slices
            logits = self._executor.take(rows)
        finally:  # nothing stays behind of a batch that failed
            for row in rows:
                self._executor.drop(row)
        ended_s = time.monotonic()
        seconds = ended_s - begun_s
        self._trace.add(model.name, entry, model.num_slices, rows, ended_s, seconds)
        self._busy_s += seconds
        self._rows_per_step[len(rows)] = self._rows_per_step.get(len(rows), 0) + 1
        return logits, seconds

    async def infer(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        """Requests of one call, each through its tail's batch."""
        return list(await asyncio.gather(*(self._one(checked) for checked in requests)))

    def counters(self) -> Counters:
        """Of the accelerator's thread; a row waits from its call to its answer."""
        sizes = dict(self._rows_per_step)
        rows = sum(size * count for size, count in sizes.items())
        return Counters(sum(sizes.values()), rows, self._busy_s, dict(self._waiting), sizes)

    def steps(self) -> list[TracedStep]:
        """Of the accelerator's thread."""
        return self._trace.steps()

    async def healthy(self) -> None:
        """It knows of nothing that could be wrong with it."""

    async def _one(self, checked: CheckedRequest) -> Result:
        """An exception of the batch is every row's failure."""
        name = checked.model.name
        self._waiting[name] += 1
        try:
            return await self._tails[name, checked.request.cut](checked)
        except Exception as error:
            return Refusal(checked.request.id, "failed", f"the batch failed: {type(error).__name__}: {error}")
        finally:
            self._waiting[name] -= 1

    def close(self) -> None:
        """End the accelerator's thread after the batch that runs."""
        self._accelerator.shutdown(wait=True)
