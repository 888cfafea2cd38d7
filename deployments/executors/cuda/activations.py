"""Where rows lie on a CUDA device: slabs for those that come, stages for those that go on; see
`deployments.executors.cuda.executor`.

All is enqueued on the device in the order of the calls, so a place may change hands as soon as it has been left.

The rows that come in one turn of the engine go to the device together, when `flush` is called: from where they are if
that is page-locked memory, else from such memory beside their slab, into which `put` copies them. They arrive as they
were sent, float16 for instance, and take the model's dtype on the device, when they are copied into a batch.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.executors.base import ReceivedBatch
from deployments.executors.cuda.gpu import Gpu
from deployments.executors.cuda.slab import Slots, arrange, runs
from deployments.executors.torch_common import storage_bytes
from deployments.scheduling.scheduler import Row

logger = logging.getLogger("headtail.executor")


@dataclass(eq=False, slots=True)
class Memory:
    """Memory with rows in it: a stage (it knows its rows), one batch, or a slab.

    Attributes:
        rows: of a stage: position -> key of the row that waits there.
        on_host: rows that found the slab full, or logits.
        source: where logits come from; kept until they have arrived.
        slab: what a slab has beside its memory.
        computed: of rows as they came: no row, but of the dtype in which they are computed, on the device.
    """

    tensor: Tensor
    rows: dict[int, int] | None = None
    on_host: bool = False
    source: Tensor | None = None
    slab: Slab | None = None
    computed: Tensor | None = None

    @property
    def like(self) -> Tensor:
        """What a batch of these rows looks like, whatever its size."""
        return self.tensor if self.computed is None else self.computed


@dataclass(eq=False, slots=True)
class Upload:
    """Rows that are copied to the device together. `event` happens then; None: it has not been begun."""

    event: object | None = None
    sources: list[Tensor] = field(default_factory=list)  # of others, kept until then
    awaited: bool = False  # what is enqueued for computation from now on runs behind it
    done: bool = False  # the host has seen that it happened


@dataclass(eq=False, slots=True)
class Slab:
    """Where new rows of one entry wait, on the host the same positions once more, from which they are copied."""

    slots: Slots
    staging: Tensor
    array: npt.NDArray[Any]  # the memory of `staging`
    uploads: list[Upload | None]  # by position: the last one from there
    waiting: deque[int] = field(default_factory=deque)  # keys of rows that found it full, and of some that have left


class Place(NamedTuple):
    """Where a row is. `ready`: what brings it there, an `Upload` or an event; None: what computes it is enqueued."""

    memory: Memory
    position: int
    ready: object | None = None


class Activations:
    """The rows of one executor. The engine's thread calls under `Gpu.compute`; `sizes` may come from any thread.

    Args:
        slab_rows: rows of one entry that wait on the device; further ones wait on the host.
        stage_rows: rows of a stage, the largest batch that a graph runs.
        notes: gets what a person should know.
    """

    def __init__(self, gpu: Gpu, slab_rows: int, stage_rows: int, notes: list[str]) -> None:
        self._gpu, self._slab_rows, self._stage_rows, self._notes = gpu, slab_rows, stage_rows, notes
        self._slabs: dict[tuple[str, int, tuple[int, ...], torch.dtype], Memory | None] = {}
        self._stages: dict[tuple[str, int], Memory] = {}
        self._places: dict[int, Place] = {}
        self._upload = Upload()  # the next one
        self._pieces: list[tuple[Memory, range, Tensor | None]] = []  # what it will copy; None: from the staging memory
        self._uploads: deque[Upload] = deque()  # those whose sources are kept
        self._after: list[object] = []  # events that it waits for
        self._lock = threading.Lock()

    # ---------------------------------------------------------------------------------------------- rows come and go

    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch, dtype: torch.dtype) -> None:
        """Lay new rows of one entry where `flush` takes them; they wait where they are as long as the slab is full."""
        if batch.dtype not in (np.float16, np.float32):
            batch = batch.astype(np.float32)
        # Torch wants memory that it may write; a payload that was decoded from bytes is read-only.
        source = torch.from_numpy(batch if batch.flags.carray else np.require(batch, requirements=["C", "W"]))
        memory = self._slab(model, rows[0].boundary, source, dtype)
        keys = [row.key for row in rows]
        slab = None if memory is None else memory.slab
        if memory is None or slab is None or slab.waiting or len(keys) > slab.slots.free:
            computed = self._computed(source, dtype) if memory is None else memory.computed
            host = Memory(source, on_host=True, computed=computed)
            with self._lock:
                self._places.update((key, Place(host, index)) for index, key in enumerate(keys))
            if slab is not None:
                slab.waiting += keys
        else:
            self._lay(memory, slab, keys, source)

    def _lay(self, memory: Memory, slab: Slab, keys: Sequence[int], source: Tensor) -> None:
        """Give rows places in a slab that has room for them; `flush` copies them there."""
        found = slab.slots.take(len(keys))
        assert found is not None, "there is room"
        slots, after = found
        upload, pinned, start = self._upload, self._gpu.is_pinned(source), 0
        places: list[Place] = []
        for run in slots:
            piece, start = source[start : start + len(run)], start + len(run)
            if pinned:
                upload.sources.append(piece)
            else:
                self._stage_rows_of(slab, run, piece)
            self._pieces.append((memory, run, piece if pinned else None))
            places += [Place(memory, position, upload) for position in run]
        self._after += after
        with self._lock:
            self._places.update(zip(keys, places, strict=True))

    def _let_in(self) -> None:
        """Rows that found the slab full get the places that have become free, the first ones first."""
        for memory in self._slabs.values():
            slab = None if memory is None else memory.slab
            while memory is not None and slab is not None and slab.waiting and slab.slots.free:
                key = slab.waiting.popleft()
                place = self._places.get(key)
                if place is not None and place.memory.on_host and place.memory.source is None:  # it still waits there
                    self._lay(memory, slab, [key], place.memory.tensor[place.position : place.position + 1])

    def flush(self) -> None:
        """Begin to copy what was put, beside the computation."""
        self._let_in()
        if not self._pieces:
            return
        pieces, after, upload = self._pieces, self._after, self._upload
        self._pieces, self._after, self._upload = [], [], Upload()
        copies = [(source, memory.tensor[run.start : run.stop]) for memory, run, source in _merged(pieces)]
        upload.event = self._gpu.upload(copies, {id(event): event for event in after}.values())
        while self._uploads and self._gpu.happened(self._uploads[0].event):
            self._uploads.popleft().sources.clear()
        if upload.sources:
            self._uploads.append(upload)

    def _stage_rows_of(self, slab: Slab, run: range, piece: Tensor) -> None:
        """Copy rows beside the slab, when what was copied from there before has left; it nearly always has."""
        for before in slab.uploads[run.start : run.stop]:
            if before is not None and not before.done and before.event is not None:
                self._gpu.synchronize(before.event)
                before.done = True
        slab.array[run.start : run.stop] = piece.numpy()
        slab.uploads[run.start : run.stop] = [self._upload] * len(run)

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
        keys = [row.key for row in rows]
        with self._lock:
            for key, position in zip(keys, positions, strict=True):
                _release(self._places[key], left)
                self._places[key] = Place(memory, position, ready)
            if memory.rows is not None:
                memory.rows.update(zip(positions, keys, strict=True))

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
        like = memory.like
        if together and not memory.on_host:
            batch = memory.tensor[lowest : lowest + count].to(like.dtype)
            return batch, [position - lowest for position in at]
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
        """Move waiting rows below `size` to memory of their own, except for `keep`: a batch is to be put there."""
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
        for ready in distinct(places):
            if not isinstance(ready, Upload):
                self._gpu.wait_for(ready)
            elif not ready.awaited:
                if ready.event is None:
                    self.flush()
                self._gpu.wait_for(ready.event)
                ready.awaited = True

    # ----------------------------------------------------------------------------------------------------------- bytes

    def sizes(self) -> dict[str, int]:
        """Bytes of ``activations`` on the device (slabs, stages, batches), and ``pinned`` on the host."""
        with self._lock:
            memories = [place.memory for place in self._places.values()]
            slabs = [slab for slab in self._slabs.values() if slab is not None]
            memories += [*slabs, *self._stages.values()]
        pinned = [memory.tensor for memory in memories if memory.source is not None]
        return {
            "activations": storage_bytes([memory.tensor for memory in memories if not memory.on_host]),
            "pinned": storage_bytes([*pinned, *(memory.slab.staging for memory in slabs if memory.slab is not None)]),
        }

    def _slab(self, model: str, entry: int, batch: Tensor, dtype: torch.dtype) -> Memory | None:
        """Where new rows of this entry, shape and dtype wait; None: the device had no memory for it."""
        key = (model, entry, tuple(batch.shape[1:]), batch.dtype)
        if key not in self._slabs:
            found: Memory | None = None
            shape = (self._slab_rows, *key[2])
            try:
                with self._gpu.compute():
                    tensor = torch.zeros(shape, dtype=batch.dtype, device=self._gpu.device)
                    self._gpu.synchronize(self._gpu.record())  # the copy stream is another one
                staging = self._gpu.host(shape, batch.dtype)
                slab = Slab(Slots(self._slab_rows), staging, staging.numpy(), [None] * self._slab_rows)
                found = Memory(tensor, slab=slab, computed=self._computed(batch, dtype))
            except torch.OutOfMemoryError as error:
                self._notes.append(f"new rows of {model} wait on the host: no memory for a slab ({error})")
                logger.warning(self._notes[-1])
            with self._lock:
                self._slabs[key] = found
        return self._slabs[key]

    def _computed(self, batch: Tensor, dtype: torch.dtype) -> Tensor:
        """No row, but of the shape and dtype that the model computes, on the device."""
        with self._gpu.compute():
            return torch.empty((0, *batch.shape[1:]), dtype=dtype, device=self._gpu.device)


def distinct(places: Iterable[Place]) -> list[object]:
    """What brings these rows, each once."""
    return list({id(place.ready): place.ready for place in places if place.ready is not None}.values())


def _merged(pieces: Sequence[tuple[Memory, range, Tensor | None]]) -> list[tuple[Memory, range, Tensor]]:
    """Pieces with what they are copied from; those beside the slab that follow each other as one."""
    found: list[tuple[Memory, range, Tensor | None]] = []
    last: dict[int, int] = {}  # by memory: where its last piece is
    for memory, run, source in pieces:
        at = last.get(id(memory))
        if source is None and at is not None and found[at][2] is None and found[at][1].stop == run.start:
            found[at] = (memory, range(found[at][1].start, run.stop), None)
        else:
            last[id(memory)] = len(found)
            found.append((memory, run, source))
    return [(memory, run, _staging(memory, run) if source is None else source) for memory, run, source in found]


def _staging(memory: Memory, run: range) -> Tensor:
    assert memory.slab is not None, "only a slab has memory beside it"
    return memory.slab.staging[run.start : run.stop]


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
    if place.memory.slab is not None:
        place.memory.slab.slots.give(place.position, after)
    if place.memory.rows is not None:
        place.memory.rows.pop(place.position, None)
