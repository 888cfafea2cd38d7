"""Torch on the CPU, or eager on CUDA: activations stay in the batches that produced them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deployments.executors.base import Executor, Floats, ReceivedBatch, Sliced
from deployments.executors.torch_common import (
    Moved,
    device_lost,
    dtype_named,
    dtype_of,
    in_our_words,
    parts_on,
    resident_set_bytes,
    storage_bytes,
    usable_device,
)
from deployments.scheduling.scheduler import Resident, Row, Step


class _Place(NamedTuple):
    """Where a row's activation is: one row of a batch that was put, or that a step produced."""

    batch: Tensor
    position: int


class TorchExecutor(Executor):
    """Torch on ``cpu`` or ``cuda``: eager, in inference mode.

    A step whose rows lie side by side in an earlier batch runs on that memory; other rows are gathered by one copy. A
    batch's memory is held until its last row has moved on.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: torch's intra-op threads, for the whole process; None leaves them as they are.
        dtype: ``fp32``, ``bf16`` or ``fp16`` for weights and activations; None: what the model has. Logits are float32.

    Raises:
        ConfigError: CUDA is asked for and not there, `threads` is below 1, or the dtype is unknown.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None, dtype: str | None = None) -> None:
        self._device = usable_device(device, threads)
        self._dtype = dtype_named(dtype)
        self.name = device
        self._slices: dict[tuple[str, str], tuple[int, nn.ModuleList]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._moved = Moved()
        self._places: dict[int, _Place] = {}
        self._lock = threading.Lock()  # `memory` reads from other threads

    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Make weights resident.

        An own copy is a copy of everything. Shared weights on the CPU are those of `sliced` itself; on CUDA they are
        copied there once, and `sliced` stays on the host (drop it when nobody needs it).

        Raises:
            ConfigError: a resident lies outside the model.
        """
        for weights, resident in residents.items():
            parts = parts_on(model, weights, resident, sliced, self._device, self._dtype, self._moved)
            with self._lock:
                self._slices[model, weights] = (resident.start, parts)
                self._dtypes[model] = dtype_of(parts)

    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch) -> None:
        """Move new rows to the device, in one transfer, as the model's dtype. `batch` must not be written afterwards.

        Raises:
            OutOfMemory: they do not fit.
        """
        # Torch wants memory that it may write, and a payload that was decoded from bytes is read-only.
        host = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        with self._guarded():
            moved = host.to(self._device, self._dtypes[model])
        with self._lock:
            self._places.update((row.key, _Place(moved, index)) for index, row in enumerate(rows))

    def run(self, step: Step) -> float:
        """Run one step; on CUDA the time is taken between two synchronisations. See `Executor.run`."""
        first, parts = self._slices[step.model, step.weights]
        with self._guarded():
            started_s = self._now_s()
            x = self._gather(step.rows)
            for part in parts[step.start - first : step.end - first]:
                x = part(x)
            execution_s = self._now_s() - started_s
        if x.shape[0] != len(step.rows):
            raise RuntimeError(f"slices {step.start}:{step.end} made {x.shape[0]} rows out of {len(step.rows)}")
        with self._lock:
            self._places.update((row.key, _Place(x, index)) for index, row in enumerate(step.rows))
        return execution_s

    def take(self, rows: Sequence[Row]) -> Floats:
        """Move rows to the host, in one transfer, and forget them."""
        with self._guarded():
            host: Floats = self._gather(rows).to("cpu", torch.float32).numpy()
        for row in rows:
            self.drop(row)
        return host

    def drop(self, row: Row) -> None:
        """Forget a row's activation."""
        with self._lock:
            self._places.pop(row.key, None)

    def memory(self) -> dict[str, int]:
        """Bytes: ``weights`` and ``activations`` (each storage once), ``process`` (resident set of this process).

        On CUDA also ``device_reserved``: what torch's allocator holds of the device, its cache included.
        """
        with self._lock:
            modules = [parts for _, parts in self._slices.values()]
            batches = {id(place.batch): place.batch for place in self._places.values()}
        weights = [tensor for parts in modules for tensor in (*parts.parameters(), *parts.buffers())]
        sizes = {
            "weights": storage_bytes(weights),
            "activations": storage_bytes(batches.values()),
            "process": resident_set_bytes(),
        }
        if self._device.type == "cuda":
            sizes["device_reserved"] = torch.cuda.memory_reserved(self._device)
        return sizes

    def _gather(self, rows: Sequence[Row]) -> Tensor:
        """The rows' activations as one batch: without a copy where they lie side by side in order."""
        places = [self._places[row.key] for row in rows]
        batch, start = places[0]
        if all(place.batch is batch and place.position == start + i for i, place in enumerate(places)):
            return batch if len(places) == batch.shape[0] else batch[start : start + len(places)]
        return torch.stack([place.batch[place.position] for place in places])

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        on_cuda = self._device.type == "cuda"
        with in_our_words(self.name, lambda: on_cuda and device_lost(self._device)), torch.inference_mode():
            yield
