"""A model and an executor without compute, for servers whose own cost is measured (overhead.py).

It imports nothing of benchmarks, and only what old releases have, too: it is laid on the path of servers of other
commits as the module `no_compute`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deployments.executors import Executor
from deployments.scheduling import Row, Step

SHAPE = (3, 112, 112)  # 150,528 bytes of float32
CLASSES = 10


class NoCompute(Executor):
    """An executor whose steps take no time; it keeps nothing of a row. It takes a step while one runs, as a GPU does.

    The engine launches, waits and takes as for any other executor, and counts its steps, so the cost of these is in.
    """

    name = "none"
    emulated = "no compute"

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        self._logits = np.zeros((1024, CLASSES), np.float32)

    def load(self, model: str, sliced: object, residents: Mapping[str, object]) -> None:
        """Nothing is loaded."""

    def put(self, model: str, rows: Sequence[Row], batch: object) -> None:
        """Nothing is moved."""

    def run(self, step: Step) -> float:
        """At once."""
        return 0.0

    def flush(self) -> None:
        """Nothing is moved."""

    def launch(self, step: Step) -> None:
        """At once."""

    def wait(self, ticket: None) -> float:
        """It has ended."""
        return 0.0

    def take(self, rows: Sequence[Row]) -> Any:
        """Zeros."""
        return self._logits[: len(rows)]

    def drop(self, row: Row) -> None:
        """It is not kept."""

    def memory(self) -> dict[str, int]:
        """None."""
        return {"weights": 0, "activations": 0, "process": 0}


class Toy(torch.nn.Sequential):
    """A model whose input is 151 kB, with four slices' worth of layers that nobody runs."""

    def __init__(self, pretrained_cfg_overlay: object = None) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], 4))
        for _ in range(4):
            self.append(torch.nn.Linear(4, 4))


def config(port: int) -> dict[str, Any]:
    """Of a server of it with HTTP on this port."""
    model = {
        "name": "toy",
        "model": "no_compute:Toy",
        "kwargs": {"pretrained_cfg_overlay": {"input_size": list(SHAPE)}},
        "num_slices": 4,
        "entries": [0],
        "strategy": "per_tail_shared",
    }
    return {
        "models": [model],
        "executor": "no_compute:NoCompute",
        "torch_threads": 1,
        "http": {"enabled": True, "host": "127.0.0.1", "port": port},
    }
