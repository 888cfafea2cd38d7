"""The applications that the demo starts, all on one small Ray, and what it asks of them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import save_cost_profile
from deployments.scheduling.registry import SHIPPED
from headtail.demo.load_curve import SERIES, Bench, strategy_of
from headtail.demo.sender import Sender, Sent

Logits = npt.NDArray[np.float32]

#: The model of the first question, and its strategies.
DIGITS, SLICES = "digits_vit", 4
STRATEGIES = tuple(SHIPPED)

#: Of the emulated accelerator's model, which computes nothing.
SHAPE = (1, 8, 8)


def model_of(series: str) -> str:
    """Name of a strategy's copy of a model: one application holds one per strategy."""
    return series.replace("-", "_")


def _app(real: bool, name: str) -> str:
    return f"demo-{'digits' if real else 'emulated'}-{'serve-batch' if name == 'serve_batch' else 'engine'}"


def configs(bench: Bench, table: Path) -> dict[str, dict[str, Any]]:
    """Configuration by application: real digits and the emulated accelerator, each in the engine and by serve_batch.

    Args:
        table: a file with `bench.costs`, so that strategies need not measure what is known.
    """
    found: dict[str, dict[str, Any]] = {}
    common = {"accelerator": "cpu", "cpus": 0.01, "torch_threads": 1, "http": {"enabled": False}}
    for name in STRATEGIES:
        app = found.setdefault(_app(True, name), {**common, "models": []})
        app["models"].append({"name": model_of(name), "model": DIGITS, "num_slices": SLICES, "strategy": name})
    for series in SERIES:
        strategy = strategy_of(series)
        app = found.setdefault(
            _app(False, series),
            {
                **common,
                "models": [],
                "executor": "emulated",
                "executor_options": {"profile": bench.profile},
                "serve_batch_wait_timeout_s": bench.serve_batch_wait_s,
            },
        )
        app["models"].append(
            {
                "name": model_of(series),
                "model": "deployments.executors.emulated:chain",
                "kwargs": {"units": 12, "img_size": SHAPE[1], "in_chans": SHAPE[0]},
                "num_slices": SLICES,
                "strategy": strategy,
                "max_batch": bench.max_batch,
                **({"profile": str(table)} if SHIPPED[strategy].needs_costs else {}),
            }
        )
    return found


class Live:
    """The running applications. One thread at a time. Made by `running`."""

    def __init__(self) -> None:
        import ray

        from slicer.common.ray_serve_env import environment

        make = ray.remote(Sender).options(
            num_cpus=0, max_concurrency=10_000, runtime_env={"env_vars": environment("device", http=False)}
        )
        self._sender = make.remote()

    def connect(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Meet the applications, which run now."""
        for app, config in configs.items():
            self._get(self._sender.connect.remote(app, [model["name"] for model in config["models"]]))

    def heads(self, files: Sequence[Path]) -> Logits:
        """Compute the heads of more images by the real model; see `Sender.compute_heads`."""
        name = STRATEGIES[0]
        found: Logits = self._get(
            self._sender.compute_heads.remote(_app(True, name), model_of(name), [str(file) for file in files])
        )
        return found

    def ask(self, strategy: str, seed: int) -> dict[int, Logits]:
        """Every image at every cut through one strategy: logits by cut."""
        found: dict[int, Logits] = self._get(self._sender.ask.remote(_app(True, strategy), model_of(strategy), seed))
        return found

    def offer(self, series: str, requests: Sequence[tuple[float, int]]) -> list[Sent]:
        """An open loop on the emulated accelerator."""
        found: list[Sent] = self._get(self._sender.offer.remote(_app(False, series), model_of(series), requests, SHAPE))
        return found

    def stop_digits(self) -> None:
        """Take down the applications of the first question, so that they do not disturb the second."""
        from deployments import app

        app.stop(*{_app(True, name) for name in STRATEGIES})

    def _get(self, reference: Any) -> Any:
        import ray

        return ray.get(reference)


@contextlib.contextmanager
def running(
    configs: Mapping[str, Mapping[str, Any]], meanwhile: Callable[[], None], say: Callable[[str], None]
) -> Iterator[Live]:
    """Start Ray and all applications, do `meanwhile` while they start, and take everything down at the end.

    Raises:
        HeadTailError: an application cannot start here.
    """
    import ray
    from ray import serve

    from deployments import app
    from deployments.doctor.connection import connect

    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's default, nice 15, one measures what else runs
    del serve  # imported for its logger, whose INFO lines would bury what the demo says
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # It warns that a token protects the cluster, which is as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    connect(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=True,
        logging_level="WARNING",
        object_store_memory=100 * 1024 * 1024,
    )
    try:
        live = Live()
        asked = {name: app.deploy(dict(config), name=name) for name, config in configs.items()}
        meanwhile()
        for number, (name, settled) in enumerate(asked.items(), start=1):
            app.wait_running(name, settled)
            say(f"  {number} of {len(asked)} applications run")
        live.connect(configs)
        yield live
    finally:
        ray.shutdown()


def write_table(costs: CostModel, folder: Path) -> Path:
    """The cost table as a file."""
    path = folder / "costs.yaml"
    save_cost_profile(costs, path)
    return path
