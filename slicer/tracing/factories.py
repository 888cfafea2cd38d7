"""Functions that make tensors out of nothing, which torch.fx cannot see by itself: no argument of theirs is a proxy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from slicer.tracing.value_proxy import ValueProxy

_FACTORIES = ("arange", "zeros", "ones", "full", "empty", "linspace", "tensor", "as_tensor", "eye")


@contextmanager
def recorded_factories(call: Callable[[Callable[..., Any], Any, Any], Any]) -> Iterator[None]:
    """In the block `call` calls torch.arange and the like: with the function, its arguments, its keywords.

    For the whole process: `call` must let other threads have the function itself.
    """

    def recorded(original: Callable[..., Any]) -> Callable[..., Any]:
        def caught(*args: Any, **kwargs: Any) -> Any:
            return call(original, args, kwargs)

        return caught

    if "einops" in sys.modules:  # its functions ask for a tensor's class
        _backends = importlib.import_module("einops._backends")
        _backends._type2backend[ValueProxy] = _backends.get_backend(torch.empty(0))
    # `with torch.device(...)` remembers torch's factories when it is first used; it must never see the patched ones, or
    # it would do nothing for the rest of the process.
    with torch.device("meta"):
        torch.empty(0)
    originals = {name: getattr(torch, name) for name in _FACTORIES}
    for name, original in originals.items():
        setattr(torch, name, recorded(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)
