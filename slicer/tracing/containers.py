"""Where a model's units are: which of its modules hold others to trace into, and which are one unit."""

from __future__ import annotations

from collections import Counter

from torch import nn


class Containers:
    """Which modules of a model to trace into; each of the others is one unit.

    timm's modules are known by the names of their parts, so that the names of their boundaries stay what they are. In
    anyone else's, structure decides: whatever holds a list of units somewhere, unless it is one of several of its kind
    in such a list, which makes it a block.
    """

    def __init__(self, root: nn.Module) -> None:
        self._repeated = {id(item) for part in root.modules() for item in _repeated(part)}

    def __contains__(self, module: nn.Module) -> bool:
        kind, home = type(module).__name__, type(module).__module__
        if isinstance(module, nn.Sequential) or kind.endswith("Stage") or kind == "BasicLayer":
            return True
        if isinstance(module, (nn.TransformerEncoder, nn.DataParallel)):
            return True
        if home.startswith("torch.nn."):
            return False
        if any(_has_blocks(child) for child in module.modules()):
            return True
        if home.startswith("timm."):
            return hasattr(module, "pretrained_cfg") or hasattr(module, "default_cfg")  # a whole model in another's
        return id(module) not in self._repeated and any(_holds_units(child) for child in module.modules())


def _repeated(module: nn.Module) -> list[nn.Module]:
    """The items of a list that are not the only one of their class."""
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        return []
    kinds = Counter(type(item) for item in module)
    return [item for item in module if kinds[type(item)] > 1]


def _holds_units(module: nn.Module) -> bool:
    """Whether `module` has a list of at least two items with weights."""
    return any(
        isinstance(child, (nn.Sequential, nn.ModuleList))
        and sum(next(item.parameters(), None) is not None for item in child) > 1
        for child in module.children()
    )


def _has_blocks(module: nn.Module) -> bool:
    return any(
        name in ("blocks", "layers", "stages") and isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child) > 0
        for name, child in module.named_children()
    )
