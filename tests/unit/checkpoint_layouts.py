"""The layouts of checkpoints that people have, all with the same weights of one tiny model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

VIT = "vit_tiny_patch16_224"
BODY: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
KWARGS: dict[str, Any] = {**BODY, "num_classes": 7}

State = dict[str, torch.Tensor]


@cache
def trained(seed: int = 3, name: str = VIT) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = timm.create_model(name, **KWARGS).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 8)
    return module


def state(seed: int = 3) -> State:
    return dict(trained(seed).state_dict())


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> State:
    return {prefix + key: value for key, value in tensors.items()}


def training(weights: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What a training script saves beside weights, an optimiser's tensors among it."""
    moments = {number: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)} for number in range(40)}
    by_name = {"state": {key: {"exp_avg": value} for key, value in state().items()}, "exp_avg": state(9)}
    return {
        "epoch": 3,
        "arch": VIT,
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": list(range(40))}]},
        "optimizer_by_name": by_name,
        "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        "args": Namespace(model=VIT, lr=0.1),
        "metric": 71.5,
        **weights,
        **more,
    }


def compiled(tensors: State) -> State:
    """Blocks that torch.compile wrapped one by one."""
    return {
        key.replace("blocks.0.", "blocks.0._orig_mod.").replace("blocks.1.", "blocks.1._orig_mod."): value
        for key, value in tensors.items()
    }


LAYOUTS: dict[str, Callable[[], Any]] = {
    "bare": state,
    "state_dict": lambda: {"state_dict": state()},
    "model": lambda: {"model": state()},
    "model_ema alone": lambda: {"model_ema": state()},
    "any name": lambda: {"weights": state()},
    "nested": lambda: {"checkpoint": {"model": {"state_dict": state()}}},
    "training script": lambda: training({"model": state()}),
    "same tensors twice": lambda: {"model": state(), "state_dict": prefixed("module.", state())},
    "data parallel": lambda: {"state_dict": prefixed("module.", state())},
    "compiled": lambda: {"model": prefixed("_orig_mod.", state())},
    "compiled, data parallel": lambda: prefixed("module._orig_mod.", state()),
    "data parallel, compiled": lambda: prefixed("_orig_mod.module.", state()),
    "backbone": lambda: prefixed("model.backbone.", state()),
    "compiled blocks": lambda: {"model": compiled(state())},
    "compiled blocks, data parallel": lambda: {"model": prefixed("module.", compiled(state()))},
    "fsdp": lambda: prefixed("_fsdp_wrapped_module.", state()),
    "lightning": lambda: {
        "state_dict": prefixed("model.", state()),
        "hyper_parameters": {"lr": 0.1, "name": VIT},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.7)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}}],
        "pytorch-lightning_version": "2.4.0",
    },
    "deepspeed": lambda: {
        "module": prefixed("module.", state()),
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [{key: value.shape for key, value in state().items()}],
        "ds_config": {"train_batch_size": 8},
        "global_steps": 12,
    },
    "averaged": lambda: AveragedModel(trained()).state_dict(),
    "plain values beside": lambda: {**state(), "epoch": 3, "note": "best"},
    "average does not fit": lambda: {"model": state(), "model_ema": {"decay": torch.tensor(0.9)}},
}
