"""Reading a weights file: the tensors that it holds, by where they lie, and what it says beside them.

Only tensors and plain values are read (``weights_only=True``): no code of a file ever runs.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.core.common.error_text import first_line, shown
from slicer.errors import ModelError

if TYPE_CHECKING:
    import torch

SUFFIXES: tuple[str, ...] = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")

#: Tensors by name.
State = dict[str, "torch.Tensor"]

_DEEPEST = 8  # mappings in mappings; a file may hold itself
_last: tuple[tuple[Any, ...], Mapping[Any, Any]] | None = None  # of the file that was read last: identity, beside


def read_groups(path: str) -> dict[str, State]:
    """The tensors of a file, group by group. Each mapping that holds tensors under names is a group; its name is where
    it lies: ``state_dict``, ``checkpoint.model``, or empty for the top of the file. Other values are left out, and so
    is what an optimiser keeps.

    Raises:
        ModelError: the file is missing or of no known kind, is damaged, holds more than tensors and plain values, or
            no tensor at all.
    """
    global _last
    file, source = Path(path), f"checkpoint {shown(path)}"
    if not file.name.endswith(SUFFIXES):
        raise ModelError(f"{source}: unknown extension {file.suffix!r}; known are {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise ModelError(f"{source}: there is no such file; check the path")
    if file.suffix == ".safetensors":
        return {"": _safetensors(path, source)}
    try:
        identity = _identity(path)
        read = _torch_file(path)
    except Exception as error:  # zipfile, pickle and torch each have their own classes for a broken file
        raise ModelError(f"{source} cannot be read: {_why(path, error)}") from error
    if not isinstance(read, Mapping):
        raise ModelError(f"{source} holds a {type(read).__name__}, no weights by name; save model.state_dict()")
    _last = identity, _without_tensors(read)
    groups: dict[str, State] = {}
    _collect(read, (), groups)
    if not groups:
        keys = ", ".join(shown(str(key)) for key in list(read)[:5])
        raise ModelError(
            f"{source}: there is no tensor under a name in it (it has {keys or 'nothing'}); save model.state_dict()"
        )
    return groups


def beside_weights(path: str) -> Mapping[Any, Any]:
    """What a file says beside its tensors, its metadata if it is a .safetensors file; empty if it says nothing, or
    cannot be read, which is told by who loads the weights. The file that was read last is not read again.
    """
    global _last
    try:
        if path.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                return dict(file.metadata() or {})
        identity, last = _identity(path), _last
        if last is not None and last[0] == identity:
            return last[1]
        read = _torch_file(path)
        found = _without_tensors(read) if isinstance(read, Mapping) else {}
        _last = identity, found
        return found
    except Exception:  # whatever the file is
        return {}


def _safetensors(path: str, source: str) -> State:
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as error:
        raise ModelError(
            f"{source} cannot be read ({first_line(error)}); it must be a complete .safetensors file"
        ) from error


def _torch_file(path: str) -> Any:
    import torch

    with torch.serialization.safe_globals([Namespace]):  # what scripts keep their flags in: a class without code
        try:  # from the disk comes only what is looked at, so an optimiser's share never
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of before torch 1.6
            return torch.load(path, map_location="cpu", weights_only=True)


def _why(path: str, error: Exception) -> str:
    """Why it cannot be read, and how to make a file of its weights that can."""
    import torch

    if "TorchScript" in str(error):
        return (
            "it is a TorchScript archive, which is a program; save its weights alone: "
            f"torch.save(torch.jit.load({path!r}).state_dict(), 'weights.pth')"
        )
    try:
        with torch.serialization.safe_globals([Namespace]):
            foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a broken file, or one of before torch 1.6
        foreign = []
    if not foreign:
        return f"{first_line(error)}; it must be a complete file of tensors and plain values (save model.state_dict())"
    return (
        f"it holds objects of {', '.join(shown(name) for name in foreign[:5])}"
        f"{f' and {len(foreign) - 5} more' if len(foreign) > 5 else ''}, whose code would have to run. If you trust "
        "the file, save its weights alone, once, where these classes are installed: "
        f"c = torch.load({path!r}, weights_only=False); torch.save(c['state_dict'], 'weights.pth') (or c['model'], or "
        "c.state_dict() of a whole model)"
    )


def _collect(mapping: Mapping[Any, Any], place: tuple[str, ...], groups: dict[str, State]) -> None:
    import torch

    state = {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if state:
        groups[".".join(place)] = state
    if len(place) == _DEEPEST:
        return
    for key, value in mapping.items():
        if isinstance(key, str) and isinstance(value, Mapping) and not key.lower().startswith("optim"):
            _collect(value, (*place, key), groups)


def _without_tensors(value: Mapping[Any, Any], depth: int = 3) -> dict[Any, Any]:
    """Its plain values, so that nobody holds tensors because of them."""
    import torch

    kept: dict[Any, Any] = {}
    for key, one in value.items():
        if isinstance(one, Mapping):
            if depth:
                kept[key] = _without_tensors(one, depth - 1)
        elif not isinstance(one, torch.Tensor) and not (
            isinstance(one, list | tuple) and any(isinstance(part, torch.Tensor | Mapping) for part in one)
        ):
            kept[key] = one
    return kept


def _identity(path: str) -> tuple[Any, ...]:
    about = Path(path).stat()
    return str(Path(path).absolute()), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
