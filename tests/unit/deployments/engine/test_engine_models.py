"""Golden: under every strategy, rows of mixed cuts get the unsliced model's logits. Real models, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deployments.engine.engine import Engine, Outcome
from deployments.executors.base import Floats
from deployments.executors.registry import make_executor
from deployments.scheduling.registry import POLICIES, make_policy
from deployments.scheduling.scheduler import Scheduler
from slicer.slicing.slice_model import SlicedModel, slice_model

MODELS: dict[str, Callable[[], SlicedModel]] = {
    "vit": lambda: slice_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=7, seed=1
    ),
    "swin": lambda: slice_model(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(1, 1, 2, 1),
        num_heads=(1, 2, 4, 8), num_classes=7, seed=1,
    ),
}  # fmt: skip

_built: dict[str, SlicedModel] = {}
_heads: dict[tuple[str, int], nn.Module] = {}


def real(name: str) -> SlicedModel:
    if name not in _built:
        _built[name] = MODELS[name]()
        _heads.update(((name, cut), _built[name].head(cut)) for cut in range(4))
    return _built[name]


@pytest.mark.parametrize("strategy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=8),
    max_batch=st.integers(1, 8),
)
def test_rows_of_mixed_cuts_get_the_unsliced_models_logits(
    name: str, strategy: str, arrivals: list[tuple[int, int, int]], max_batch: int
) -> None:
    """Arrivals are (cut, rows, steps run before the next arrival)."""
    sliced = real(name)
    policy = make_policy(strategy, model=name, num_slices=4, max_batch=max_batch)
    executor = make_executor("torch", device="cpu")
    executor.load(name, sliced, policy.residents(range(4)))
    outcomes: dict[int, Outcome] = {}
    engine = Engine(
        Scheduler({name: policy}), executor, lambda ended: outcomes.update((outcome.key, outcome) for outcome in ended)
    )
    wanted: dict[int, Floats] = {}
    for seed, (cut, rows, steps) in enumerate(arrivals):
        images = torch.from_numpy(
            np.random.default_rng(seed).normal(size=(rows, *sliced.input_shape)).astype(np.float32)
        )
        with torch.inference_mode():
            activations = _heads[name, cut](images).numpy()
            logits = sliced.module(images).numpy()
        keys = engine.submit(name, cut, activations.copy(), [float(seed)] * rows, [None] * rows)
        wanted.update(zip(keys, logits, strict=True))
        for _ in range(steps):
            engine.step_once()
    while engine.step_once():
        pass
    assert outcomes.keys() == wanted.keys()
    for key, logits in wanted.items():
        answer = outcomes[key].logits
        assert answer is not None, outcomes[key].message
        np.testing.assert_allclose(answer, logits, atol=1e-4, rtol=0)
        assert answer.argmax() == logits.argmax()
    assert executor.memory()["activations"] == 0


@pytest.mark.parametrize("name", MODELS)
def test_tails_of_their_own_cost_the_bytes_of_all_tails(name: str) -> None:
    sliced = real(name)
    executor = make_executor("torch", device="cpu")
    policy = make_policy("per_tail", model=name, num_slices=4)
    executor.load(name, sliced, policy.residents(range(4)))
    # Slice i is in the tails of entries 0..i.
    wanted = sum((index + 1) * info.weight_bytes for index, info in enumerate(sliced.slices))
    assert executor.memory()["weights"] == pytest.approx(wanted, rel=0.01)
