"""Weights of Hugging Face's files into a model: transformers renames them, nothing may be missing or be left over."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slicer.core.common.error_text import first_line, shown
from slicer.errors import ModelError
from slicer.models.checkpoint_file import read_groups
from slicer.models.hugging_face.structure import build
from slicer.models.weights import refuse_not_finite

INDEX = ".index.json"

#: Of a model of text and vision, what its tower does not have; and tables that are computed anew.
_ELSEWHERE = re.compile(
    r"(text_model|text_projection|visual_projection|logit_scale|logit_bias)(\.|$)"
    r"|.*\.(position_ids|relative_position_index|relative_coords_table|attn_mask)$"
)
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def load(kwargs: Mapping[str, Any], checkpoint: str) -> nn.Module:
    """The model with the weights of the file `checkpoint`, in fp32: safetensors, their index, or tensors of torch.

    Raises:
        ModelError: the file cannot be read; weights are missing, left over, of another shape, quantised, or not finite;
            or the model cannot be built.
    """
    state = read_weights(checkpoint)
    source = f"weights {checkpoint}"
    if odd := [name for name, tensor in state.items() if not _plain(name, tensor)]:
        raise ModelError(
            f"{source}: {odd[0]} is stored as {state[odd[0]].dtype}; give plain fp32, fp16 or bf16 weights (a "
            "quantised model has to be converted back first)"
        )
    module, info = build(kwargs, state)
    complaints = [f"missing {_some(missing)}"] if (missing := sorted(info["missing_keys"])) else []
    if leftover := sorted(name for name in info["unexpected_keys"] if not _ELSEWHERE.match(name)):
        complaints.append(f"leftover {_some(leftover)}")
    if wrong := [str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in info["mismatched_keys"]]:
        complaints.append(f"of another shape {_some(sorted(wrong))}")
    complaints += [shown(str(message)) for message in info.get("error_msgs") or ()]
    if complaints:
        raise ModelError(
            f"{source} do not fit {kwargs['class']}: {', '.join(complaints)}; give the config.json that they were "
            f"saved with{_no_pooler(missing)}"
        )
    refuse_not_finite(module)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()  # not the pages of a file, which may change
    return module


def read_weights(checkpoint: str) -> dict[str, torch.Tensor]:
    """All tensors of a file, or of the files that an index names. No code in them runs. Raises ModelError."""
    if not checkpoint.endswith(INDEX):
        return _read(checkpoint)
    folder = Path(checkpoint).parent
    try:
        files = sorted(set(json.loads(Path(checkpoint).read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"weights {checkpoint}: no index of weights ({first_line(error)})") from error
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state.update(_read(str(folder / Path(str(file)).name)))  # an index may name files beside it only
    return state


def _read(path: str) -> dict[str, torch.Tensor]:
    """Of a file that holds one model, by name."""
    groups = read_groups(path)
    if len(groups) > 1 and "" not in groups:
        raise ModelError(f"weights {path} lie at several places ({', '.join(groups)}); give a folder of one model")
    return groups[""] if "" in groups else next(iter(groups.values()))


def has_pooler(checkpoint: str) -> bool:
    """Whether a file holds weights of a pooling layer; True where only reading all of it would tell."""
    if checkpoint.endswith(INDEX):
        return "pooler" in Path(checkpoint).read_text()
    if not checkpoint.endswith(".safetensors"):
        return True
    from safetensors import safe_open

    try:
        with safe_open(checkpoint, "pt") as file:
            return any("pooler." in name for name in file.keys())  # noqa: SIM118 - it is no mapping
    except Exception:  # a broken file has its message where it is loaded
        return True


def _plain(name: str, tensor: torch.Tensor) -> bool:
    return tensor.dtype in _FLOATS or bool(_ELSEWHERE.match(name)) or name.endswith("num_batches_tracked")


def _no_pooler(missing: list[str]) -> str:
    if missing and all("pooler" in name for name in missing):
        return "; these have no pooling layer: kwargs output=first_token takes the first token's embedding"
    return ""


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
