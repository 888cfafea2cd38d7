"""Are these numbers weights? NaN, infinite, integer, complex and quantised tensors are refused by name.

A model with one of them still answers, and nothing in the answer says that it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from slicer.errors import ModelError

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def refuse_foreign(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise ModelError unless each tensor of `state` can stand for the model's own of that name.

    A floating-point tensor wants finite floating-point values that its dtype can hold; an infinity is taken where the
    model, as it was built, has one itself (a mask). An integer tensor (a counter, an index) wants the same integers.
    Names that only one side has are not looked at.
    """
    for name in sorted(own.keys() & state.keys()):
        if complaint := _foreign(own[name], state[name]):
            raise ModelError(
                f"{source}: {name} {complaint}; these are no weights of this model: give a checkpoint of plain "
                "fp32, fp16, bf16 or fp64 weights (a quantised model has to be converted back first)"
            )


def refuse_not_finite(module: nn.Module) -> None:
    """Raise ModelError if a weight is NaN or infinite, or a buffer NaN; running statistics are weights. Skips meta.

    Other buffers may be infinite: an attention mask is.
    """
    for path, part in module.named_modules():
        statistics = isinstance(part, nn.modules.batchnorm._NormBase)
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        for name, tensor in own:
            weight = statistics or isinstance(tensor, nn.Parameter)
            if not (is_finite(tensor) if weight else not _has_nan(tensor)):
                raise ModelError(
                    f"{path + '.' if path else ''}{name} of {type(module).__name__} holds NaN"
                    f"{' or infinity' if weight else ''}; give weights that were saved before training diverged"
                )


def convert(module: nn.Module, dtype: Any) -> nn.Module:
    """`module` in fp32, fp16 or bf16. Raises ModelError for an unknown one, and for a weight beyond what it holds."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
    largest = torch.finfo(DTYPES[dtype]).max
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point() and not tensor.is_meta and torch.finfo(tensor.dtype).max > largest:
            peak = _peak(tensor)
            if peak < float("inf") and not is_finite(torch.tensor(peak, dtype=torch.float64).to(DTYPES[dtype])):
                raise ModelError(f"{name} reaches {peak:.3g}, more than {dtype} can hold; use fp32 or bf16")
    return module.to(DTYPES[dtype])


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, without a copy of the tensor; True of integers and on meta."""
    return _peak(tensor) < float("inf")


def _peak(tensor: torch.Tensor) -> float:
    """The largest magnitude; NaN if one is."""
    if tensor.is_meta or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return 0.0
    low, high = torch.aminmax(torch.view_as_real(tensor) if tensor.is_complex() else tensor.detach())
    return float(torch.maximum(-low, high))


def _has_nan(tensor: torch.Tensor) -> bool:
    peak = _peak(tensor)
    return peak != peak


def _foreign(own: torch.Tensor, given: torch.Tensor) -> str:
    """What is wrong with `given` in the place of `own`, in words; empty if nothing is."""
    if given.layout is not torch.strided or given.is_quantized:
        return f"is stored as {'quantised' if given.is_quantized else 'sparse'} values"
    if given.is_meta:
        return "has no values"
    if own.is_complex() and given.is_complex():
        return "" if is_finite(given) else "holds NaN or infinity"
    if own.is_floating_point():
        if given.dtype not in _FLOATS:
            return f"is stored as {_said(given)}, but the model has {_said(own)}"
        return _not_finite(own, given)
    if given.is_complex() or given.shape != own.shape:  # another shape has its own message
        return f"is stored as {_said(given)}, but the model has {_said(own)}" if given.is_complex() else ""
    if given.dtype != own.dtype and not bool((given.to(own.dtype).to(given.dtype) == given).all()):
        return f"is stored as {_said(given)} with values that {_said(own)}, as the model has, cannot hold"
    return ""


def _not_finite(own: torch.Tensor, given: torch.Tensor) -> str:
    peak = _peak(given)
    if peak != peak:
        return "holds NaN"
    if peak == float("inf"):
        # Values as built are compared only where they are there: a model on meta has none.
        same = not own.is_meta and own.shape == given.shape and torch.equal(torch.isinf(own), torch.isinf(given))
        return "" if same else "holds infinity"
    if not is_finite(torch.tensor(peak, dtype=torch.float64).to(own.dtype)):
        return f"reaches {peak:.3g}, more than {_said(own)} can hold"
    return ""


def _said(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
