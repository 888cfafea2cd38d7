"""What can be known to fail before a replica is started, on the machine where it will run."""

from __future__ import annotations

from pathlib import Path

from deployments.config import ModelConfig, ServerConfig
from deployments.core.hosting import spec_of
from deployments.costs.profile_files import load_cost_profile_of
from deployments.replica.ingress.web_page import WebPage
from deployments.scheduling.registry import find_strategy
from slicer import shards
from slicer.common.plugins import load_object
from slicer.errors import ConfigError, HeadTailError, ModelError


def check_here(config: ServerConfig) -> None:
    """Names, files, own classes and options of a configuration whose replicas run on this machine. Builds no model.

    Raises:
        HeadTailError: what a replica would refuse.
    """
    if ":" in config.executor:
        load_object(config.executor, "executor")
    if config.http.web:
        WebPage()
    for model in config.models:
        try:
            _check_model(model)
        except HeadTailError as error:
            raise type(error)(f"model {model.name!r}: {error}") from None


def _check_model(model: ModelConfig) -> None:
    num_slices = model.num_slices if model.at is None else len(model.at) + 1
    if model.shards:
        num_slices = shards.load_manifest(Path(model.shards).expanduser()).num_slices
    else:
        spec = spec_of(model)
        if spec.checkpoint is not None and not Path(spec.checkpoint).expanduser().is_file():
            raise ModelError(f"checkpoint {spec.checkpoint}: no such file; give the weights file's path")
        if spec.kind == "own":
            load_object(spec.architecture, "model")
    wrong = [entry for entry in model.entries or () if not 0 <= entry < num_slices]
    if wrong:
        raise ConfigError(f"entry {wrong[0]} is out of range; {num_slices} slices have entries 0 to {num_slices - 1}")
    costs = None if model.profile is None else load_cost_profile_of(model.name, num_slices, model.profile)
    try:
        strategy = find_strategy(model.strategy)
        if not strategy.in_engine:
            return
        strategy.policy(
            model=model.name,
            num_slices=num_slices,
            max_batch=model.max_batch,
            options=model.options,
            costs=costs,
        )
    except HeadTailError:
        raise
    except Exception as error:  # of an own class
        raise ConfigError(f"strategy {model.strategy!r} cannot be made: {type(error).__name__}: {error}") from error
