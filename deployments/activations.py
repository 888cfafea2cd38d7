"""Where rows lie on a CUDA device: slabs for those that come, stages for those that go on; see `deployments.cuda`.

All is enqueued on the device in the order of the calls, so a place may change hands as soon as it has been left.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deployments.executors import Floats, storage_bytes
from deployments.scheduler import Row
from deployments.slab import Slots, arrange, runs
from deployments.streams import Gpu

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Memory:
    """Memory with rows in it: a slab (it has slots), a stage (it knows its rows), or one batch.

    Attributes:
        rows: of a stage: position -> key of the row that waits there.
        on_host: page-locked memory: rows that found the slab full, or logits.
        source: where logits come from; kept until they have arrived.
    """

    tensor: Tensor
    slots: Slots | None = None
    rows: dict[int, int] | None = None
    on_host: bool = False
    source: Tensor | None = None


class Place(NamedTuple):
    """Where a row is. `ready`: the event of the copy that brings it there; None: what computes it is enqueued."""

    memory: Memory
    position: int
    ready: object | None = None


class Activations:
    """The rows of one executor. The engine's thread calls under `Gpu.compute`; `sizes` may come from any thread.

    Args:
        slab_rows: rows of one shape that wait on the device; further ones wait on the host.
        stage_rows: rows of a stage, the largest batch that a graph runs.
        notes: gets what a person should know.
    """

    def __init__(self, gpu: Gpu, slab_rows: int, stage_rows: int, notes: list[str]) -> None:
        self._gpu, self._slab_rows, self._stage_rows, self._notes = gpu, slab_rows, stage_rows, notes
        self._slabs: dict[tuple[str, tuple[int, ...]], Memory | None] = {}
        self._stages: dict[tuple[str, int], Memory] = {}
        self._places: dict[int, Place] = {}
        self._lock = threading.Lock()

    # ---------------------------------------------------------------------------------------------- rows come and go

    def put(self, model: str, rows: Sequence[Row], batch: Floats, dtype: torch.dtype) -> None:
        """Begin to copy new rows into the slab, beside the computation; they wait on the host where it is full."""
        host = self._gpu.host(batch.shape, dtype)
        host.copy_(torch.from_numpy(np.require(batch, np.float32, ["C", "W"])))
        slab = self._slab(model, host)
        found = slab.slots.take(len(rows)) if slab is not None and slab.slots is not None else None
        if slab is None or found is None:
            memory = Memory(host, on_host=True)
            places = [Place(memory, index) for index in range(len(rows))]
        else:
            slots, after = found
            pieces, start = [], 0
            for run in slots:
                pieces.append((host[start : start + len(run)], slab.tensor[run.start : run.stop]))
                start += len(run)
            ready = self._gpu.upload(pieces, after)
            places = [Place(slab, position, ready) for run in slots for position in run]
        with self._lock:
            self._places.update((row.key, place) for row, place in zip(rows, places, strict=True))

    def places(self, rows: Sequence[Row]) -> list[Place]:
        """Where rows lie, in order.

        Raises:
            KeyError: one is not here.
        """
        return [self._places[row.key] for row in rows]

    def move(
        self, rows: Sequence[Row], memory: Memory, positions: Sequence[int], left: object, ready: object | None
    ) -> None:
        """Rows have been computed to `positions` of `memory`; where they were is free when `left` has happened."""
        with self._lock:
            for row, position in zip(rows, positions, strict=True):
                _release(self._places[row.key], left)
                self._places[row.key] = Place(memory, position, ready)
            if memory.rows is not None:
                memory.rows.update((position, row.key) for row, position in zip(rows, positions, strict=True))

    def drop(self, key: int) -> None:
        """Forget a row; one that is not here is no error."""
        with self._lock:
            place = self._places.pop(key, None)
            if place is not None:
                _release(place, None)

    # --------------------------------------------------------------------------------------------------- rows of a step

    def gather(self, places: Sequence[Place]) -> tuple[Tensor, list[int]]:
        """Rows as one batch, and their positions in it: where they are, if they lie side by side in any order."""
        self._await(places)
        memory, at = places[0].memory, [place.position for place in places]
        lowest, count = min(at), len(at)
        together = all(place.memory is memory for place in places) and max(at) - lowest + 1 == count
        if together and not memory.on_host:
            return memory.tensor[lowest : lowest + count], [position - lowest for position in at]
        like = memory.tensor
        batch = torch.empty((count, *like.shape[1:]), dtype=like.dtype, device=self._gpu.device)
        _copy(places, batch, range(count))
        return batch, list(range(count))

    def gather_into(self, stage: Memory, rows: Sequence[Row], places: Sequence[Place], size: int) -> list[int]:
        """Bring rows to positions below `size` of a stage, which are returned; those that lie there stay.

        Others that lie there are moved away only if there is no room beside them.
        """
        self._await(places)
        assert stage.rows is not None, "a stage knows its rows"
        mine = {row.key for row in rows}
        taken = [at for at, key in stage.rows.items() if at < size and key not in mine]
        if size - len(taken) < len(rows):
            self.evacuate(stage, size, mine)
            taken = []
        positions = arrange([place.position if place.memory is stage else None for place in places], size, taken)
        _copy(places, stage.tensor, positions, stage)
        return positions

    def stage(self, model: str, boundary: int, like: Tensor) -> Memory | None:
        """The memory of a batch at a boundary, made at first use; None: such activations do not fit into it."""
        stage = self._stages.get((model, boundary))
        if stage is None:
            shape = (self._stage_rows, *like.shape[1:])
            stage = Memory(torch.zeros(shape, dtype=like.dtype, device=self._gpu.device), rows={})
            with self._lock:
                self._stages[model, boundary] = stage
        fits = stage.tensor.shape[1:] == like.shape[1:] and stage.tensor.dtype == like.dtype
        return stage if fits else None

    def evacuate(self, stage: Memory, size: int, keep: Collection[int] = ()) -> None:
        """Move waiting rows below `size` to memory of their own, but for `keep`: a batch is to be put there."""
        assert stage.rows is not None, "a stage knows its rows"
        moving = [(at, key) for at, key in sorted(stage.rows.items()) if at < size and key not in keep]
        if not moving:
            return
        moves = [(at, position) for position, (at, _) in enumerate(moving)]
        memory = Memory(torch.cat([stage.tensor[at : at + length] for at, _, length in runs(moves)]))
        with self._lock:
            for position, (at, key) in enumerate(moving):
                del stage.rows[at]
                self._places[key] = Place(memory, position)

    def _await(self, places: Iterable[Place]) -> None:
        for event in distinct(places):
            self._gpu.wait_for(event)

    # ----------------------------------------------------------------------------------------------------------- bytes

    def sizes(self) -> dict[str, int]:
        """Bytes of ``activations`` on the device (slabs, stages, batches), and ``pinned`` on the host."""
        with self._lock:
            memories = [place.memory for place in self._places.values()]
            memories += [slab for slab in self._slabs.values() if slab is not None]
            memories += self._stages.values()
        return {
            "activations": storage_bytes([memory.tensor for memory in memories if not memory.on_host]),
            "pinned": storage_bytes([memory.tensor for memory in memories if memory.on_host]),
        }

    def _slab(self, model: str, like: Tensor) -> Memory | None:
        """Where new rows of this shape wait; None: the device had no memory for it."""
        key = (model, tuple(like.shape[1:]))
        if key not in self._slabs:
            slab: Memory | None = None
            try:
                with self._gpu.compute():
                    tensor = torch.zeros((self._slab_rows, *key[1]), dtype=like.dtype, device=self._gpu.device)
                    self._gpu.synchronize(self._gpu.record())  # the copy stream is another one
                slab = Memory(tensor, slots=Slots(self._slab_rows))
            except torch.OutOfMemoryError as error:
                self._notes.append(f"new rows of {model} wait on the host: no memory for a slab ({error})")
                logger.warning(self._notes[-1])
            with self._lock:
                self._slabs[key] = slab
        return self._slabs[key]


def distinct(places: Iterable[Place]) -> list[object]:
    """The events that bring these rows, each once."""
    return list({id(place.ready): place.ready for place in places if place.ready is not None}.values())


def _copy(places: Sequence[Place], target: Tensor, positions: Sequence[int], there: Memory | None = None) -> None:
    """Copy rows to positions of `target`, the memory of `there`; those that lie there at the right one stay."""
    sources: dict[int, tuple[Tensor, list[tuple[int, int]]]] = {}
    for place, position in zip(places, positions, strict=True):
        if place.memory is not there or place.position != position:
            sources.setdefault(id(place.memory), (place.memory.tensor, []))[1].append((place.position, position))
    for source, moves in sources.values():
        for start, at, length in runs(moves):
            target[at : at + length].copy_(source[start : start + length], non_blocking=True)


def _release(place: Place, after: object | None) -> None:
    if place.memory.slots is not None:
        place.memory.slots.give(place.position, after)
    if place.memory.rows is not None:
        place.memory.rows.pop(place.position, None)
