"""Strategy `naive`, for comparison: what a user would write with ``@serve.batch`` directly around each tail.

One decorated function per model and entry stacks its batch, runs the whole tail in a thread and returns the logits.
Batches are closed before the accelerator is free, which is what makes it slow under load (Serve 2.60; measured in
shared experiments and by `headtail-load --strategy naive`). It has no deadlines, no limit of its own and no isolation
of a failing row, because the plain pattern has none; requests are checked and decoded as for every other strategy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from ray import serve

from deployments.admission import Arrival, decode_rows
from deployments.engine import Outcome
from deployments.models import HostedModel
from slicer.wire import Refusal

Tail = Callable[[Arrival], Awaitable["tuple[Outcome, float] | Refusal"]]


class Naive:
    """The tails of all models, each behind its own ``@serve.batch``. Use it from one event loop only."""

    def __init__(
        self,
        models: Sequence[HostedModel],
        *,
        device: str,
        batch_wait_timeout_s: float,
        concurrency: int,
        torch_threads: int | None,
    ) -> None:
        self._device = torch.device(device)
        # One thread is one accelerator: tails take turns.
        self._accelerator = ThreadPoolExecutor(1, "accelerator", initializer=_set_threads, initargs=(torch_threads,))
        self.steps = 0
        self.rows = 0
        self.busy_s = 0.0
        self.rows_per_step: dict[int, int] = {}
        self.waiting = {model.name: 0 for model in models}
        self._tails: dict[tuple[str, int], Tail] = {}
        self._modules: list[torch.nn.Module] = []
        for model in models:
            dtype = next((p.dtype for p in model.sliced.module.parameters()), torch.float32)
            for entry in model.entries:
                tail = model.sliced.tail(entry).to(self._device)
                self._modules.append(tail)
                self._run(tail, dtype, np.zeros((1, *model.shapes[entry]), np.float32))  # warm-up
                handler = self._handler(tail, dtype)
                self._tails[model.name, entry] = serve.batch(
                    max_batch_size=model.config.max_batch,
                    batch_wait_timeout_s=batch_wait_timeout_s,
                    max_concurrent_batches=concurrency,
                )(handler)
        self.steps, self.rows, self.busy_s, self.rows_per_step = 0, 0, 0.0, {}

    def _handler(
        self, tail: torch.nn.Module, dtype: torch.dtype
    ) -> Callable[[list[Arrival]], Awaitable[list[tuple[Outcome, float] | Refusal]]]:
        async def run_tail(arrivals: list[Arrival]) -> list[tuple[Outcome, float] | Refusal]:
            rows, refusals = decode_rows([arrival.request for arrival in arrivals])
            logits, seconds = rows, 0.0
            if len(rows):
                loop = asyncio.get_running_loop()
                logits, seconds = await loop.run_in_executor(self._accelerator, self._run, tail, dtype, rows)
            ended_s = time.monotonic()
            answers: list[tuple[Outcome, float] | Refusal] = []
            good = iter(logits)
            for arrival, refusal in zip(arrivals, refusals, strict=True):
                if refusal is not None:
                    answers.append(refusal)
                    continue
                # A row waits in Serve's batch queue and for the accelerator; there is no admission apart from that.
                queue_s = ended_s - arrival.arrived_s - seconds
                outcome = Outcome(0, next(good), queue_s=queue_s, execution_s=seconds, rows_per_step=(len(rows),))
                answers.append((outcome, arrival.arrived_s))
            return answers

        return run_tail

    def _run(
        self, tail: torch.nn.Module, dtype: torch.dtype, rows: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float]:
        begun_s = time.monotonic()
        with torch.inference_mode():
            logits = tail(torch.from_numpy(rows).to(self._device, dtype)).float().cpu().numpy()
        seconds = time.monotonic() - begun_s
        self.steps += 1
        self.rows += len(rows)
        self.busy_s += seconds
        self.rows_per_step[len(rows)] = self.rows_per_step.get(len(rows), 0) + 1
        return logits, seconds

    async def infer(self, arrival: Arrival) -> tuple[Outcome, float] | Refusal:
        """One request through its tail's batch; an exception of the batch is every row's failure."""
        name = arrival.model.name
        self.waiting[name] += 1
        try:
            return await self._tails[name, arrival.request.cut](arrival)
        except Exception as error:
            return Refusal(arrival.request.id, "failed", f"the batch failed: {type(error).__name__}: {error}")
        finally:
            self.waiting[name] -= 1

    def close(self) -> None:
        """End the accelerator's thread after the batch that runs."""
        self._accelerator.shutdown(wait=True)

    def weight_bytes(self) -> int:
        """Bytes of the weights that the tails hold, shared storage counted once."""
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for module in self._modules
            for tensor in [*module.parameters(), *module.buffers()]
        }
        return sum(storages.values())


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
