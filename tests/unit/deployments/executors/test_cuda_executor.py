"""All of the CUDA executor that needs no GPU: where rows lie, what is copied, graphs or eager, lack of memory.

The device is a `HostGpu`, which copies as late as it may; the streams themselves are tested in tests/gpu.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deployments.engine.engine import Outcome
from deployments.engine.pipelined import PipelinedEngine
from deployments.executors.base import AcceleratorLost, Floats, OutOfMemory
from deployments.executors.cuda.executor import CudaExecutor
from deployments.executors.cuda.graphs import Graphs
from deployments.executors.enqueuing import Enqueuing
from deployments.executors.registry import make_executor
from deployments.executors.torch_executor import TorchExecutor
from deployments.scheduling.registry import POLICIES, make_policy
from deployments.scheduling.scheduler import Resident, Row, Scheduler, Step
from deployments.testing.fakes import FakeClock
from slicer.errors import ConfigError
from slicer.slicing.slice_model import slice_model
from tests.unit.host_gpu import HostGpu

WIDTH, SLICES = 8, 4
SHARED = {"shared": Resident(0, SLICES, own_copy=False)}


class Residual(nn.Module):
    """Ends with an addition, as a transformer block does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.linear(x)
        return x + torch.tanh(x)


class Tiny:
    """As much of a sliced model as an executor needs."""

    def __init__(self, *units: nn.Module) -> None:
        torch.manual_seed(0)
        self.units = nn.ModuleList(units or [Residual(), nn.Linear(WIDTH, WIDTH), Residual(), nn.Linear(WIDTH, 3)])
        self.num_slices = len(self.units)

    def span(self, start: int, end: int) -> nn.Module:
        return nn.Sequential(*self.units[start:end])

    def shape_at(self, cut: int) -> tuple[int, ...]:
        return (WIDTH,)


class Cold(Tiny):
    """Its shapes are not known beforehand, so that nothing is warmed up."""

    def shape_at(self, cut: int) -> None:  # type: ignore[override]
        """Nobody knows."""


def loaded(sliced: Any = None, gpu: HostGpu | None = None, **options: Any) -> tuple[CudaExecutor, Any, HostGpu]:
    gpu, sliced = gpu or HostGpu(), sliced or Tiny()
    executor = CudaExecutor(gpu=gpu, **{"graphs": "on", "max_batch": 4, **options})
    executor.load("m", sliced, {"shared": Resident(0, sliced.num_slices, own_copy=False)})
    return executor, sliced, gpu


def rows_of(count: int, entry: int = 0, first: int = 0) -> list[Row]:
    return [Row(first + i, "m", entry, 0.0) for i in range(count)]


def batch_of(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def step_of(rows: list[Row], start: int, end: int) -> Step:
    return Step("m", "shared", start, end, tuple(rows))


def check(executor: CudaExecutor, sliced: Any, rows: list[Row], start: int, batch: Floats) -> None:
    with torch.inference_mode():
        wanted = sliced.span(start, sliced.num_slices)(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(executor.take(rows), wanted, atol=1e-5, rtol=0)


class Copies:
    """Counts the rows that are copied between places on the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        real = torch.Tensor.copy_

        def counted(target: Tensor, source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.rows.append(len(source))
            return real(target, source, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "copy_", counted)


# ------------------------------------------------------------------------------------------------- where the rows lie


@pytest.mark.parametrize("graphs", ["on", "off", "auto"])
def test_rows_of_several_batches_meet_and_part_again_in_any_order(graphs: str) -> None:
    executor, sliced, _ = loaded(graphs=graphs)
    early, late = rows_of(2), rows_of(2, entry=1, first=2)
    executor.put("m", early, batch_of(2, seed=1))
    executor.put("m", late, batch_of(2, seed=2))
    executor.run(step_of(early, 0, 1))
    executor.run(step_of([late[1], early[0], late[0], early[1]], 1, 3))
    executor.run(step_of([early[1], late[1]], 3, 4))
    executor.run(step_of([late[0], early[0]], 3, 4))
    check(executor, sliced, early, 0, batch_of(2, seed=1))
    check(executor, sliced, late, 1, batch_of(2, seed=2))


def test_a_batch_that_goes_on_is_not_copied_and_a_newcomer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, sliced, _ = loaded(Tiny(*[Residual() for _ in range(4)]))
    rows, late = rows_of(2), rows_of(1, entry=2, first=2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows, 0, 1))
    copies = Copies(monkeypatch)
    executor.put("m", late, batch_of(1, seed=1))
    executor.run(step_of(rows, 1, 2))
    assert copies.rows == [], "it was written where it is read"
    executor.launch(step_of([late[0], *rows], 2, 3))
    assert copies.rows == [1, 1], "the newcomer: from the host to the slab, and beside the others"
    executor.run(step_of([*rows, *late], 3, 4))
    monkeypatch.undo()
    check(executor, sliced, rows, 0, batch_of(2))
    check(executor, sliced, late, 2, batch_of(1, seed=1))


def test_rows_that_wait_where_another_batch_is_about_to_be_written_are_moved_away() -> None:
    executor, sliced, _ = loaded()
    front, behind = rows_of(2), rows_of(3, first=2)
    executor.put("m", front, batch_of(2, seed=1))
    executor.put("m", behind, batch_of(3, seed=2))
    executor.run(step_of(front, 0, 2))
    executor.run(step_of(behind, 0, 1))
    executor.run(step_of(behind, 1, 3))  # passes boundary 2, where the front rows wait
    executor.run(step_of(front, 2, 3))  # ends where the others wait
    executor.run(step_of([behind[0], *front], 3, 4))
    executor.run(step_of(behind[1:], 3, 4))
    check(executor, sliced, front, 0, batch_of(2, seed=1))
    check(executor, sliced, behind, 0, batch_of(3, seed=2))


def test_rows_that_find_the_slab_full_wait_on_the_host() -> None:
    executor, sliced, _ = loaded(slab_rows=2)
    groups = [rows_of(2, first=2 * i) for i in range(3)]
    for seed, rows in enumerate(groups):
        executor.put("m", rows, batch_of(2, seed))
    for rows in groups:
        executor.run(step_of(rows, 0, 4))
    for seed, rows in enumerate(groups):
        check(executor, sliced, rows, 0, batch_of(2, seed))


def test_rows_that_found_the_slab_full_are_let_in_one_after_the_other_as_soon_as_there_is_room() -> None:
    executor, sliced, gpu = loaded(Cold(), slab_rows=2)
    rows = rows_of(7)
    for row, activation in zip(rows, batch_of(7), strict=True):
        executor.put("m", [row], activation[None])
    executor.drop(rows[2])  # it waited outside
    executor.flush()
    executor.run(step_of(rows[:2], 0, 4))
    executor.run(step_of([rows[3]], 0, 4))  # straight from where it waits
    executor.flush()
    assert [[len(source) for source, _ in copies] for copies in gpu.uploads] == [[2], [2]]
    executor.run(step_of(rows[4:], 0, 4))
    for row in (0, 1, 3, 4, 5, 6):
        check(executor, sliced, [rows[row]], 0, batch_of(7)[row : row + 1])


def test_a_slot_is_written_again_only_after_the_step_that_read_it() -> None:
    executor, _, gpu = loaded(Cold(), slab_rows=2)
    rows, later = rows_of(2), rows_of(2, first=2)
    executor.put("m", rows, batch_of(2))
    ticket = executor.launch(step_of(rows, 0, 1))
    executor.put("m", later, batch_of(2, seed=1))
    assert gpu.awaited == [], "they come in one turn of the engine, and go together"
    executor.flush()
    assert gpu.awaited == [ticket.ended]


def test_what_is_put_one_after_the_other_is_copied_at_once_and_what_is_page_locked_from_where_it_is() -> None:
    executor, sliced, gpu = loaded(Cold(), slab_rows=8)
    rows, pinned = rows_of(3), rows_of(1, first=3)
    for row, activation in zip(rows, batch_of(3), strict=True):
        executor.put("m", [row], activation[None])
    batch = gpu.host((1, WIDTH), torch.float32).numpy()
    batch[:] = batch_of(1, seed=1)
    executor.put("m", pinned, batch)
    executor.flush()
    executor.flush()  # nothing more to copy
    (copies,) = gpu.uploads
    assert [len(source) for source, _ in copies] == [3, 1]
    assert copies[1][0].data_ptr() == batch.ctypes.data
    executor.run(step_of([*rows, *pinned], 0, 4))
    check(executor, sliced, rows, 0, batch_of(3))
    check(executor, sliced, pinned, 0, batch_of(1, seed=1))


def test_memory_beside_the_slab_is_written_again_only_when_what_was_there_has_left() -> None:
    executor, sliced, gpu = loaded(Cold(), slab_rows=2)
    first, second = rows_of(2), rows_of(2, first=2)
    executor.put("m", first, batch_of(2))
    executor.launch(step_of(first, 0, 4))  # the copy to the device is enqueued, and the host has not waited for it
    assert gpu.syncs == 1, "as the slab was made"
    executor.put("m", second, batch_of(2, seed=1))
    assert gpu.syncs == 2
    executor.run(step_of(second, 0, 4))
    check(executor, sliced, first, 0, batch_of(2))
    check(executor, sliced, second, 0, batch_of(2, seed=1))


def test_rows_in_a_fronts_memory_are_copied_from_there_once_that_is_page_locked() -> None:
    executor, sliced, gpu = loaded()
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    batch = np.ndarray((2, WIDTH), np.float32, buffer=memory)
    batch[:] = batch_of(2)
    executor.pin(memory)
    assert gpu.is_pinned(torch.from_numpy(batch))
    rows = rows_of(2)
    executor.put("m", rows, batch)
    executor.run(step_of(rows, 0, 4))
    check(executor, sliced, rows, 0, batch_of(2))
    executor.unpin(memory)
    assert gpu.locked == []
    executor.unpin(memory)  # again: nothing happens


def test_memory_that_cannot_be_page_locked_is_used_as_it_is_and_a_note_says_so() -> None:
    executor, _, gpu = loaded()
    gpu.dead = True
    executor.pin(mmap.mmap(-1, mmap.PAGESIZE))
    assert "not page-locked" in executor.notes[-1]


def test_where_no_page_locked_memory_is_left_rows_are_received_in_ordinary_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor, sliced, gpu = loaded()
    assert gpu.is_pinned(torch.from_numpy(executor.receiving((2, WIDTH))))

    def none_left(shape: Any, dtype: torch.dtype) -> Tensor:
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(gpu, "host", none_left)
        batch = executor.receiving((2, WIDTH))
    batch[:] = batch_of(2)
    rows = rows_of(2)
    executor.put("m", rows, batch)
    executor.run(step_of(rows, 0, 4))
    check(executor, sliced, rows, 0, batch_of(2))


@pytest.mark.parametrize("graphs", ["on", "off"])
def test_rows_come_as_float16_and_take_the_models_dtype_on_the_device(graphs: str) -> None:
    executor, sliced, _ = loaded(graphs=graphs)
    halves, floats = rows_of(2), rows_of(2, first=2)
    batch = batch_of(2).astype(np.float16)
    executor.put("m", halves, batch)
    executor.put("m", floats, batch.astype(np.float32))
    executor.run(step_of([*halves, *floats], 0, 4))
    answers = executor.take([*halves, *floats])
    np.testing.assert_array_equal(answers[:2], answers[2:])
    rows = rows_of(2, first=4)
    executor.put("m", rows, batch)
    executor.run(step_of(rows, 0, 4))
    check(executor, sliced, rows, 0, batch.astype(np.float32))


def test_answers_are_fetched_from_memory_that_the_next_step_does_not_write() -> None:
    executor, sliced, _ = loaded()
    rows, later = rows_of(2), rows_of(2, first=2)
    executor.put("m", rows, batch_of(2))
    executor.put("m", later, batch_of(2, seed=1))
    first = executor.launch(step_of(rows, 0, 4))
    second = executor.launch(step_of(later, 0, 4))  # enqueued before the first is waited for
    executor.wait(first)
    check(executor, sliced, rows, 0, batch_of(2))
    executor.wait(second)
    check(executor, sliced, later, 0, batch_of(2, seed=1))


def test_a_launch_waits_for_nothing_on_the_host() -> None:
    executor, _, gpu = loaded()
    rows = rows_of(3)
    executor.put("m", rows, batch_of(3))
    gpu.syncs = 0
    for start in range(4):
        executor.launch(step_of(rows, start, start + 1))
    assert gpu.syncs == 0


def test_a_row_that_is_dropped_leaves_a_place_for_others() -> None:
    executor, sliced, _ = loaded(slab_rows=2)
    rows = rows_of(4)
    executor.put("m", rows[:2], batch_of(4)[:2])
    executor.run(step_of(rows[:2], 0, 1))
    executor.put("m", rows[2:], batch_of(4)[2:])
    executor.drop(rows[0])
    executor.drop(rows[0])  # twice: no error
    executor.drop(rows[3])
    executor.run(step_of([rows[2]], 0, 1))
    executor.run(step_of([rows[2], rows[1]], 1, 4))
    check(executor, sliced, [rows[1], rows[2]], 0, batch_of(4)[1:3])
    assert executor._activations._places == {}
    assert all(not stage.rows for stage in executor._activations._stages.values())
    slabs = [memory.slab for memory in executor._activations._slabs.values() if memory is not None]
    assert [slab.slots.free for slab in slabs if slab is not None] == [2]


def test_a_slice_that_passes_its_input_on_does_not_keep_rows_in_the_slab() -> None:
    executor, sliced, _ = loaded(Cold(nn.Identity(), nn.Linear(WIDTH, 3)), graphs="off", slab_rows=2)
    rows, later = rows_of(2), rows_of(2, first=2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows, 0, 1))
    executor.put("m", later, batch_of(2, seed=1))  # to where the first rows were
    executor.run(step_of(later, 0, 2))
    executor.run(step_of(rows, 1, 2))
    check(executor, sliced, rows, 0, batch_of(2))
    check(executor, sliced, later, 0, batch_of(2, seed=1))


def test_rows_in_the_middle_can_be_looked_at() -> None:
    executor, _, _ = loaded()
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    np.testing.assert_array_equal(executor.take(rows), batch_of(2))


# -------------------------------------------------------------------------------------------------- graphs and eager


def test_every_slice_and_size_is_captured_at_the_start_and_never_while_serving() -> None:
    executor, sliced, gpu = loaded()
    assert gpu.captures == 4 * 4, "four slices, batches of 1, 2, 3 and 4"
    gpu.replays = 0
    rows = rows_of(3)
    executor.put("m", rows, batch_of(3))
    executor.run(step_of(rows, 0, 4))
    assert (gpu.captures, gpu.replays) == (16, 4)
    check(executor, sliced, rows, 0, batch_of(3))


def test_a_batch_above_the_largest_size_runs_eager() -> None:
    executor, sliced, gpu = loaded()
    gpu.replays = 0
    rows = rows_of(5)
    executor.put("m", rows, batch_of(5))
    executor.run(step_of(rows, 0, 2))
    assert gpu.replays == 0
    executor.run(step_of(rows[3:], 2, 4))
    assert gpu.replays == 2
    executor.run(step_of(rows[:3], 2, 4))
    check(executor, sliced, rows, 0, batch_of(5))


class Stubborn(nn.Module):
    """Cannot be captured: it asks what is in its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.captured = False

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result


class Fussy(HostGpu):
    """A device on which `Stubborn` slices make a capture fail, as a host that waits does."""

    def __init__(self, stubborn: Stubborn) -> None:
        super().__init__()
        self.stubborn, self.forbidden = stubborn, False
        stubborn.register_forward_pre_hook(self.refuse)

    def refuse(self, *_: object) -> None:
        if self.forbidden:
            raise RuntimeError("called a synchronizing CUDA operation")

    def forbid_syncs(self) -> Any:
        gpu = self

        class Forbid:
            def __enter__(self) -> None:
                gpu.forbidden = True

            def __exit__(self, *_: object) -> None:
                gpu.forbidden = False

        return Forbid()


def test_a_slice_that_cannot_be_captured_runs_eager_with_a_note() -> None:
    stubborn = Stubborn()
    executor, sliced, gpu = loaded(Tiny(Residual(), stubborn, Residual(), nn.Linear(WIDTH, 3)), Fussy(stubborn))
    assert executor.notes == [
        "slice 1 of m (shared) runs eager: it cannot be captured as a CUDA graph "
        "(RuntimeError: called a synchronizing CUDA operation)"
    ]
    gpu.replays = 0
    rows, late = rows_of(2), rows_of(1, entry=2, first=2)
    executor.put("m", rows, batch_of(2))
    executor.put("m", late, batch_of(1, seed=1))
    executor.run(step_of(rows, 0, 2))
    executor.run(step_of([*late, *rows], 2, 4))
    assert gpu.replays == 3, "the three other slices"
    check(executor, sliced, rows, 0, batch_of(2))
    check(executor, sliced, late, 2, batch_of(1, seed=1))


def test_a_batch_that_comes_from_an_eager_slice_moves_the_rows_away_that_wait_in_its_stage() -> None:
    executor, sliced, _ = loaded()
    executor._graphs._captured[("m", "shared", 1), 2] = None  # two rows run eager there, three as a graph
    waiting, passing = rows_of(3), rows_of(2, first=3)
    executor.put("m", waiting, batch_of(3))
    executor.put("m", passing, batch_of(2, seed=1))
    executor.run(step_of(waiting, 0, 2))
    executor.run(step_of(passing, 0, 4))
    executor.run(step_of(waiting, 2, 4))
    check(executor, sliced, waiting, 0, batch_of(3))
    check(executor, sliced, passing, 0, batch_of(2, seed=1))


def test_a_graph_that_finds_no_memory_leaves_its_size_to_eager_execution() -> None:
    executor, sliced, gpu = loaded(gpu=HostGpu(fits_graphs=4))
    assert len(executor.notes) == 12 and "no memory for a graph at batch size 3" in executor.notes[0]
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows, 0, 4))
    check(executor, sliced, rows, 0, batch_of(2))
    assert gpu.captures == 4


@pytest.mark.parametrize(("replay_s", "replays"), [(1.0, 4), (3.0, 0)])
def test_auto_takes_whatever_measured_faster(replay_s: float, replays: int) -> None:
    gpu = HostGpu()
    gpu.replay_s = replay_s  # eager work takes 2
    executor, sliced, _ = loaded(gpu=gpu, graphs="auto")
    gpu.replays = 0
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows, 0, 4))
    assert gpu.replays == replays
    check(executor, sliced, rows, 0, batch_of(2))


def test_a_batch_is_padded_although_it_would_be_faster_eager() -> None:
    gpu = HostGpu()
    graphs = Graphs(gpu, "auto")
    with gpu.compute():
        for size, replay_s in ((2, 5.0), (4, 1.5)):
            gpu.replay_s = replay_s
            part, source = nn.Linear(WIDTH, WIDTH), torch.zeros(size, WIDTH)
            graphs.capture(("m", "shared", 0), size, part, source, torch.zeros(size, WIDTH))
    assert graphs.replay(("m", "shared", 0), 2) is None, "5 s, and 2 s eager"
    assert graphs.replay(("m", "shared", 0), 4) is not None, "1.5 s, and 2 s eager at this size"


def test_the_sum_that_ends_a_block_is_written_straight_to_the_next_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, block, target = HostGpu(), Residual(), torch.zeros(4, WIDTH)
    source = torch.from_numpy(batch_of(4))
    graphs = Graphs(gpu, "on")
    with gpu.compute():
        graphs.capture(("m", "shared", 0), 4, block, source, target)
        target.zero_()
        copies = Copies(monkeypatch)
        replay = graphs.replay(("m", "shared", 0), 4)
        assert replay is not None
        replay()
        assert copies.rows == []
        assert torch.equal(target, block(source))


@pytest.mark.parametrize(("graphs", "mode"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_yaml_reads_on_and_off_as_booleans(graphs: Any, mode: str) -> None:
    assert CudaExecutor(gpu=HostGpu(), graphs=graphs)._graphs._mode == mode


def test_compiled_slices_give_the_same_answers_and_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(module: nn.Module) -> Any:
        def fast(x: Tensor) -> Tensor:
            raise ValueError("no compiler here")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    executor, sliced, _ = loaded(compile=True)
    assert len(executor.notes) == 4 and "torch.compile failed" in executor.notes[0]
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows, 0, 4))
    check(executor, sliced, rows, 0, batch_of(2))


# ------------------------------------------------------------------------------------------- dtypes, errors, options


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_weights_and_activations_take_the_dtype_and_logits_are_float32(
    kind: str, name: str, dtype: torch.dtype
) -> None:
    sliced = Tiny()
    executor = CudaExecutor(gpu=HostGpu(), dtype=name) if kind == "cuda" else TorchExecutor("cpu", dtype=name)
    executor.load("m", sliced, SHARED)
    assert executor.memory()["weights"] * 2 == sum(p.numel() * 4 for p in sliced.units.parameters())
    assert next(sliced.units.parameters()).dtype == torch.float32, "the caller's model stays as it was"
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows, 0, 4))
    logits = executor.take(rows)
    assert logits.dtype == np.float32
    with torch.inference_mode():
        exact = sliced.span(0, 4)(torch.from_numpy(batch_of(2))).numpy()
        wanted = Tiny().units.to(dtype)
        same = nn.Sequential(*wanted)(torch.from_numpy(batch_of(2)).to(dtype)).float().numpy()
    np.testing.assert_array_equal(logits, same)
    assert 0 < np.abs(logits - exact).max() < 0.1


class Moody(nn.Module):
    error: Exception | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x * 2


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory), (ValueError("not today"), ValueError)],
)
def test_a_step_that_raises_leaves_the_rows_as_they_were(error: Exception, wanted: type[Exception]) -> None:
    moody = Moody()
    executor, sliced, _ = loaded(Tiny(Residual(), moody, nn.Linear(WIDTH, 3)), graphs="off")
    rows, others = rows_of(2), rows_of(2, first=2)
    executor.put("m", rows, batch_of(2))
    executor.put("m", others, batch_of(2, seed=1))
    parts = executor._parts["m", "shared"][1]
    parts[1][0].error = error  # type: ignore[index,union-attr]
    executor.run(step_of(others, 0, 1))
    with pytest.raises(wanted):
        executor.run(step_of(rows, 0, 3))
    parts[1][0].error = None  # type: ignore[index,union-attr]
    executor.run(step_of(rows, 0, 3))
    executor.run(step_of(others, 1, 3))
    check(executor, sliced, rows, 0, batch_of(2))
    check(executor, sliced, others, 0, batch_of(2, seed=1))


def test_an_error_that_shows_while_a_step_runs_ends_the_accelerator() -> None:
    executor, _, gpu = loaded()
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    ticket = executor.launch(step_of(rows, 0, 4))
    gpu.dead = True
    with pytest.raises(AcceleratorLost, match=r"an illegal memory access.*restart the replica"):
        executor.wait(ticket)


def test_options_are_checked() -> None:
    for options, message in (
        ({"graphs": "maybe"}, "graphs 'maybe'.*auto, on and off"),
        ({"max_batch": 0}, "max_batch 0"),
        ({"slab_rows": 0}, "slab_rows 0"),
        ({"dtype": "int3"}, "dtype 'int3'.*fp32, bf16, fp16"),
    ):
        with pytest.raises(ConfigError, match=message):
            CudaExecutor(gpu=HostGpu(), **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dtype 'int3'"):
        make_executor("torch", device="cpu", options={"dtype": "int3"})


def test_memory_tells_weights_and_activations_apart() -> None:
    executor, sliced, _ = loaded(slab_rows=4)
    sizes = executor.memory()
    row = WIDTH * 4
    assert sizes["weights"] == sum(p.numel() * 4 for p in sliced.units.parameters())
    assert sizes["activations"] == 4 * row + 4 * (4 * row + 3 * 4), "a slab, four stages, and one of logits"
    assert {"graph_pools", "device_reserved", "device_used", "pinned", "process"} <= sizes.keys()


# ----------------------------------------------------------------------------------------------- with the real engine


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    strategy=st.sampled_from(sorted(POLICIES)),
    graphs=st.sampled_from(["on", "off"]),
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(1, 4),
            st.integers(0, 3),
            st.booleans(),
            st.sampled_from([torch.float16, torch.float32]),
            st.booleans(),
        ),
        max_size=8,
    ),
    slab_rows=st.integers(1, 8),
    max_batch=st.integers(1, 6),
)
def test_every_row_gets_the_unsliced_models_answer_under_any_mix(
    strategy: str,
    graphs: str,
    arrivals: list[tuple[int, int, int, bool, torch.dtype, bool]],
    slab_rows: int,
    max_batch: int,
) -> None:
    sliced, gpu = Tiny(), HostGpu()
    executor = CudaExecutor(gpu=gpu, graphs=graphs, max_batch=4, slab_rows=slab_rows)  # type: ignore[arg-type]
    policy = make_policy(strategy, model="m", num_slices=4, max_batch=max_batch)
    executor.load("m", sliced, policy.residents(range(4)))
    outcomes: list[Outcome] = []
    assert isinstance(executor, Enqueuing)
    clock = FakeClock()
    engine = PipelinedEngine(Scheduler({"m": policy}), executor, outcomes.extend, clock=clock)

    def turn() -> bool:
        sleep_s = engine.turn()
        clock.now_s += sleep_s or 0.0
        return sleep_s is not None

    wanted: dict[int, Floats] = {}
    cancelled: set[int] = set()
    for seed, (entry, count, turns, cancel, dtype, pinned) in enumerate(arrivals):
        sent = gpu.host((count, WIDTH), dtype) if pinned else torch.empty((count, WIDTH), dtype=dtype)
        batch = sent.copy_(torch.from_numpy(batch_of(count, seed))).numpy()
        keys = engine.submit("m", entry, batch, [0.0] * count, [None] * count)
        with torch.inference_mode():
            logits = sliced.span(entry, 4)(torch.from_numpy(batch.astype(np.float32)))
            wanted.update(zip(keys, logits.numpy(), strict=True))
        if cancel:
            cancelled.add(keys[0])
            engine.cancel(keys[0])
        for _ in range(turns):
            turn()
    while turn():
        pass
    answers = {outcome.key: outcome for outcome in outcomes}
    assert sorted(answers) == sorted(wanted) and len(outcomes) == len(wanted)
    for key, logits in wanted.items():
        if answers[key].logits is None:
            assert key in cancelled
        else:
            np.testing.assert_allclose(answers[key].logits, logits, atol=1e-5, rtol=0)
    assert executor._activations._places == {}, "an activation was left behind"


def test_a_real_models_blocks_write_straight_to_their_stage_and_answer_exactly() -> None:
    sliced = slice_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4, num_classes=7, seed=1)
    executor = CudaExecutor(gpu=HostGpu(), graphs="on", max_batch=2)
    policy = make_policy("continuous", model="vit", num_slices=4, max_batch=2)
    executor.load("vit", sliced, policy.residents(range(4)))
    assert executor.notes == []
    images = torch.randn(2, *sliced.input_shape, generator=torch.Generator().manual_seed(0))
    rows = [Row(i, "vit", 0, 0.0) for i in range(2)]
    executor.put("vit", rows, images.numpy())
    executor.run(Step("vit", "shared", 0, 4, tuple(rows)))
    with torch.inference_mode():
        np.testing.assert_allclose(executor.take(rows), sliced.module(images).numpy(), atol=1e-5, rtol=0)
