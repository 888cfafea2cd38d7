"""The CUDA executor on a GPU: answers, graphs, slabs, lack of memory, and a host that waits for nothing in between."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments.engine.batch_limits import RETRY_S
from deployments.engine.engine import Outcome
from deployments.engine.pipelined import PipelinedEngine
from deployments.executors.base import Floats, OutOfMemory
from deployments.executors.cuda.executor import CudaExecutor
from deployments.executors.registry import make_executor
from deployments.scheduling.registry import POLICIES, make_policy
from deployments.scheduling.scheduler import Resident, Row, Scheduler, Step
from slicer.slicing.slice_model import SlicedModel, slice_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SLICES = 4


@pytest.fixture(autouse=True)
def full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def vit() -> SlicedModel:
    return slice_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4, num_classes=7, seed=1)


@pytest.fixture(scope="module")
def swin() -> SlicedModel:
    options = {
        "img_size": 32,
        "patch_size": 2,
        "embed_dim": 24,
        "depths": (2, 2),
        "num_heads": (3, 6),
        "window_size": 4,
    }
    return slice_model("swin_tiny_patch4_window7_224", num_slices=SLICES, num_classes=7, seed=1, **options)


def loaded(sliced: Any, **options: Any) -> CudaExecutor:
    executor = CudaExecutor("cuda", **{"max_batch": 8, **options})
    executor.load("m", sliced, {"shared": Resident(0, sliced.num_slices, own_copy=False)})
    return executor


def rows_of(count: int, entry: int = 0, first: int = 0) -> tuple[Row, ...]:
    return tuple(Row(first + i, "m", entry, 0.0) for i in range(count))


def step_of(rows: tuple[Row, ...], start: int, end: int) -> Step:
    return Step("m", "shared", start, end, rows)


def images_for(sliced: Any, count: int, seed: int = 0) -> Floats:
    images: Floats = torch.randn(count, *sliced.input_shape, generator=torch.Generator().manual_seed(seed)).numpy()
    return images


def on_device(sliced: SlicedModel, images: Floats, dtype: torch.dtype = torch.float32) -> Floats:
    """The unsliced model's logits, eager, on the device."""
    module = copy.deepcopy(sliced.module).to("cuda", dtype)
    with torch.inference_mode():
        logits: Floats = module(torch.from_numpy(images).to("cuda", dtype)).float().cpu().numpy()
    return logits


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("graphs", ["off", "on", "auto"])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_fp32_logits_are_those_of_the_unsliced_model(name: str, graphs: str, request: pytest.FixtureRequest) -> None:
    sliced: SlicedModel = request.getfixturevalue(name)
    executor = loaded(sliced, graphs=graphs)
    assert executor.notes == []
    for count in (8, 5, 1):
        rows, images = rows_of(count), images_for(sliced, count, seed=count)
        executor.put("m", rows, images)
        for start in range(SLICES):
            executor.run(step_of(rows, start, start + 1))
        np.testing.assert_allclose(executor.take(rows), on_device(sliced, images), atol=1e-4, rtol=0)


def test_graphs_without_padding_equal_eager(vit: SlicedModel) -> None:
    eager, graphed = loaded(vit, graphs="off"), loaded(vit, graphs="on")
    rows, images = rows_of(8), images_for(vit, 8)
    answers = []
    for executor in (eager, graphed):
        executor.put("m", rows, images)
        executor.run(step_of(rows, 0, SLICES))
        answers.append(executor.take(rows))
    np.testing.assert_allclose(*answers, atol=1e-5, rtol=0)


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize(("name", "dtype", "close"), [("bf16", torch.bfloat16, 0.06), ("fp16", torch.float16, 0.01)])
def test_half_precision_agrees(vit: SlicedModel, graphs: str, name: str, dtype: torch.dtype, close: float) -> None:
    executor = loaded(vit, graphs=graphs, dtype=name)
    rows, images = rows_of(7), images_for(vit, 7)
    executor.put("m", rows, images)
    executor.run(step_of(rows, 0, SLICES))
    logits = executor.take(rows)
    exact = on_device(vit, images)
    assert logits.dtype == np.float32
    scale = np.abs(exact).max()
    assert np.abs(logits - exact).max() < close * scale
    assert np.abs(logits - on_device(vit, images, dtype)).max() < close * scale
    bytes_fp32 = loaded(vit, graphs="off").memory()["weights"]
    assert executor.memory()["weights"] == pytest.approx(bytes_fp32 / 2, rel=0.02)


@pytest.mark.long
def test_compiled_slices_agree(vit: SlicedModel) -> None:
    executor = loaded(vit, compile=True, graphs="on", max_batch=4)
    rows, images = rows_of(3), images_for(vit, 3)
    executor.put("m", rows, images)
    executor.run(step_of(rows, 0, SLICES))
    np.testing.assert_allclose(executor.take(rows), on_device(vit, images), atol=1e-3, rtol=0)


@pytest.mark.parametrize("graphs", ["on", "auto"])
@pytest.mark.parametrize("strategy", POLICIES)
def test_every_strategy_answers_mixed_cuts_exactly_on_the_pipelined_engine(
    vit: SlicedModel, strategy: str, graphs: str
) -> None:
    policy = make_policy(strategy, model="m", num_slices=SLICES, max_batch=6)
    executor = CudaExecutor("cuda", graphs=graphs, max_batch=4, slab_rows=8)  # type: ignore[arg-type]
    executor.load("m", vit, policy.residents(range(SLICES)))
    outcomes: dict[int, Outcome] = {}
    done = threading.Event()
    wanted: dict[int, Floats] = {}

    def deliver(ended: list[Outcome]) -> None:
        outcomes.update((outcome.key, outcome) for outcome in ended)
        if len(outcomes) == 60:
            done.set()

    engine = PipelinedEngine(Scheduler({"m": policy}), executor, deliver)
    engine.start()
    cuts = [0, 2, 1, 3, 0, 1] * 5
    for seed, cut in enumerate(cuts):
        images = torch.from_numpy(images_for(vit, 2, seed))
        with torch.inference_mode():
            activations, logits = vit.head(cut)(images).numpy(), vit.module(images).numpy()
        now_s = time.monotonic()
        wanted.update(zip(engine.submit("m", cut, activations, [now_s] * 2, [None] * 2), logits, strict=True))
    assert done.wait(60)
    engine.stop()
    for key, logits in wanted.items():
        np.testing.assert_allclose(outcomes[key].logits, logits, atol=1e-4, rtol=0)
    assert executor._activations._places == {}


# ------------------------------------------------------------------------------------------- slabs, stages, no waiting


def test_the_slab_is_used_again_and_the_device_memory_does_not_grow(vit: SlicedModel) -> None:
    executor = loaded(vit, graphs="on", slab_rows=16)
    sizes = []
    for turn in range(20):
        rows, images = rows_of(8, first=8 * turn), images_for(vit, 8, seed=turn)
        executor.put("m", rows, images)
        executor.run(step_of(rows, 0, SLICES))
        np.testing.assert_allclose(executor.take(rows), on_device(vit, images), atol=1e-4, rtol=0)
        sizes.append(executor.memory()["activations"])
    assert len(set(sizes)) == 1


def test_steps_are_enqueued_without_waiting_and_answers_fetched_while_later_ones_run(vit: SlicedModel) -> None:
    executor = loaded(vit, graphs="on", slab_rows=64)
    batches = [(rows_of(8, first=8 * i), images_for(vit, 8, seed=i)) for i in range(6)]
    tickets = []
    with executor._gpu.forbid_syncs():  # whatever makes the host wait raises
        for rows, images in batches:
            executor.put("m", rows, images)
            for start in range(SLICES):
                tickets.append(executor.launch(step_of(rows, start, start + 1)))
    for rows, images in batches:
        np.testing.assert_allclose(executor.take(rows), on_device(vit, images), atol=1e-4, rtol=0)
    seconds = [executor.wait(ticket) for ticket in tickets]
    assert all(0 < taken < 1 for taken in seconds)


def test_a_launch_returns_while_the_device_still_works() -> None:
    class Slow(nn.Module):
        num_slices = 1

        def span(self, start: int, end: int) -> nn.Module:
            return self

        def shape_at(self, cut: int) -> None:
            """Nobody knows."""

        def forward(self, x: Tensor) -> Tensor:
            torch.cuda._sleep(400_000_000)  # cycles: some 0.2 s
            return x + 1

    executor = CudaExecutor("cuda", graphs="off")
    executor.load("m", Slow(), {"shared": Resident(0, 1, own_copy=False)})
    first, second = rows_of(1), rows_of(1, first=1)
    executor.put("m", first, np.zeros((1, 4), np.float32))
    executor.put("m", second, np.ones((1, 4), np.float32))
    executor.run(step_of(first, 0, 1))  # warm
    np.testing.assert_array_equal(executor.take(first), np.ones((1, 4), np.float32))
    executor.put("m", first, np.zeros((1, 4), np.float32))
    began_s = time.perf_counter()
    tickets = [executor.launch(step_of(first, 0, 1)), executor.launch(step_of(second, 0, 1))]
    launched_s = time.perf_counter() - began_s
    seconds = [executor.wait(ticket) for ticket in tickets]
    assert launched_s < 0.5 * sum(seconds), "it waited for the device"
    np.testing.assert_array_equal(executor.take(first), np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(executor.take(second), np.full((1, 4), 2, np.float32))


# ------------------------------------------------------------------------------------------------- captures, memory


def test_a_slice_that_asks_for_values_runs_eager_with_a_note_and_the_others_as_graphs() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (2.0 if x.sum().item() > 0 else 1.0)

    class Sliced:
        num_slices = 3
        units = (nn.Linear(4, 4), Asks(), nn.Linear(4, 4))

        def span(self, start: int, end: int) -> nn.Module:
            return nn.Sequential(*self.units[start:end])

        def shape_at(self, cut: int) -> tuple[int, ...]:
            return (4,)

    sliced = Sliced()
    executor = loaded(sliced, graphs="on", max_batch=4)
    assert len(executor.notes) == 1 and "slice 1 of m (shared) runs eager" in executor.notes[0]
    assert sorted(key[0][2] for key in executor._graphs._captured) == [0] * 4 + [2] * 4
    rows, batch = rows_of(4), np.ones((4, 4), np.float32)
    executor.put("m", rows, batch)
    executor.run(step_of(rows, 0, 3))
    with torch.inference_mode():
        wanted = sliced.span(0, 3)(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(executor.take(rows), wanted, atol=1e-5)


class Hungry(nn.Module):
    """Needs more memory than there is for more than two rows."""

    num_slices = 1

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2

    def span(self, start: int, end: int) -> nn.Module:
        return self

    def shape_at(self, cut: int) -> None:
        """Nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            x.new_empty(1 << 50)
        return x + 1


def test_a_lack_of_memory_means_smaller_batches_and_no_lost_row_and_larger_ones_again_later() -> None:
    now_s, outcomes = [0.0], list[Outcome]()
    policy = make_policy("per_tail_shared", model="m", num_slices=1, max_batch=8)
    executor = CudaExecutor("cuda", graphs="off")
    executor.load("m", Hungry(), policy.residents((0,)))
    engine = PipelinedEngine(Scheduler({"m": policy}), executor, outcomes.extend, clock=lambda: now_s[0])

    def serve(count: int) -> dict[int, int]:
        engine.reset_stats()
        engine.submit("m", 0, np.arange(4 * count, dtype=np.float32).reshape(count, 4), [0.0] * count, [None] * count)
        while (sleep_s := engine.turn()) is not None:
            now_s[0] += sleep_s
        return dict(engine.stats().rows_per_step)

    assert serve(8) == {2: 4}
    assert serve(8) == {2: 4} and engine.stats().retried == 0, "what did not fit is not tried in every step"
    executor._parts["m", "shared"][1][0].limit = 8  # type: ignore[assignment]
    for _ in range(3):
        now_s[0] += RETRY_S
        last = serve(8)
    assert last == {8: 1}
    assert all(outcome.logits is not None for outcome in outcomes) and len(outcomes) == 40


def test_a_single_row_that_does_not_fit_is_called_so_and_stays() -> None:
    executor = CudaExecutor("cuda", graphs="off")
    executor.load("m", Hungry(), {"shared": Resident(0, 1, own_copy=False)})
    executor._parts["m", "shared"][1][0].limit = 0  # type: ignore[assignment]
    rows = rows_of(1)
    executor.put("m", rows, np.ones((1, 4), np.float32))
    with pytest.raises(OutOfMemory):
        executor.run(step_of(rows, 0, 1))
    executor._parts["m", "shared"][1][0].limit = 8  # type: ignore[assignment]
    executor.run(step_of(rows, 0, 1))
    np.testing.assert_array_equal(executor.take(rows), np.full((1, 4), 2, np.float32))


def test_memory_is_told_apart(vit: SlicedModel) -> None:
    eager, graphed = loaded(vit, graphs="off").memory(), loaded(vit, graphs="on").memory()
    assert graphed["weights"] == eager["weights"] > 0
    assert eager["graph_pools"] == 0 < graphed["graph_pools"]
    assert graphed["device_reserved"] >= graphed["weights"] + graphed["activations"]
    assert graphed["device_used"] >= graphed["device_reserved"]


def test_the_configuration_gets_it_on_cuda() -> None:
    executor = make_executor("torch", device="cuda", options={"dtype": "bf16", "graphs": "auto", "max_batch": 4})
    assert isinstance(executor, CudaExecutor)
