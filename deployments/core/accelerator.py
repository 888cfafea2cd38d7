"""The accelerator that a process gets: on which device, and the executor that drives it."""

from __future__ import annotations

import logging

import torch

from deployments.config import ServerConfig
from deployments.executors.base import Executor
from deployments.executors.registry import make_executor

logger = logging.getLogger("headtail.server")


def usable(device: str) -> tuple[str, list[str]]:
    """Where this process can compute, and what a person should know of it.

    Args:
        device: as placement decided; a GPU that torch does not see becomes the CPU.
    """
    if device != "cuda" or torch.cuda.is_available():
        return device, []
    note = "this node declares a GPU but torch finds no CUDA there, so the server uses the CPU"
    logger.warning(note)
    return "cpu", [note]


def executor_of(config: ServerConfig, device: str) -> Executor:
    """As configured, not loaded; a CUDA executor captures graphs up to the models' largest batch."""
    options = dict(config.executor_options)
    if config.executor == "torch" and device == "cuda":
        options.setdefault("max_batch", max(model.max_batch for model in config.models))
    return make_executor(config.executor, device=device, threads=config.torch_threads, options=options)
