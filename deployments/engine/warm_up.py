"""The first rows of a server: kernels are chosen and memory is touched before a request waits for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from deployments.engine.engine import Engine, Outcome
from deployments.executors.base import Executor
from deployments.scheduling.scheduler import Scheduler
from slicer.errors import ServerError


def warm_up(
    scheduler: Scheduler,
    executor: Executor,
    shapes: Mapping[str, Mapping[int, Sequence[int]]],
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """Every entry once, alone, with a row of zeros.

    Args:
        executor: loaded; it holds no row, and holds none afterwards.
        shapes: model -> entry -> shape of a row there.
        dtype: in which rows will arrive, float32 or float16.

    Raises:
        ServerError: a row does not get through; better at the start than at the first request.
    """
    outcomes: list[Outcome] = []
    engine = Engine(scheduler, executor, outcomes.extend)
    for model, entries in shapes.items():
        for entry, shape in entries.items():
            engine.submit(model, entry, np.zeros((1, *shape), dtype), [time.monotonic()], [None])
            while engine.step_once() is not None:
                pass
            if outcomes[-1].logits is None:
                raise ServerError(f"model {model!r} cannot run from entry {entry}: {outcomes[-1].message}")
