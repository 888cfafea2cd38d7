"""Tensors that a unit holds inside of a list, a dict or an object: no shard has them, so whoever loads one lacks them.

A unit is run, not traced, so its own tensors are found by their attributes: parameters, buffers and plain tensors. One
that stands deeper is left as the build on the meta device made it, without a value; or, of a model that cannot be built
there, as its constructor drew it this time. Caches stand there as well, so what is never used is no reason to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slicer.core.common.error_text import named_line
from slicer.errors import ShardError
from slicer.shards.rebuild import fill
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.module_state import kept_values
from slicer.tracing.tensors import named_tensors


def refuse_held_tensors(sliced: SlicedModel, again: SlicedModel) -> None:
    """Refuse to export `sliced` if a unit uses such a tensor.

    Args:
        again: the model as whoever loads it builds it; it gets `sliced`'s weights, by reference.

    Raises:
        ShardError: names the tensor by its place in the model, and says what to do.
    """
    original = dict(_held(sliced))
    other = {
        path: tensor
        for path, tensor in _held(again)
        if tensor.is_meta or (path in original and not _same(original[path], tensor))
    }
    if other:
        _run(sliced, again, other)


def _held(sliced: SlicedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Path and tensor of what the units of all slices hold deeper than in an attribute."""
    for path in sorted(_units(sliced)):
        unit = sliced.module.get_submodule(path)
        stored = named_tensors(unit)
        for place, value in kept_values(unit):
            if isinstance(value, torch.Tensor) and place not in stored:
                yield f"{path}.{place}", value


def _units(sliced: SlicedModel) -> set[str]:
    found = set()
    for index in range(sliced.num_slices):
        span = sliced.span(index, index + 1)
        assert isinstance(span, fx.GraphModule), "no slice is empty"
        found |= {str(node.target) for node in span.graph.nodes if node.op == "call_module"}
    return found


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_meta or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return bool(((a == b.to(a.device)) | ((a != a) & (b != b).to(a.device))).all())


def _run(sliced: SlicedModel, again: SlicedModel, other: Mapping[str, torch.Tensor]) -> None:
    """Run what would be loaded, on one image, to see whether it uses one of `other`."""
    weights = named_tensors(sliced.module)
    device = next((tensor.device for tensor in weights.values()), torch.device("cpu"))
    value = torch.zeros((1, *sliced.input_shape), dtype=sliced.input_dtype, device=device)
    uses = _Uses({id(tensor): path for path, tensor in other.items()})
    try:
        for index in range(sliced.num_slices):
            span = again.span(index, index + 1)
            fill(span, {name: needed.tensor for name, needed in sliced.tensors(index, index + 1).items()})
            with torch.no_grad(), uses:
                value = span(value)
    except Exception as error:
        path = uses.first or next(iter(other))
        raise _refusal(sliced.module, path, "" if uses.first else f" ({named_line(error)})") from error
    if uses.first:  # the unit swallowed the error
        raise _refusal(sliced.module, uses.first)


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers which of some tensors, by their id, is the first that an operation takes."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._paths = paths
        self.first = ""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = [self._paths[id(leaf)] for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._paths]
        self.first = self.first or "".join(found[:1])
        return func(*args, **(kwargs or {}))


def _refusal(module: nn.Module, path: str, reason: str = "") -> ShardError:
    owner = path
    while not _is_module(module, owner):
        owner = owner.rpartition(".")[0] or ""
    kind = type(module.get_submodule(owner)).__name__
    return ShardError(
        f"{path} ({kind}): forward uses this tensor, which no shard holds, since it is inside of a list, a dict or an "
        f"object{reason}; keep it in a buffer, self.register_buffer('name', tensor, persistent=False), and use that"
    )


def _is_module(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
