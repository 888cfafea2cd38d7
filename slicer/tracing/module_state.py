"""What a module's parts keep in their attributes: to put it back after an attempt, to see what a call left there."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import fx, nn

from slicer.tracing.tensors import version

_CONTAINERS = (list, dict, OrderedDict, defaultdict, set, deque)
_OPAQUE = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, nn.Module, torch.Generator)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 5


def snapshot(module: nn.Module) -> Callable[[], None]:
    """Remember every attribute of every part, and what the lists and dicts among them hold; returns what restores it.

    Tensors are remembered by reference: writes into their memory stay.
    """
    kept: list[tuple[Any, Any, list[tuple[Any, Any]]]] = []
    for part in module.modules():
        held = vars(part)
        # Most containers are empty tables of hooks, ten a part: no copies of those.
        inner = [(value, value.copy() if value else ()) for value in held.values() if type(value) in _CONTAINERS]
        kept.append((held, dict(held), inner))

    def restore() -> None:
        for held, before, inner in kept:
            for container, content in [(held, before), *inner]:
                # Other threads may be running what has not changed.
                if (container or content) and _items(container) != _items(content):
                    container.clear()
                    (container.extend if isinstance(container, (list, deque)) else container.update)(content)

    return restore


def _items(container: Any) -> list[tuple[Any, int]]:
    if isinstance(container, dict):
        return [(key, id(value)) for key, value in container.items()]
    return [(None, id(value)) for value in container]


def kept_values(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and value of all that the module's parts hold: tensors, proxies and plain values, also in containers."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers"):
                for key, tensor in value.items():
                    yield f"{path}.{key}" if path else key, tensor
            elif name != "_modules" and not (name.startswith("_") and name.endswith("hooks")):
                yield from _walk(f"{path}.{name}" if path else name, value, seen, _DEPTH)


def _walk(path: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (torch.Tensor, fx.Proxy, *_PLAIN)):
        yield path, value
    elif isinstance(value, _OPAQUE) or id(value) in seen or depth == 0:
        return
    elif isinstance(value, dict):
        seen.add(id(value))
        yield f"len({path})", len(value)
        for key, item in list(value.items()):
            yield from _walk(f"{path}[{key!r}]", item, seen, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        seen.add(id(value))
        yield f"len({path})", len(value)
        for i, item in enumerate(value):
            yield from _walk(f"{path}[{i}]", item, seen, depth - 1)
    elif hasattr(value, "__dict__"):
        seen.add(id(value))
        for name, item in list(vars(value).items()):
            yield from _walk(f"{path}.{name}", item, seen, depth - 1)


def fingerprint(module: nn.Module) -> dict[str, Any]:
    """By path, what tells whether a call changed something: plain values, and how often a tensor was written into.

    A tensor that was made anew counts as unchanged if its shape is: a table for a shape may be computed in every call.
    """
    found: dict[str, Any] = {}
    for path, value in kept_values(module):
        if isinstance(value, torch.Tensor):
            found[path] = (tuple(value.shape), value.dtype, id(value), version(value))
        elif not isinstance(value, fx.Proxy):
            found[path] = value
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Paths whose values differ between two fingerprints."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, tuple) and isinstance(b, tuple):
            return a[:2] == b[:2] and (a[2] != b[2] or a[3] == b[3])
        return bool(a is b or a == b or (a != a and b != b))

    return [path for path in after if path not in before or not same(before[path], after[path])]
