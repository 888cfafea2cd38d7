"""The torch executor on tiny slices: the right rows, no needless copies, honest bytes, errors in the engine's words."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments.engine.engine import Engine
from deployments.executors.base import AcceleratorLost, Executor, Floats, OutOfMemory
from deployments.executors.registry import make_executor
from deployments.executors.torch_executor import TorchExecutor
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Resident, Row, Scheduler, Step
from deployments.testing.fakes import FakeExecutor
from slicer.errors import ConfigError

WIDTH = 8
SLICE_BYTES = (WIDTH * WIDTH + WIDTH) * 4


class Tiny:
    """Four slices of one linear unit each; as much of a sliced model as an executor needs."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.units = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4)).to(dtype)
        self.num_slices = len(self.units)

    def span(self, start: int, end: int) -> nn.Module:
        return nn.Sequential(*self.units[start:end])


def rows_of(count: int, entry: int = 0, first: int = 0) -> list[Row]:
    return [Row(first + i, "m", entry, 0.0) for i in range(count)]


def batch_of(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def loaded(residents: dict[str, Resident] | None = None, sliced: Any = None) -> tuple[TorchExecutor, Tiny]:
    executor, sliced = TorchExecutor("cpu"), sliced or Tiny()
    executor.load("m", sliced, residents or {"shared": Resident(0, 4, own_copy=False)})
    return executor, sliced


def step_of(rows: list[Row], start: int, end: int, weights: str = "shared") -> Step:
    return Step("m", weights, start, end, tuple(rows))


def expected(sliced: Any, start: int, end: int, batch: Floats) -> Floats:
    with torch.inference_mode():
        result: Floats = sliced.span(start, end)(torch.from_numpy(batch)).numpy()
    return result


# --------------------------------------------------------------------------------------------------------- the rows


def test_a_batch_runs_its_tail() -> None:
    executor, sliced = loaded()
    rows, batch = rows_of(3), batch_of(3)
    executor.put("m", rows, batch)
    assert executor.run(step_of(rows, 0, 4)) > 0
    logits = executor.take(rows)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected(sliced, 0, 4, batch))


def test_rows_of_several_batches_meet_and_part_again_in_any_order() -> None:
    executor, sliced = loaded()
    early, late = rows_of(2), rows_of(2, entry=1, first=2)
    executor.put("m", early, batch_of(2, seed=1))
    executor.put("m", late, batch_of(2, seed=2))
    executor.run(step_of(early, 0, 1))
    executor.run(step_of([late[1], early[0], late[0], early[1]], 1, 3))
    executor.run(step_of([early[1], late[1]], 3, 4))
    executor.run(step_of([late[0], early[0]], 3, 4))
    np.testing.assert_allclose(executor.take(early), expected(sliced, 0, 4, batch_of(2, seed=1)), atol=1e-6)
    np.testing.assert_allclose(executor.take(late), expected(sliced, 1, 4, batch_of(2, seed=2)), atol=1e-6)


class Spy(nn.Module):
    """Notes where its input lies in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.data_ptr())
        return x.clone()


class Spied(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.spy = Spy()
        self.units = nn.ModuleList([nn.Identity(), self.spy])
        self.num_slices = 2


@pytest.mark.parametrize(
    ("picked", "offset"),
    [
        ([0, 1, 2, 3], 0),  # all of one batch, in order: its own memory
        ([1, 2], 1),  # neighbours in one batch: a part of its memory
        ([0, 2], None),  # a gap
        ([1, 0], None),  # another order
    ],
)
def test_rows_side_by_side_are_not_copied(picked: list[int], offset: int | None) -> None:
    sliced = Spied()
    executor, _ = loaded({"shared": Resident(0, 2, own_copy=False)}, sliced)
    rows, batch = rows_of(4), batch_of(4)
    executor.put("m", rows, batch)
    executor.run(step_of([rows[i] for i in picked], 1, 2))
    place = sliced.spy.seen[0] - batch.ctypes.data
    inside = 0 <= place < batch.nbytes
    assert inside == (offset is not None)
    if offset is not None:
        assert place == offset * WIDTH * 4


def test_a_batch_in_read_only_memory_is_taken() -> None:
    executor, sliced = loaded()
    batch = np.frombuffer(batch_of(2).tobytes(), np.float32).reshape(2, WIDTH)  # as a decoded payload may be
    rows = rows_of(2)
    executor.put("m", rows, batch)
    executor.run(step_of(rows, 0, 4))
    np.testing.assert_array_equal(executor.take(rows), expected(sliced, 0, 4, batch_of(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_become_the_models_dtype_and_logits_float32(dtype: torch.dtype) -> None:
    executor, sliced = loaded(sliced=Tiny(dtype))
    rows, batch = rows_of(2), batch_of(2)
    executor.put("m", rows, batch)
    assert executor.memory()["activations"] == 2 * WIDTH * 2
    executor.run(step_of(rows, 0, 4))
    logits = executor.take(rows)
    assert logits.dtype == np.float32
    with torch.inference_mode():
        wanted = sliced.span(0, 4)(torch.from_numpy(batch).to(dtype)).float().numpy()
    np.testing.assert_array_equal(logits, wanted)


def test_a_step_that_raises_leaves_the_rows_as_they_were() -> None:
    class Moody(nn.Module):
        calm = False

        def forward(self, x: Tensor) -> Tensor:
            if not self.calm:
                raise ValueError("not today")
            return x + 1

    sliced, moody = Tiny(), Moody()
    sliced.units = nn.ModuleList([nn.Identity(), moody])
    sliced.num_slices = 2
    executor, _ = loaded({"shared": Resident(0, 2, own_copy=False)}, sliced)
    rows, batch = rows_of(2), batch_of(2)
    executor.put("m", rows, batch)
    with pytest.raises(ValueError, match="not today"):
        executor.run(step_of(rows, 0, 2))
    moody.calm = True
    executor.run(step_of(rows, 0, 2))
    np.testing.assert_array_equal(executor.take(rows), batch_of(2) + 1)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_only_a_lack_of_memory_is_called_so(error: RuntimeError, wanted: type[RuntimeError]) -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    sliced = Tiny()
    sliced.units = nn.ModuleList([Raises()])
    sliced.num_slices = 1
    executor, _ = loaded({"shared": Resident(0, 1, own_copy=False)}, sliced)
    rows = rows_of(1)
    executor.put("m", rows, batch_of(1))
    with pytest.raises(RuntimeError) as caught:
        executor.run(step_of(rows, 0, 1))
    assert type(caught.value) is wanted
    assert not isinstance(caught.value, AcceleratorLost)


def test_a_slice_that_changes_the_number_of_rows_is_refused() -> None:
    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x])

    sliced = Tiny()
    sliced.units = nn.ModuleList([Doubles()])
    sliced.num_slices = 1
    executor, _ = loaded({"shared": Resident(0, 1, own_copy=False)}, sliced)
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    with pytest.raises(RuntimeError, match="4 rows out of 2"):
        executor.run(step_of(rows, 0, 1))


# -------------------------------------------------------------------------------------------------------- the bytes


@pytest.mark.parametrize(
    ("strategy", "slices"),
    [
        ("unbatched", 3),  # from the first entry on: slices 1, 2, 3
        ("per_tail_shared", 3),
        ("per_slice", 3),
        ("per_tail", 4),  # 1, 2, 3 and a second 3
    ],
)
def test_weights_are_counted_as_they_lie_in_memory(strategy: str, slices: int) -> None:
    policy = make_policy(strategy, model="m", num_slices=4)
    executor, _ = loaded(dict(policy.residents((1, 3))))
    assert executor.memory()["weights"] == slices * SLICE_BYTES


def test_own_copies_really_are_their_own() -> None:
    sliced = Tiny()
    executor, _ = loaded({"tail0": Resident(0, 4, own_copy=True), "tail3": Resident(3, 4, own_copy=True)}, sliced)
    rows, batch = rows_of(1), batch_of(1)
    executor.put("m", rows, batch)
    wanted = expected(sliced, 3, 4, batch)
    with torch.no_grad():
        for parameter in sliced.units.parameters():
            parameter.zero_()
    executor.run(step_of(rows, 3, 4, "tail3"))
    np.testing.assert_array_equal(executor.take(rows), wanted)


def test_shared_weights_on_the_cpu_are_those_of_the_model() -> None:
    executor, sliced = loaded()
    with torch.no_grad():
        for parameter in sliced.units.parameters():
            parameter.zero_()
    rows = rows_of(1)
    executor.put("m", rows, batch_of(1))
    executor.run(step_of(rows, 0, 4))
    assert not executor.take(rows).any()


def test_activations_are_counted_until_their_last_row_has_moved_on() -> None:
    executor, _ = loaded()
    rows = rows_of(4)
    row_bytes = WIDTH * 4
    assert executor.memory()["activations"] == 0
    executor.put("m", rows, batch_of(4))
    assert executor.memory()["activations"] == 4 * row_bytes
    executor.run(step_of(rows[:2], 0, 1))
    assert executor.memory()["activations"] == 6 * row_bytes  # the batch that was put still holds two rows
    executor.run(step_of(rows[2:], 0, 1))
    assert executor.memory()["activations"] == 4 * row_bytes
    executor.drop(rows[0])
    executor.drop(rows[0])  # twice: no error
    executor.take(rows[1:2])
    assert executor.memory()["activations"] == 2 * row_bytes
    executor.take(rows[2:])
    assert executor.memory()["activations"] == 0


def test_storage_that_is_shared_is_counted_once() -> None:
    sliced = Tiny()
    sliced.units = nn.ModuleList([nn.Identity(), nn.Linear(WIDTH, WIDTH)])
    sliced.num_slices = 2
    both = {"shared": Resident(0, 2, own_copy=False), "again": Resident(1, 2, own_copy=False)}
    executor, _ = loaded(both, sliced)
    assert executor.memory()["weights"] == SLICE_BYTES
    rows = rows_of(2)
    executor.put("m", rows, batch_of(2))
    executor.run(step_of(rows[:1], 0, 1))  # its output is a view of the batch that was put
    assert executor.memory()["activations"] == 2 * WIDTH * 4


def test_memory_of_the_process_holds_the_rest() -> None:
    executor, _ = loaded()
    assert executor.memory()["process"] > executor.memory()["weights"]


def test_memory_may_be_asked_for_while_rows_come_and_go() -> None:
    executor, _ = loaded()
    asked, done = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        while not done.is_set():
            try:
                executor.memory()
            except Exception as error:
                errors.append(error)
            asked.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(60)
    for turn in range(100):
        rows = rows_of(8, first=turn * 8)
        executor.put("m", rows, batch_of(8))
        executor.run(step_of(rows, 0, 1))
        for row in rows:
            executor.drop(row)
    done.set()
    thread.join()
    assert errors == []


# ------------------------------------------------------------------------------------------------- choosing one


def test_executors_by_name() -> None:
    executor = make_executor("torch", device="cpu")
    assert isinstance(executor, TorchExecutor)
    assert (executor.name, executor.emulated) == ("cpu", None)
    own = make_executor(f"{__name__}:Own", device="cpu", options={"scale": 2.0})
    assert isinstance(own, Own) and own.scale == 2.0


class Own(FakeExecutor):
    def __init__(self, device: str, threads: int | None, scale: float) -> None:
        super().__init__()
        self.scale = scale


def test_wrong_executors_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="executor 'onnx': known are torch, emulated"):
        make_executor("onnx", device="cpu")
    with pytest.raises(ConfigError, match=r"options .*speed"):
        make_executor("torch", device="cpu", options={"speed": 3})
    with pytest.raises(ConfigError, match="threads 0"):
        make_executor("torch", device="cpu", threads=0)
    with pytest.raises(ConfigError, match=r"slices 0:5 of 4"):
        loaded({"shared": Resident(0, 5, own_copy=False)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"device 'cuda': this process sees no CUDA device.*use device cpu"):
        make_executor("torch", device="cuda")


def test_threads_hold_on_the_engines_thread_too() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x

    try:
        executor = make_executor("torch", device="cpu", threads=2)
        sliced = Tiny()
        sliced.units = nn.ModuleList([Looks()])
        sliced.num_slices = 1
        policy = make_policy("unbatched", model="m", num_slices=1)
        executor.load("m", sliced, policy.residents((0,)))
        done = threading.Event()
        engine = Engine(Scheduler({"m": policy}), executor, lambda outcomes: done.set())
        engine.start()
        engine.submit("m", 0, batch_of(1), [0.0], [None])
        assert done.wait(60)
        engine.stop()
    finally:
        torch.set_num_threads(before)
    assert seen == [2]


class Duck:
    """An own executor that does not derive from `Executor`, and offers nothing beside what it must."""

    name = "duck"

    def __init__(self, device: str, threads: int | None) -> None:
        pass


class Unfinished(Executor):
    """One that derives from it, and leaves out what it must have."""

    def __init__(self, device: str, threads: int | None) -> None:
        pass


def test_what_an_own_executor_does_not_offer_has_a_default_whether_it_derives_from_executor_or_not() -> None:
    made = make_executor(f"{__name__}:Duck", device="cpu")
    for executor in (made, TorchExecutor()):
        assert (executor.emulated, executor.padded, list(executor.notes)) == (None, False, [])
        assert executor.receiving((2, 3)).shape == (2, 3)
        assert executor.receiving((2, 3)).dtype == np.float32
        assert executor.receiving((2,), np.float16).dtype == np.float16
    with pytest.raises(TypeError, match="abstract"):
        make_executor(f"{__name__}:Unfinished", device="cpu")
