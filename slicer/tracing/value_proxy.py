"""What stands for a tensor while a model is traced: a proxy that knows its values for the two example batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import fx


class TraceError(Exception):
    """The model does something that a graph with a free batch size cannot express. The message says what."""


#: Augmented assignments; torch.fx by itself would record ``x += y`` as ``x + y`` and lose the write into views of x.
IN_PLACE_OPERATORS: tuple[Callable[..., Any], ...] = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod),
    *(operator.ipow, operator.imatmul, operator.iand, operator.ior, operator.ixor),
)


class Sizes(tuple[Any, ...]):
    """A shape whose batch-dependent entries are proxies; stands in for torch.Size while tracing."""

    def numel(self) -> Any:
        """Product of all entries."""
        total: Any = 1
        for size in self:
            total = total * size
        return total


class ValueProxy(fx.Proxy):
    """A proxy that knows the values its node has for the two example batches."""

    @property
    def values(self) -> tuple[Any, Any]:
        """The node's value for each of BATCHES."""
        first, second = self.node.meta["values"]
        return first, second

    def _record(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy(kind, target, (self, *args), kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.node.meta["values"][0], name)  # AttributeError as the value itself would raise it
        if name == "shape":
            return self._record("call_method", "size")
        if callable(value) and not isinstance(value, torch.Tensor):
            return partial(self._record, "call_method", name)
        return self._record("call_function", getattr, name)

    def _same(self, convert: Callable[[Any], Any]) -> Any:
        tracer: Any = self.tracer
        first, second = (tracer.number(self.node, value, convert) for value in self.values)
        if first != second:
            raise TraceError(f"the batch size decides over {self.node.name!r} (it is {first} or {second})")
        return first

    def __bool__(self) -> bool:
        return bool(self._same(bool))

    def __int__(self) -> int:
        return int(self._same(int))

    def __index__(self) -> int:
        return int(self._same(operator.index))

    def __float__(self) -> float:
        return float(self._same(float))

    def __len__(self) -> int:
        return int(self._same(len))

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])  # type: ignore[index]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._record("call_function", operator.setitem, key, value)

    def __hash__(self) -> int:
        return id(self)


def _define_in_place(function: Callable[..., Any]) -> None:
    def assign(self: ValueProxy, other: Any) -> Any:
        if isinstance(self.values[0], torch.Tensor):
            return self._record("call_function", function, other)
        return NotImplemented  # numbers: Python falls back to the plain operator

    setattr(ValueProxy, f"__{function.__name__}__", assign)


for _function in IN_PLACE_OPERATORS:
    _define_in_place(_function)
