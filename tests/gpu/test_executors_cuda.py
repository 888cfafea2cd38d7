"""The torch executor on a CUDA device: the same answers as on the host, weights where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.engine.engine import Engine, Outcome
from deployments.executors.base import OutOfMemory
from deployments.executors.torch_executor import TorchExecutor
from deployments.scheduling.registry import POLICIES, make_policy
from deployments.scheduling.scheduler import Resident, Row, Scheduler
from slicer.slicing.slice_model import slice_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize("strategy", POLICIES)
def test_rows_of_mixed_cuts_get_the_unsliced_models_logits(strategy: str) -> None:
    sliced = slice_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4, num_classes=7, seed=1)
    policy = make_policy(strategy, model="vit", num_slices=4, max_batch=3)
    executor = TorchExecutor("cuda")
    executor.load("vit", sliced, policy.residents(range(4)))
    outcomes: list[Outcome] = []
    engine = Engine(Scheduler({"vit": policy}), executor, outcomes.extend)
    wanted = {}
    for cut in (0, 2, 1, 3, 0):
        images = torch.randn(2, *sliced.input_shape)
        with torch.inference_mode():
            activations, logits = sliced.head(cut)(images).numpy(), sliced.module(images).numpy()
        wanted.update(zip(engine.submit("vit", cut, activations, [0.0] * 2, [None] * 2), logits, strict=True))
        engine.step_once()
    while engine.step_once():
        pass
    answers = {outcome.key: outcome.logits for outcome in outcomes}
    assert answers.keys() == wanted.keys()
    for key, logits in wanted.items():
        np.testing.assert_allclose(answers[key], logits, atol=1e-4, rtol=0)
    assert executor.memory()["activations"] == 0
    assert executor.memory()["device_reserved"] >= executor.memory()["weights"] > 0
    assert next(sliced.module.parameters()).device.type == "cpu"  # the caller's model stays where it was


def test_a_lack_of_device_memory_is_called_so() -> None:
    class Huge(torch.nn.Module):
        num_slices = 1

        def span(self, start: int, end: int) -> torch.nn.Module:
            return self

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_empty((x.shape[0], 1 << 50))

    executor = TorchExecutor("cuda")
    executor.load("huge", Huge(), {"shared": Resident(0, 1, own_copy=False)})
    policy = make_policy("unbatched", model="huge", num_slices=1)
    row = Row(0, "huge", 0, 0.0)
    executor.put("huge", [row], np.zeros((1, 4), np.float32))
    policy.add(row)
    step = policy.next(0.0)
    assert step is not None
    with pytest.raises(OutOfMemory):
        executor.run(step)
