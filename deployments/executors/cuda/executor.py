"""Torch on a CUDA device: activations in memory that was set aside, CUDA graphs, steps enqueued behind one another.

New rows are copied once, over page-locked memory and beside the computation, into a *slab* per model and entry; where
that is full they wait on the host and are copied when their step begins. For every boundary there is a *stage*: memory
for one batch, from which the graph of the slice behind it reads and to which that of the slice before it writes. So a
batch that goes on lies already where it is read; a row that joins it is copied to a free place beside it, and only rows
of another batch that still wait in a stage are moved out of the way, when it is about to be written. Eager steps leave
their result where torch put it.

Everything that touches activations is enqueued on one stream, in the order of the launches. So a row's place may change
hands as soon as its step is enqueued; only the copy streams wait for events.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deployments.costs.cost_model import padded_to
from deployments.executors.base import AcceleratorLost, Executor, Floats, ReceivedBatch, Sliced
from deployments.executors.cuda.activations import Activations, Memory, Place, distinct
from deployments.executors.cuda.gpu import CudaGpu, Gpu
from deployments.executors.cuda.graphs import Compiled, Graphs, Mode
from deployments.executors.cuda.slab import bucket_for
from deployments.executors.torch_common import (
    Moved,
    dtype_named,
    dtype_of,
    in_our_words,
    parts_on,
    resident_set_bytes,
    storage_bytes,
    usable_device,
)
from deployments.scheduling.scheduler import Resident, Row, Step
from slicer.core.common.error_text import first_line
from slicer.errors import ConfigError

#: How a slice runs as a graph: the stage before it, the one behind it, and what runs it.
_Way = tuple[Memory, Memory, Callable[[], None]]


class Ticket(NamedTuple):
    """A launched step: events before and after it."""

    began: object
    ended: object


class CudaExecutor(Executor):
    """`Executor`, and `Enqueuing` for the pipelined engine, on a CUDA device.

    Args:
        device: ``cuda`` or ``cuda:N``.
        threads: torch's intra-op threads on the host.
        dtype: ``fp32``, ``bf16``, ``fp16``; None: the model's own. Logits are float32 in any case.
        graphs: ``auto`` takes a CUDA graph or eager execution per slice and batch size, whichever measured faster;
            ``on``: graphs wherever they can be captured; ``off``: none. A batch that a graph runs is padded to the next
            size of 1, 2, 3, 4, 6, 8, 12, ... `max_batch`; what stands in the padding is never read.
        compile: let torch.compile make each slice faster; takes minutes at the start.
        max_batch: batches up to it run as graphs, larger ones eager. Set it to the largest max_batch of the models.
        slab_rows: rows of one entry that wait on the device; None: two batches.
        gpu: the seam to the device; for tests.

    Attributes:
        padded: whether steps may cost as much as the next larger batch size does.
        notes: what runs slower than it was meant to, and why.

    Raises:
        ConfigError: there is no CUDA device, or an option is out of range.
    """

    def __init__(
        self,
        device: str = "cuda",
        threads: int | None = None,
        *,
        dtype: str | None = None,
        graphs: Mode | bool = "auto",
        compile: bool = False,
        max_batch: int = 32,
        slab_rows: int | None = None,
        gpu: Gpu | None = None,
    ) -> None:
        # YAML reads on and off as booleans.
        mode: Any = {True: "on", False: "off"}[graphs] if isinstance(graphs, bool) else graphs
        if mode not in ("auto", "on", "off"):
            raise ConfigError(f"graphs {graphs!r} of executor torch: known are auto, on and off")
        slab_rows = 2 * max_batch if slab_rows is None else slab_rows
        if max_batch < 1 or slab_rows < 1:
            raise ConfigError(f"max_batch {max_batch}, slab_rows {slab_rows} of executor torch: 1 or more each")
        self._dtype = dtype_named(dtype)
        if gpu is None:
            usable_device(device, threads)
            gpu = CudaGpu(device)
        self._gpu, self._compile = gpu, compile
        self._buckets = padded_to(max_batch)
        self._graphs = Graphs(gpu, mode, direct=not compile)
        self.name = device
        self.padded = mode != "off"
        self.notes: list[str] = self._graphs.notes
        self._parts: dict[tuple[str, str], tuple[int, Sequence[nn.Module]]] = {}
        self._weights: list[nn.ModuleList] = []
        self._num_slices: dict[str, int] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._moved = Moved()
        self._targets: dict[tuple[str, int], Memory] = {}  # the stages that graphs write to
        self._found: dict[tuple[str, str, int, int], _Way | None] = {}  # what `_graph` said last
        self._activations = Activations(gpu, slab_rows, max_batch, self.notes)
        self._pinned: list[mmap.mmap] = []
        self._lock = threading.Lock()  # `memory` reads from other threads

    # ---------------------------------------------------------------------------------------------------- the weights

    def load(self, model: str, sliced: Sliced, residents: Mapping[str, Resident]) -> None:
        """Copy weights to the device, and capture the graphs where the shapes of the activations are known beforehand.

        Raises:
            ConfigError: a resident lies outside the model.
        """
        for weights, resident in residents.items():
            with in_our_words(self.name, self._gpu.lost):  # not in inference mode: the weights are ordinary tensors
                modules = parts_on(model, weights, resident, sliced, self._gpu.device, self._dtype, self._moved)
                parts = [Compiled(part, self.notes) for part in modules] if self._compile else list(modules)
                self._gpu.settle()
            with self._lock:
                self._weights.append(modules)
                self._parts[model, weights] = (resident.start, parts)
                self._dtypes[model] = dtype_of(modules)
            self._num_slices[model] = sliced.num_slices
            shape = sliced.shape_at(resident.start)
            if shape is not None:
                self._warm_up(model, weights, resident, shape)

    def _warm_up(self, model: str, weights: str, resident: Resident, shape: tuple[int, ...]) -> None:
        """Rows of zeros through all slices, the largest batch first, so that smaller graphs find its memory there.

        Two batches of each size at a time, one of which stops on the way where the other one is to be written, so that
        nothing is loaded, and no memory asked for, when requests come.
        """
        start, end = resident.start, resident.end
        for size in reversed(self._buckets):
            first, second = (tuple(Row(at - i, model, start, 0.0) for i in range(size)) for at in (-1, -1 - size))
            try:
                for rows in (first, second):
                    self.put(model, rows, np.zeros((size, *shape), np.float32))
                begun = min(start + 1, end - 1)
                if begun > start:
                    self.launch(Step(model, weights, start, begun, first))
                self.launch(Step(model, weights, start, end, second))
                self.run(Step(model, weights, begun, end, first))
                for rows in (first, second):
                    self.take(rows)
            except AcceleratorLost:
                raise
            except Exception as error:  # too large, or a model that fails: its first request will tell
                self.notes.append(f"{model} ({weights}) was not warmed up with {size} rows: {error}")
            finally:
                for row in (*first, *second):
                    self.drop(row)

    # ------------------------------------------------------------------------------------------------------- the rows

    def receiving(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> ReceivedBatch:
        """Memory for rows that are to be put, page-locked: they go to the device from there, without a copy before.

        Any thread. Ordinary memory where there is no such memory left, or the accelerator is lost: nothing that arrives
        may fail for it, and the engine says what is wrong.
        """
        try:
            found: ReceivedBatch = self._gpu.host(shape, torch.from_numpy(np.empty(0, dtype)).dtype).numpy()
        except RuntimeError:
            found = np.empty(shape, dtype)
        return found

    def pin(self, memory: mmap.mmap) -> None:
        """Page-locks it, all of it; what the driver does not lock is copied once more, and a note says so."""
        try:
            self._gpu.pin(memory)
        except RuntimeError as error:
            self.notes.append(f"{len(memory)} bytes of a front's memory are not page-locked: {error}")
        else:
            self._pinned.append(memory)

    def unpin(self, memory: mmap.mmap) -> None:
        """When copies from there have ended."""
        if memory in self._pinned:
            self._pinned.remove(memory)
            with self._guarded():
                self._gpu.unpin(memory)

    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch) -> None:
        """Take new rows of one entry over; `flush` begins to copy them to the device, and so does their first step."""
        with self._guarded():
            self._activations.put(model, rows, batch, self._dtypes[model])

    def flush(self) -> None:
        """Begin to copy what was put since the last time."""
        with self._guarded(), self._gpu.compute():
            self._activations.flush()

    def take(self, rows: Sequence[Row]) -> Floats:
        """The rows' activations, float32; waits for the copy to the host that `launch` began, not for later steps."""
        with self._guarded():
            places = self._activations.places(rows)
            if any(place.memory.source is None for place in places):
                places = self._fetch(places)
            for event in distinct(places):
                self._gpu.synchronize(event)
            memory = places[0].memory  # of one step's rows it is the same one
            if all(place.memory is memory for place in places):
                answers: Floats = memory.tensor.numpy()[[place.position for place in places]]
            else:
                answers = np.stack([place.memory.tensor[place.position].numpy() for place in places])
        for row in rows:
            self.drop(row)
        return answers

    def drop(self, row: Row) -> None:
        """Forget a row's activation."""
        self._activations.drop(row.key)

    def run(self, step: Step) -> float:
        """One step, waited for."""
        return self.wait(self.launch(step))

    def launch(self, step: Step) -> Ticket:
        """Enqueue a step; see `deployments.executors.enqueuing.Enqueuing`."""
        with self._guarded(), self._gpu.compute():
            began = self._gpu.record()
            memory, positions = self._enqueue(step, self._activations.places(step.rows))
            if step.end < self._num_slices[step.model]:
                ended, ready = self._gpu.record(), None
            else:
                logits = memory.tensor.to(torch.float32, copy=True)  # the next step may write to where they lie
                ended = self._gpu.record()
                host, ready = self._gpu.download(logits, ended)
                memory = Memory(host, on_host=True, source=logits)
            self._activations.move(step.rows, memory, positions, ended, ready)
        return Ticket(began, ended)

    def wait(self, ticket: Ticket) -> float:
        """Wait until a step has ended; returns its seconds on the device."""
        try:
            self._gpu.synchronize(ticket.ended)
            return self._gpu.seconds(ticket.began, ticket.ended)
        except RuntimeError as error:  # nothing that was enqueued can fail except for good
            raise AcceleratorLost(f"{self.name}: {first_line(error)}; restart the replica") from error

    # ------------------------------------------------------------------------------------------------------- one step

    def _enqueue(self, step: Step, places: Sequence[Place]) -> tuple[Memory, list[int]]:
        """The slices of a step, one after the other: where the result lies, and at which positions the rows do.

        If it raises, the rows are where they were, or where `Activations.evacuate` moved them.
        """
        size, rows = bucket_for(self._buckets, len(places)), self._activations
        first, parts = self._parts[step.model, step.weights]
        x = places[0].memory.like  # until the rows are brought together it only shows what they look like
        here: Memory | None = None  # the stage that x is the beginning of
        positions: list[int] | None = None
        for index in range(step.start, step.end):
            part = parts[index - first]
            found = None
            if size is not None:
                asked = (step.model, step.weights, index, size)
                if asked not in self._found:
                    self._found[asked] = self._graph(step, index, part, x, size)
                found = self._found[asked]
            if found is not None and size is not None:
                stage, target, replay = found
                if positions is None:
                    positions = rows.gather_into(stage, step.rows, places, size)
                elif here is not stage:
                    rows.evacuate(stage, size)
                    stage.tensor[: len(x)].copy_(x)
                rows.evacuate(target, size)
                replay()
                x, here = target.tensor[:size], target
            else:
                if positions is None:
                    x, positions = rows.gather(places)
                x, here = _eager(index, part, x), None
        assert positions is not None, "a step has a slice"
        return (Memory(x) if here is None else here), positions

    def _graph(self, step: Step, index: int, part: nn.Module, like: Tensor, size: int) -> _Way | None:
        """The stages before and behind a slice, and what runs it on a batch of `size`; captured at first use.

        None: run it eager.
        """
        key = (step.model, step.weights, index)
        if self._graphs.hopeless(key):
            return None
        stage = self._activations.stage(step.model, index, like)
        if stage is None:
            return None
        if not self._graphs.known(key, size):
            source = stage.tensor[:size]
            target = self._activations.stage(step.model, index + 1, part(source[:1]))
            if target is None:
                self._graphs.give_up(key, f"rows that enter at {index + 1} have another shape or dtype")
                return None
            self._targets[step.model, index + 1] = target
            self._activations.evacuate(target, size)
            self._graphs.capture(key, size, part, source, target.tensor[:size])
        replay = self._graphs.replay(key, size)
        return None if replay is None else (stage, self._targets[step.model, index + 1], replay)

    # ---------------------------------------------------------------------------------------------------------- other

    def memory(self) -> dict[str, int]:
        """Bytes: ``weights``, ``activations`` (slabs, stages, batches), ``pinned`` and ``process`` on the host.

        On the device also those of `deployments.executors.cuda.gpu.CudaGpu.memory`.
        """
        with self._lock:
            weights = [t for parts in self._weights for t in (*parts.parameters(), *parts.buffers())]
        sizes = {"weights": storage_bytes(weights), **self._activations.sizes(), "process": resident_set_bytes()}
        return sizes | self._gpu.memory()

    def _fetch(self, places: Sequence[Place]) -> list[Place]:
        """Copies on the host of rows that are not at the model's end."""
        with self._gpu.compute():
            batch, positions = self._activations.gather(places)
            source = batch.to(torch.float32, copy=True)
            host, ready = self._gpu.download(source, self._gpu.record())
            self._gpu.synchronize(ready)
        memory = Memory(host, on_host=True)
        return [Place(memory, position) for position in positions]

    def _guarded(self) -> AbstractContextManager[None]:
        return in_our_words(self.name, self._gpu.lost)


def _eager(index: int, part: nn.Module, x: Tensor) -> Tensor:
    """One slice as torch runs it."""
    y: Tensor = part(x)
    if y.shape[0] != x.shape[0]:
        raise RuntimeError(f"slice {index} made {y.shape[0]} rows out of {x.shape[0]}")
    # A view of what it got would change with the memory that the next rows get.
    return y.clone() if y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else y
