"""The model of a manifest once more: built by its name, on the meta device, and cut where the manifest says."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata

import timm
import torch
from torch import nn

from slicer.core.shards.manifest import Manifest
from slicer.errors import HeadTailError, ModelError, ShardError
from slicer.models import zoo
from slicer.slicing.slice_model import slice_module
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.value_tracer import Read


def rebuild(manifest: Manifest, source: str) -> SlicedModel:
    """The manifest's model, cut where it says, on meta if it can be. Raises ShardError if its shapes are others."""
    spec = replace(manifest.spec, pretrained=False)
    try:
        where = {
            "at": manifest.boundaries,
            "input_shape": manifest.shapes[0],
            "spec": manifest.spec,
            "verify": False,
            "reads": [Read(weights, ast.literal_eval(value)) for weights, value in manifest.reads],
        }
        try:
            sliced = slice_module(zoo.build_structure(spec), **where)  # type: ignore[arg-type]
        except ModelError:
            sliced = slice_module(zoo.build(spec), **where)  # type: ignore[arg-type]
    except (HeadTailError, ValueError, SyntaxError) as error:
        raise ShardError(f"{source}: {error} ({versions(manifest)})") from error
    shapes = tuple(sliced.shape_at(cut) for cut in range(manifest.num_slices + 1))
    if shapes != manifest.shapes:
        raise ShardError(
            f"{source}: activations have shapes {shapes} instead of {manifest.shapes}; {versions(manifest)}"
        )
    return sliced


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put each tensor in the place of the module's own of that name."""
    for name, tensor in tensors.items():
        path, _, field = name.rpartition(".")
        part = module.get_submodule(path)
        if isinstance(getattr(part, field), nn.Parameter):
            known = isinstance(tensor, nn.Parameter)  # which then is the same one in both places
            setattr(part, field, tensor if known else nn.Parameter(tensor, requires_grad=False))
        else:
            setattr(part, field, tensor)


def versions(manifest: Manifest) -> str:
    """What to say where the model here is another than that of the manifest."""
    made, here = "", ""
    if manifest.spec.kind == "hf":
        made, here = f", transformers {manifest.spec.kwargs.get('transformers')}", f", transformers {_transformers()}"
    return (
        f"exported with timm {manifest.timm} and torch {manifest.torch}{made}, here are timm {timm.__version__} and "
        f"torch {torch.__version__}{here}; install the same versions, or export again"
    )


def _transformers() -> str:
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return "(none)"
