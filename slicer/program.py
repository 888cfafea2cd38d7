"""What a slice does, as text: its graph with every Python constant in it, and what its units keep in plain attributes.

Weights are files with a sha256 each; this is the rest. Whoever loads an export builds the model anew, and a constructor
may draw random numbers, read the environment, or be another version of itself. So the text's digest stands in the
manifest, and a build that gives another one is refused. The text is the same in every process: no addresses, no order
of hashes.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

_MODULE_S_OWN = frozenset(vars(nn.Module())) | {"_forward_hooks_always_called", "call_super_init"}
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.layout, torch.memory_format)
_DEPTH = 6


def program(span: nn.Module, module: nn.Module) -> list[str]:
    """The program of `span`, a piece of `module`, line by line."""
    assert isinstance(span, fx.GraphModule), "no slice is empty"
    number: dict[fx.Node, int] = {}
    lines: list[str] = []
    units: dict[str, nn.Module] = {}
    for node in span.graph.nodes:
        number[node] = len(number)
        target = node.target if isinstance(node.target, str) else _callable(node.target)
        if node.op == "call_module":
            units.setdefault(str(node.target), module.get_submodule(str(node.target)))
        if node.op == "get_attr":
            tensor: Any = functools.reduce(getattr, str(node.target).split("."), span)
            target = f"{target} {tuple(tensor.shape)} {tensor.dtype}"
        lines.append(f"{node.op} {target} {_said(node.args, number)} {_said(node.kwargs, number)}")
    for path, unit in units.items():
        lines += (f"{path}: {line}" for line in _unit(unit))
    return lines


def digest(lines: Sequence[str]) -> str:
    """SHA-256 of a program, in hex."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def difference(before: Sequence[str], after: Sequence[str]) -> str:
    """The first line in which two programs differ, both ways."""
    for old, new in zip(before, after, strict=False):
        if old != new:
            return f"{old[:200]!r} became {new[:200]!r}"
    return f"it has {len(after)} steps instead of {len(before)}"


def _unit(unit: nn.Module) -> Iterator[str]:
    for path, part in unit.named_modules():
        yield f"{path or '.'} is {_kind(type(part))}"
        for name in sorted(vars(part).keys() - _MODULE_S_OWN):
            if (text := _value(vars(part)[name], _DEPTH)) is not None:
                yield f"{path or '.'}.{name} = {text}"


def _kind(cls: type) -> str:
    """A class by its name, and by its source where that is not a library's, whose version stands in the manifest."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__.partition(".")[0] in ("torch", "timm", "torchvision", "builtins", "collections"):
        return name
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # made at run time
        return name
    return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _callable(function: Any) -> str:
    if isinstance(function, functools.partial):
        return f"partial({_callable(function.func)}, {_value(function.args, 3)}, {_value(function.keywords, 3)})"
    module = getattr(function, "__module__", None) or getattr(function, "__objclass__", type(function)).__module__
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _said(argument: Any, number: Mapping[fx.Node, int]) -> str:
    if isinstance(argument, fx.Node):
        return f"%{number[argument]}"
    if isinstance(argument, (tuple, list)):
        return f"{type(argument).__name__}({', '.join(_said(item, number) for item in argument)})"
    if isinstance(argument, dict):
        return "{" + ", ".join(f"{key}: {_said(value, number)}" for key, value in sorted(argument.items())) + "}"
    if isinstance(argument, slice):
        return f"slice({', '.join(_said(part, number) for part in (argument.start, argument.stop, argument.step))})"
    if isinstance(argument, torch.device):
        return "device"  # where it was traced
    text = _value(argument, _DEPTH)
    return type(argument).__qualname__ if text is None else text


def _value(value: Any, depth: int) -> str | None:
    """A plain value as text; None for what is no part of the program (tensors, modules, devices) or is not plain."""
    if isinstance(value, _NUMBERS):
        return repr(value)
    if isinstance(value, (torch.Tensor, nn.Module, torch.device, torch.Generator)) or depth == 0:
        return None
    if isinstance(value, np.ndarray):
        return (
            f"array({value.dtype}, {value.shape}, {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()})"
        )
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, Mapping):
        items = ((_value(key, depth - 1), _value(item, depth - 1)) for key, item in value.items())
        return "{" + ", ".join(sorted(f"{key}: {item}" for key, item in items)) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(str(_value(item, depth - 1)) for item in value)) + "}"
    if isinstance(value, Sequence):
        return f"{type(value).__name__}({', '.join(str(_value(item, depth - 1)) for item in value)})"
    if callable(value) or isinstance(value, type):
        return _callable(value)
    if held := getattr(value, "__dict__", None):
        return f"{type(value).__qualname__}{_value(held, depth - 1)}"
    return type(value).__qualname__
