"""Models that give more than their own result: the pooled embedding, and the tokens or map that it comes from.

``with_outputs`` lets a module return them beside its result, flattened and one behind another, in one pass. timm's
models have ``forward_features`` and ``forward_head(x, pre_logits=True)`` for it, and so may an own module;
transformers' say it in their ModelOutput. The module keeps its parts and their names, so its slices before the last are
the same files with and without further outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from slicer.core.common.error_text import named_line, shown
from slicer.core.protocol.outputs import FEATURES, FURTHER, LOGITS, TOKENS, Output, packed
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ModelError
from slicer.tracing.traced_graph import meta_twin

_NAMES = "_headtail_outputs"


class GivesOutputs(Protocol):
    """A module that says itself what its outputs are, as `slicer.models.hugging_face` has it."""

    def forward_outputs(self, x: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        """Its own result, and then one tensor for each name."""


def check_outputs(names: Any) -> tuple[str, ...]:
    """Names of further outputs, each once, in the order in which they are packed.

    Raises:
        ModelError: one is unknown.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ModelError(f"outputs {shown(repr(names))}: give a list, of {', '.join(FURTHER)}")
    given = [name for name in names if name != LOGITS]  # which there always is
    if unknown := [name for name in given if name not in FURTHER]:
        raise ModelError(f"unknown output {shown(repr(unknown[0]))}; beside {LOGITS} there are {', '.join(FURTHER)}")
    return tuple(name for name in FURTHER if name in given)


def with_outputs(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """The module itself, which from now on returns ``[B, values]``: its own result and these outputs, flattened.

    Raises:
        ModelError: it cannot say them.
    """
    if not names:
        return module
    kind = type(module)
    if not (hasattr(module, "forward_outputs") or _as_timm(module)):
        raise ModelError(
            f"{kind.__name__} has no outputs {', '.join(names)}, but {LOGITS} alone: give it the methods that timm's "
            "models have, forward_features(x) and forward_head(x, pre_logits=False), or leave outputs out"
        )

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor.flatten(1) for tensor in _several(self, x)], 1)

    # A class of its own rather than a module around it: the names of all parts and weights stay.
    several = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    several.__qualname__ = kind.__qualname__
    setattr(module, _NAMES, tuple(names))
    module.__class__ = several
    return module


def outputs_of(module: nn.Module, input_shape: Sequence[int]) -> tuple[Output, ...]:
    """What the module gives, and where it lies in its result.

    It is run on meta where it can be, so that nothing is computed.

    Raises:
        ModelError: an output is no tensor with a row per image.
    """
    names = (LOGITS, *getattr(module, _NAMES, ()))
    dtype = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
    with torch.no_grad():
        try:
            tensors = _several(meta_twin(module), torch.empty(2, *input_shape, dtype=dtype, device="meta"))
        except Exception:  # whatever a model raises that looks at values
            tensors = _computed(module, torch.zeros(2, *input_shape, dtype=dtype))
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2 or tensor.shape[0] != 2:
            what = f"of shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ModelError(
                f"output {name} of {type(module).__name__} is a {what} for 2 images; it must be a tensor with a "
                "row per image"
            )
    return packed([(name, tensor.shape[1:]) for name, tensor in zip(names, tensors, strict=True)])


def _computed(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    try:
        return _several(module, x)
    except Exception as error:
        names = ", ".join(getattr(module, _NAMES))
        raise ModelError(f"outputs {names} of {type(module).__name__}: {named_line(error)}") from error


def has_outputs(module: nn.Module) -> bool:
    """Whether it gives more than its own result."""
    return hasattr(module, _NAMES)


def classifies(module: nn.Module, spec: ModelSpec | None) -> bool:
    """Whether its own result is a number for each class, and no embedding: of Hugging Face's models its name says so,
    else ``num_classes`` is not 0. A module that says nothing of it classifies."""
    if spec is not None and spec.kind == "hf":
        return bool(spec.kwargs["output"] == LOGITS)
    return getattr(module, "num_classes", None) != 0


def own_forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The result without further outputs, by the code that the module had before `with_outputs`."""
    before: Any = type(module).__mro__[1] if has_outputs(module) else type(module)
    return cast(torch.Tensor, before.forward(module, x))


def _several(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Its own result and its outputs, each in its own shape."""
    names: tuple[str, ...] = getattr(module, _NAMES)
    if hasattr(module, "forward_outputs"):
        return cast(GivesOutputs, module).forward_outputs(x, names)
    own: Any = module
    tokens = own.forward_features(x)
    given = [own.forward_head(tokens)]
    if FEATURES in names:
        given.append(own.forward_head(tokens, pre_logits=True))
    if TOKENS in names:
        given.append(tokens)
    return given


def _as_timm(module: nn.Module) -> bool:
    head = getattr(module, "forward_head", None)
    return (
        hasattr(module, "forward_features") and head is not None and "pre_logits" in inspect.signature(head).parameters
    )
