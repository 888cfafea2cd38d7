"""Where a model may be cut: between two units, where exactly one tensor with one row per image crosses."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from slicer.tracing.traced_graph import Traced, batch_shape


@dataclass(frozen=True)
class Boundary:
    """A place where one activation crosses.

    Attributes:
        index: 0-based, in the order of execution.
        name: the unit that ends here: its path in the model, or what the model's own forward does there ("cat").
            Unique in the model; "#2" and so on where the same unit runs again.
        shape: of the activation, without the batch dimension.
        dtype: torch's name, such as "float32".
        nbytes: of one activation as it is, before any codec.
        block: number of the block that ends here, None if it is no block.
        flops: of one row, from the input up to here.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    block: int | None
    flops: float


@dataclass(frozen=True)
class Crossing:
    """A boundary, its node, and the data nodes between the boundary before and this one."""

    boundary: Boundary
    node: fx.Node
    body: tuple[fx.Node, ...]


def find_crossings(module: nn.Module, traced: Traced) -> tuple[Crossing, ...]:
    """All places to cut, in order of execution; the last one is no boundary but the model's output."""
    blocks = _block_numbers(module, traced)
    seen: Counter[str] = Counter()
    order = [node for node in traced.nodes if node in traced.data]
    last_use = _last_uses(traced, order)
    crossings: list[Crossing] = []
    live = {order[0]}
    body: list[fx.Node] = []
    flops = sum(node.meta["flops"] for node in traced.nodes if node not in traced.data)
    pending: fx.Node = order[0]
    for position, node in enumerate(order[1:], start=1):
        body.append(node)
        flops += node.meta["flops"]
        live.add(node)
        live = {value for value in live if last_use.get(value, -1) > position}
        is_last = position == len(order) - 1
        if not is_last and (len(live) != 1 or not _can_cross(module, next(iter(live)))):
            continue
        (crossing,) = (traced.result,) if is_last else tuple(live)
        if not is_last and (crossing is pending or crossing is traced.result):
            continue
        pending = crossing
        value, _ = crossing.meta["values"]
        shape = batch_shape(crossing)
        assert shape is not None, f"{crossing.name} has no batch dimension"
        boundary = Boundary(
            index=len(crossings),
            name=_unit_name(_unit_of(module, crossing), seen),
            shape=shape,
            dtype=str(value.dtype).removeprefix("torch."),
            nbytes=value[0].numel() * value.element_size(),
            block=blocks.get(_unit_of(module, crossing)),
            flops=flops,
        )
        crossings.append(Crossing(boundary, crossing, tuple(body)))
        body = []
    return tuple(crossings)


def _last_uses(traced: Traced, order: list[fx.Node]) -> dict[fx.Node, int]:
    """For each data node the position of its last reader; the result is read after everything."""
    last: dict[fx.Node, int] = {}
    for position, node in enumerate(order):
        for argument in node.all_input_nodes:
            if argument in traced.data:
                last[argument] = position
    last[traced.result] = len(order)
    return last


def _can_cross(module: nn.Module, node: fx.Node) -> bool:
    value, _ = node.meta["values"]
    if batch_shape(node) is None or not value.is_floating_point():
        return False
    if node.op == "call_module":
        # Units that do nothing here would only offer the boundary before them once more.
        unit = module.get_submodule(str(node.target))
        return not isinstance(unit, (nn.Identity, nn.Dropout)) and not type(unit).__name__.startswith("DropPath")
    return node.op != "placeholder"


def _block_numbers(module: nn.Module, traced: Traced) -> dict[fx.Node, int]:
    """Blocks: units that stand in a list and whose class runs at least twice, numbered in the order they run."""
    candidates = []
    for node in traced.nodes:
        if node.op == "call_module" and str(node.target).rpartition(".")[2].isdecimal():
            unit = module.get_submodule(str(node.target))
            if not type(unit).__module__.startswith("torch.nn.") and any(True for _ in unit.parameters()):
                candidates.append((node, type(unit)))
    uses = Counter(kind for _, kind in candidates)
    blocks = [node for node, kind in candidates if uses[kind] > 1]
    return {node: number for number, node in enumerate(blocks)}


def _unit_of(module: nn.Module, node: fx.Node) -> fx.Node:
    """The unit that returned `node` in a tuple or dict; else the node itself.

    Of timm's units the node itself, too: exports name their boundaries so.
    """
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return node
    unit = node.args[0]
    held = unit.op == "call_module" and isinstance(unit.meta["values"][0], (tuple, list, dict))
    if not held or type(module.get_submodule(str(unit.target))).__module__.startswith("timm."):
        return node
    return unit


def _unit_name(node: fx.Node, seen: Counter[str]) -> str:
    name = str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"
