"""What is measured: the servers, the grids that each peer's best setting is chosen from, rates and payloads."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.costs.cost_model import CostModel
from slicer.core.codecs import activations

#: Entries in blocks of a model of 12, and the slices of HeadTail's server.
BLOCKS, SLICES, ENTRIES, MAX_BATCH = 12, 4, (0, 3, 6, 9), 32

#: An activation of 196 x 196 values, int8: 38,808 bytes, as large as ViT-Tiny's tokens.
SHAPE = (1, 196, 196)

HEADTAIL = {
    "headtail_continuous": "continuous",
    "headtail_per_slice": "per_slice",
    "headtail_per_tail_shared": "per_tail_shared",
}

#: The published grids.
#: Triton: its default (delay 0, no preferred size); more delay; a preferred size; a second instance, which prepares a
#: batch while the first one runs. LitServe: its default batch_timeout of 0, at which its workers poll without a pause,
#: and more; both of its queues. Ray Serve: its default wait of 10 ms, less and more; one or two batches at a time.
GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "triton": (
        {"delay_ms": 0, "preferred": (), "instances": 1},
        {"delay_ms": 1, "preferred": (), "instances": 1},
        {"delay_ms": 5, "preferred": (), "instances": 1},
        {"delay_ms": 5, "preferred": (8,), "instances": 1},
        {"delay_ms": 0, "preferred": (), "instances": 2},
        {"delay_ms": 1, "preferred": (), "instances": 2},
    ),
    "litserve": (
        {"max_batch_size": 32, "batch_timeout_s": 0.005, "fast_queue": False},
        {"max_batch_size": 32, "batch_timeout_s": 0.005, "fast_queue": True},
        {"max_batch_size": 8, "batch_timeout_s": 0.005, "fast_queue": True},
        {"max_batch_size": 32, "batch_timeout_s": 0.02, "fast_queue": True},
        {"max_batch_size": 32, "batch_timeout_s": 0.0, "fast_queue": False},
    ),
    "serve_batch": (
        {"max_batch_size": 32, "batch_wait_timeout_s": 0.01, "max_concurrent_batches": 1},
        {"max_batch_size": 32, "batch_wait_timeout_s": 0.0, "max_concurrent_batches": 1},
        {"max_batch_size": 32, "batch_wait_timeout_s": 0.002, "max_concurrent_batches": 1},
        {"max_batch_size": 32, "batch_wait_timeout_s": 0.0, "max_concurrent_batches": 2},
        {"max_batch_size": 32, "batch_wait_timeout_s": 0.01, "max_concurrent_batches": 2},
        {"max_batch_size": 32, "batch_wait_timeout_s": 0.02, "max_concurrent_batches": 1},
    ),
    "fastapi": ({},),
}

NAMES = (*HEADTAIL, *GRIDS)

RATES = (40.0, 160.0, 330.0, 420.0, 500.0, 580.0)

#: Where a grid's settings are tried, and what of each counts: the median at the first, p99 at the second.
GRID_RATES = (330.0, 500.0)

#: The rates among which the highest within the limit is searched; steps of 3 to 5 % where servers part.
SEARCH = (
    *(10.0, 20.0, 30.0, 40.0, 55.0, 70.0, 85.0, 100.0, 115.0, 130.0, 145.0, 160.0, 175.0, 190.0, 205.0, 220.0, 240.0),
    *(260.0, 280.0, 300.0, 315.0, 330.0, 345.0, 360.0, 380.0, 400.0, 420.0, 440.0, 460.0, 480.0, 500.0, 520.0, 540.0),
    *(560.0, 580.0, 600.0, 620.0, 640.0, 660.0, 680.0),
)

LIMIT_MS = 100.0

#: The last stretch of a step, which the emulated accelerators spend asking for the time. Shorter than the executor's
#: default: what it burns counts as the server's CPU, and is none of its own.
SPIN_MS = 0.05


@dataclass(frozen=True)
class Payloads:
    """What is sent: int8 activations as a device encodes them, the same bytes to all servers."""

    of_headtail: tuple[tuple[str, float], ...]  # base64, and the first value that HeadTail's answer holds
    of_peers: tuple[tuple[str, float], ...]  # the same bytes, and their first one
    size: int


def payloads(axis: int, count: int = 16, seed: int = 0) -> Payloads:
    """So many different ones.

    Args:
        axis: of the channels, as the server's manifest says.
    """
    generator, ours, theirs, size = np.random.default_rng(seed), [], [], 0
    for _ in range(count):
        body = activations.encode("int8", generator.standard_normal(SHAPE, np.float32), axis)
        decoded = activations.decode_batch("int8", [body], SHAPE, axis=axis)
        text, size = base64.b64encode(body).decode(), len(body)
        ours.append((text, float(decoded.reshape(-1)[0])))
        theirs.append((text, float(body[0])))
    return Payloads(tuple(ours), tuple(theirs), size)


def spans_s(costs: CostModel) -> dict[int, list[float]]:
    """Seconds of each entry's tail by rows, 1 to MAX_BATCH, of a profile with BLOCKS slices."""
    return {entry: [costs.span_s(entry, BLOCKS, rows) for rows in range(1, MAX_BATCH + 1)] for entry in ENTRIES}


def headtail_config(strategy: str, profile: str) -> dict[str, Any]:
    """HeadTail's server as it is, on its own emulated accelerator."""
    return {
        "models": [
            {
                "name": "chain",
                "model": "deployments.executors.emulated:chain",
                "kwargs": {"units": BLOCKS, "img_size": SHAPE[1], "in_chans": SHAPE[0]},
                "num_slices": SLICES,
                "strategy": strategy,
                "max_batch": MAX_BATCH,
                "entries": [entry * SLICES // BLOCKS for entry in ENTRIES],
            }
        ],
        "accelerator": "cpu",
        "cpus": 0.01,
        "torch_threads": 1,
        "executor": "emulated",
        "executor_options": {"profile": profile, "spin_ms": SPIN_MS},
    }
