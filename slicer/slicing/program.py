"""What a slice does, as text: its graph with every Python constant in it, and what its units keep in plain attributes.

Weights are files with a sha256 each; this is the rest. Whoever loads an export builds the model anew, and a constructor
may draw random numbers, read the environment, or be another version of itself. So the text's digest stands in the
manifest, and a build that gives another one is refused. The text is the same in every process: no addresses, no order
of hashes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

_LIBRARIES = frozenset({"torch", "timm", "torchvision", "numpy", "builtins", "collections", "functools", "operator"})
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_MODULE_S_OWN = frozenset(vars(nn.Module())) | {"_forward_hooks_always_called", "call_super_init"}
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.layout, torch.memory_format)
#: Of classes and functions: Python parses the whole file anew for each that it is asked for.
_SOURCES: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_DEPTH = 12
_OBJECT = 4  # of the depth, what an object costs: they refer to each other in circles


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
        for name in _HOOKS:
            for hook in getattr(part, name).values():
                yield f"{path or '.'}.{name}: {_callable(hook)}"


def _kind(cls: type) -> str:
    """A class by its name; one that is no library's (whose version stands in the manifest) also by its source and by
    what its methods read of the class and of its module. What a constructor reads shows in the attributes."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    if _of_library(cls.__module__):
        return name
    own = [base for base in cls.__mro__ if not _of_library(base.__module__)]
    methods = [m for base in own for key, m in vars(base).items() if inspect.isfunction(m) and key != "__init__"]
    read = {used for method in methods for used in _names(method.__code__)}
    # Found on the class as Python would, so that what a subclass overrides counts once.
    shared = {key: getattr(cls, key) for base in own for key in vars(base) if key in read and not key.startswith("__")}
    values = {key: text for key, value in shared.items() if (text := _constant(value, _DEPTH)) is not None}
    reads = [text for method in methods for text in _globals(method, _DEPTH)]
    return f"{name} {_source(cls)} {sorted(values.items())} {sorted(set(reads))}"


def _of_library(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _LIBRARIES


def _source(thing: Any) -> str:
    known = _SOURCES.get(thing)
    if known is None:
        try:
            known = hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:16]
        except (OSError, TypeError):  # made at run time
            known = ""
        _SOURCES[thing] = known
    return known


def _names(code: Any) -> Iterator[str]:
    """The globals and attributes that a function's code names, those of functions inside of it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _names(constant)


def _globals(function: Any, depth: int) -> Iterator[str]:
    """The constants and own functions that a function reads from its module."""
    for name in sorted(set(_names(function.__code__)) & function.__globals__.keys()):
        text = _constant(function.__globals__[name], depth)
        if text is not None:
            yield f"{name}={text}"


def _constant(value: Any, depth: int) -> str | None:
    """A plain value, array, tensor or own function that stands beside a function; None for anything else."""
    if inspect.isfunction(value):
        return _function(value, depth)
    if isinstance(value, torch.Tensor) and not value.is_meta:
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"tensor({value.dtype}, {tuple(value.shape)}, {_value(raw, 1)})"
    plain = isinstance(value, (*_NUMBERS, np.ndarray, np.generic, list, tuple, dict, set, frozenset))
    return _value(value, depth) if plain else None


def _callable(function: Any, depth: int = _DEPTH) -> str:
    if isinstance(function, functools.partial):
        return (
            f"partial({_callable(function.func)}, {_value(function.args, _DEPTH)}, {_value(function.keywords, _DEPTH)})"
        )
    if inspect.ismethod(function):
        return f"{_callable(function.__func__, depth)} of {_value(function.__self__, depth - _OBJECT)}"
    if inspect.isfunction(function):
        return _function(function, depth)
    module = getattr(function, "__module__", None) or getattr(function, "__objclass__", type(function)).__module__
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _function(function: Any, depth: int) -> str:
    """A function by its name; an own one also by its source, defaults, and what it reads from around it."""
    if function.__module__.partition(".")[0] == "slicer":  # ours may move to another file: an export outlives that
        return f"slicer {function.__qualname__}"
    name = f"{function.__module__}.{function.__qualname__}"
    if _of_library(function.__module__):
        return name
    name, inner = f"{name} {_source(function)}", depth - _OBJECT  # functions may call each other in circles
    if inner <= 0:
        return name
    around = []
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            around.append(f"{key}={_value(cell.cell_contents, inner)}")
    around += (f"default {_value(value, inner)}" for value in function.__defaults__ or ())
    around += (f"{key}={_value(value, inner)}" for key, value in sorted((function.__kwdefaults__ or {}).items()))
    return f"{name} {[*around, *_globals(function, inner)]}"


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
    if isinstance(value, (torch.Tensor, nn.Module, torch.device, torch.Generator)) or depth <= 0:
        return None
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return _value(value.tolist(), depth)
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
    if isinstance(value, (type, functools.partial)) or inspect.isroutine(value):
        return _callable(value, depth)
    slots = {name for base in type(value).__mro__ for name in _slots(base) if hasattr(value, name)}
    held = {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}
    name = type(value).__qualname__
    if not _of_library(type(value).__module__):
        name += f" {_source(type(value))}"
    return f"{name}{_value(held, depth - _OBJECT)}" if held else name


def _slots(cls: type) -> Sequence[str]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
