"""From a module to a clean graph of its units, and from a piece of that graph back to a module.

A node is *data* if its value depends on the content of the input. All other nodes (position embeddings, rotary tables,
sizes, devices) never cross a boundary: each span computes those that it needs again, from the shared weights and from
the batch size of its own input.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from slicer.errors import CutError, NotSliceable
from slicer.tracing.data_watch import DataUse, Watch, data_use
from slicer.tracing.module_state import snapshot
from slicer.tracing.tensors import named_tensors, version
from slicer.tracing.value_proxy import IN_PLACE_OPERATORS
from slicer.tracing.value_tracer import BATCHES, Read, ValueTracer


@dataclass(frozen=True)
class Traced:
    """A module's graph.

    Attributes:
        nodes: all living nodes, in the order of execution; the placeholder first, without the output node.
        data: the nodes among them whose value depends on the input's content.
        result: the node whose value the module returns.
        input_shape: without the batch dimension.
        failures: containers that were kept as one unit, and why.
        constants: tensors that the forward pass makes and that are in no module; `build_span` needs them.
        reads: numbers that the forward pass read out of weights, in order.
    """

    nodes: tuple[fx.Node, ...]
    data: frozenset[fx.Node]
    result: fx.Node
    input_shape: tuple[int, ...]
    failures: Mapping[str, str]
    constants: Mapping[str, torch.Tensor]
    reads: tuple[Read, ...] = ()


def trace(
    module: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype, reads: Sequence[Read] | None = None
) -> Traced:
    """Trace `module` (eval mode). Nothing is computed where that can be avoided, so large models are no burden.

    Args:
        reads: of another trace of this model, for a module that has not its weights.

    Raises:
        NotSliceable: the forward pass cannot be expressed as a graph with a free batch size; says why.
    """
    device = next((tensor.device for tensor in named_tensors(module).values()), torch.device("cpu"))
    try:
        if device.type == "meta":
            restore = snapshot(module)  # units may remember what they ran on, and then differ from a new one
            try:
                tracer = ValueTracer(module, input_shape, dtype, device, allow_constants=True, reads=reads)
                graph = tracer.trace(module)
            finally:
                restore()
        else:
            tracer, graph = _trace_with_weights(module, input_shape, dtype, device, reads)
    except DataUse as error:
        raise NotSliceable(data_use(module, str(error))) from error
    except Exception as error:
        raise NotSliceable(
            f"{type(module).__name__} cannot be sliced: {type(error).__name__} while its forward pass was recorded for "
            f"inputs of shape {input_shape}: {str(error).strip() or 'no message'}. If its inputs have another shape, "
            "say so: --img-size or kwargs of the model (img_size, in_chans), or input_shape of slice_model"
        ) from error
    return _clean(module, graph, tracer, input_shape)


def _trace_with_weights(
    module: nn.Module,
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    reads: Sequence[Read] | None,
) -> tuple[ValueTracer, fx.Graph]:
    """Try a copy on meta first. Some models look at values while they run: those are traced with their weights."""
    meta = torch.device("meta")
    try:
        tracer = ValueTracer(meta_twin(module), input_shape, dtype, meta, allow_constants=False, reads=reads)
        return tracer, tracer.trace(tracer.module)
    except Exception:
        restore = snapshot(module)
        try:
            _refuse_data_use(module, torch.zeros(BATCHES[0], *input_shape, dtype=dtype, device=device))
            tracer = ValueTracer(module, input_shape, dtype, device, allow_constants=True, reads=reads)
            return tracer, tracer.trace(module)
        finally:
            restore()


def _refuse_data_use(module: nn.Module, x: torch.Tensor) -> None:
    """On meta nothing can be read; here an input's content could, and the trace would hold for such inputs only."""
    try:
        Watch(module).run(x)
    except DataUse:
        raise
    except Exception:  # the trace will say it
        return


def takes(module: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Whether `module` runs on inputs of that shape, as far as can be seen without computing anything."""
    try:
        with torch.no_grad(), torch.device("meta"):
            meta_twin(module)(torch.empty(2, *input_shape))
    except Exception:  # whatever a model raises for a shape that it does not take
        return False
    return True


def meta_twin(module: nn.Module) -> nn.Module:
    """A copy of `module` whose tensors have shapes but no values, made without copying any weight."""
    memo: dict[int, Any] = {}
    for tensor in named_tensors(module).values():
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)


def _clean(module: nn.Module, graph: fx.Graph, tracer: ValueTracer, input_shape: tuple[int, ...]) -> Traced:
    """Drop what the output does not need, and tell data from the rest."""
    (result,) = next(node for node in graph.nodes if node.op == "output").args
    if not (isinstance(result, fx.Node) and batch_shape(result) is not None):
        raise NotSliceable(
            f"{type(module).__name__} cannot be sliced: it returns {_describe(result)}; wrap it in a module that "
            "returns one tensor with a row per image"
        )
    order = [node for node in graph.nodes if node.op != "output"]
    data = _data_nodes(order)
    living = {order[0], result}
    for node in reversed(order):
        if node in living or (changes_in_place(node) and node in data):
            living.update((node, *node.all_input_nodes))
    return Traced(
        nodes=tuple(node for node in order if node in living),
        data=frozenset(data & living),
        result=result,
        input_shape=input_shape,
        failures=dict(tracer.failures),
        constants=dict(tracer.constants),
        reads=tuple(tracer.reads),
    )


def _describe(result: object) -> str:
    if isinstance(result, fx.Node):
        first, _ = result.meta["values"]
        return (
            f"a tensor of shape {tuple(first.shape)} for {BATCHES[0]} images"
            if hasattr(first, "shape")
            else "no tensor"
        )
    return f"a {type(result).__name__}"


def batch_shape(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of one row, if `node` holds a tensor whose first dimension is the batch and no other is; else None."""
    first, second = node.meta["values"]
    if not (isinstance(first, torch.Tensor) and first.ndim > 0 and first.shape[1:] == second.shape[1:]):
        return None
    return tuple(first.shape[1:]) if (first.shape[0], second.shape[0]) == BATCHES else None


def changes_in_place(node: fx.Node) -> bool:
    """Whether the node's purpose is to overwrite its first argument."""
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        return (
            node.target is operator.setitem
            or node.target in IN_PLACE_OPERATORS
            or bool(node.kwargs.get("inplace"))
            or (name.endswith("_") and not name.endswith("__"))
        )
    return False


def _data_nodes(order: Sequence[fx.Node]) -> set[fx.Node]:
    data = {order[0]}
    while True:
        for node in order:
            if _is_data(node, data):
                data.add(node)
        # A tensor into which data is written is data from its creation on, and so is whatever it is a view of.
        written = {
            target
            for node in order
            if changes_in_place(node)
            for target in _ancestors(node.args[0])
            if target.op not in ("get_attr", "placeholder")
        }
        if written <= data:
            return data
        data |= written


def _is_data(node: fx.Node, data: set[fx.Node]) -> bool:
    value, _ = node.meta["values"]
    if isinstance(value, (torch.Size, torch.device)) or batch_multiple(node) is not None:
        return False
    # A size that is no multiple of the batch size can only be read off its own tensor.
    return any(n in data or isinstance(n.meta["values"][0], torch.Size) for n in node.all_input_nodes)


def _ancestors(argument: object) -> set[fx.Node]:
    """The node and all that it is computed from, as far as their values are tensors."""
    found: set[fx.Node] = set()
    todo = [argument]
    while todo:
        node = todo.pop()
        if isinstance(node, fx.Node) and node not in found and isinstance(node.meta["values"][0], torch.Tensor):
            found.add(node)
            todo.extend(node.all_input_nodes)
    return found


def batch_multiple(node: fx.Node) -> int | None:
    """c, if the node's value is the int c * batch size; else None."""
    first, second = node.meta["values"]
    if not isinstance(first, int) or isinstance(first, bool) or first == second:
        return None
    factor = first // BATCHES[0]
    return factor if (factor * BATCHES[0], factor * BATCHES[1]) == (first, second) else None


def must_have_shape(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`x`, unchanged. Raises CutError unless its rows have `shape`: sizes inside of a span hold for that one only."""
    if isinstance(x, torch.Tensor) and tuple(x.shape[1:]) != tuple(shape):
        raise CutError(
            f"a span takes rows of shape {tuple(shape)}, not {tuple(x.shape[1:])}; slice the model with the "
            "input_shape that it shall run with"
        )
    return x


def build_span(
    module: nn.Module, traced: Traced, start: fx.Node, body: Sequence[fx.Node], end: fx.Node
) -> fx.GraphModule:
    """A module that computes `end` from `start` by running the data nodes `body`; it shares `module`'s weights."""
    graph = fx.Graph()
    shape = batch_shape(start)
    source = graph.call_function(must_have_shape, (graph.placeholder("x"), shape))
    # Some units overwrite their input (ReLU(inplace=True)). The caller's tensor must survive.
    env: dict[fx.Node, Any] = {start: graph.call_method("clone", (source,)) if overwritten(start) else source}
    batch: list[fx.Node] = []

    def get(node: fx.Node) -> Any:
        if node in env:
            return env[node]
        factor = batch_multiple(node)
        if factor is not None:
            if not batch:
                batch.append(graph.call_method("size", (source, 0)))
            env[node] = batch[0] if factor == 1 else graph.call_function(operator.mul, (batch[0], factor))
        elif isinstance(node.meta["values"][0], torch.device):
            env[node] = graph.call_function(getattr, (source, "device"))
        else:
            assert node not in traced.data, f"{node.name} is computed before this span"
            env[node] = graph.node_copy(node, get)
        return env[node]

    for node in body:
        env[node] = graph.node_copy(node, get)
    graph.output(get(end))
    for copied in graph.nodes:
        copied.meta.clear()
    return _graph_module(module, traced, graph)


def overwritten(node: fx.Node) -> bool:
    """Whether anything wrote into the node's tensor after it was made (on the example that was traced)."""
    value, _ = node.meta["values"]
    return bool(version(value) != node.meta["version"])


def _graph_module(module: nn.Module, traced: Traced, graph: fx.Graph) -> fx.GraphModule:
    persistent = set(module.state_dict(keep_vars=True))
    for name, constant in traced.constants.items():
        if not hasattr(module, name):
            module.register_buffer(name, constant, persistent=False)
    span = fx.GraphModule(module, graph)
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in persistent:
            path, _, field = node.target.rpartition(".")
            span.get_submodule(path)._non_persistent_buffers_set.add(field)
    return span.eval()
