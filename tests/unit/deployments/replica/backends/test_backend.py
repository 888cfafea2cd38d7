"""Every backend counts alike, says that it is well, and can be closed twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from deployments.config import parse_config
from deployments.core.hosting import host
from deployments.executors.torch_executor import TorchExecutor
from deployments.replica.admission.calls import CheckedRequest
from deployments.replica.backends.backend import Backend, Counters
from deployments.replica.backends.engine_backend import EngineBackend
from deployments.replica.backends.serve_batch import ServeBatch
from slicer.core.codecs import activations
from slicer.core.protocol.messages import Request

pytestmark = pytest.mark.usefixtures("replica_context")


@pytest.mark.parametrize(("kind", "strategy"), [(EngineBackend, "per_tail_shared"), (ServeBatch, "serve_batch")])
def test_a_backend_takes_the_weights_over_answers_counts_and_closes(
    kind: type[EngineBackend] | type[ServeBatch], strategy: str, tmp_path: Path
) -> None:
    config = parse_config({"models": [{"name": "digits_vit", "num_slices": 2, "strategy": strategy}]})
    hosted = [host(config.models[0], tmp_path)]
    model = hosted[0][0]
    backend: Backend = kind(hosted, TorchExecutor(threads=1), config)
    assert hosted == [], "nobody else holds the weights"
    assert backend.steps() == [], "the warm-up is no work"
    assert backend.counters() == Counters(0, 0, 0.0, dict.fromkeys(backend.counters().waiting, 0), {})
    image = np.zeros(model.shapes[0], np.float32)
    request = Request("r", model.name, model.manifest.digest, 0, "fp32", image.shape, activations.encode("fp32", image))

    async def work() -> None:
        await backend.healthy()
        (result,) = await backend.infer([CheckedRequest(model, request, 0.0)])
        assert isinstance(result, tuple) and result[0].logits is not None

    asyncio.run(work())
    done = backend.counters()
    assert (done.steps, done.rows, done.rows_per_step) == (1, 1, {1: 1})
    (step,) = backend.steps()
    assert (step.model, step.start, step.end, step.entries) == ("digits_vit", 0, 2, {0: 1})
    assert step.ended_s - step.began_s == pytest.approx(done.busy_s)
    assert done.busy_s > 0 and sum(done.waiting.values()) == 0
    backend.close()
    backend.close()
    if kind is EngineBackend:
        with pytest.raises(RuntimeError, match="the engine's thread has died"):
            asyncio.run(backend.healthy())
