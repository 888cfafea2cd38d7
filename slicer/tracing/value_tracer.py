"""A torch.fx tracer whose proxies carry example values, at two batch sizes at once.

Whatever is the same at both batch sizes (spatial sizes, lengths of lists, dtypes, most conditions) is handed to the
model's own code as a plain Python value, so loops, unpacking and comparisons work. Whatever differs depends on the
batch and stays symbolic; a model that decides something by it cannot be traced, instead of being traced wrongly.
"""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from slicer.core.common.error_text import named_line
from slicer.tracing.containers import Containers
from slicer.tracing.factories import recorded_factories
from slicer.tracing.flop_counter import FlopCounter
from slicer.tracing.tensors import named_tensors, version
from slicer.tracing.value_proxy import Sizes, TraceError, ValueProxy

#: The example batch sizes. Primes, so that no size of a model is a multiple of both by chance.
BATCHES: tuple[int, int] = (5, 7)

#: Tracing patches torch.nn.Module for the whole process (other threads run on undisturbed, see `ValueTracer.off`).
_ONE_AT_A_TIME = threading.RLock()

#: Methods that make Python values of a tensor's values.
_READERS = ("item", "tolist", "is_nonzero", "equal", "allclose")


@dataclass(frozen=True)
class Read:
    """A number, or a list of them, that forward read out of weights; `weights` names these."""

    weights: str
    value: Any


_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.layout, torch.memory_format, slice)


class ValueTracer(fx.Tracer):
    """Records a module's forward down to its units (see `Containers`); every other argument keeps its default.

    Args:
        input_shape: shape of one input, without the batch dimension.
        dtype: the input's dtype.
        device: where the example runs; on ``meta`` nothing is computed.
        allow_constants: keep tensors that forward makes by means that the graph cannot show. On a meta copy of a model
            their values would be lost.
        reads: what another trace of this model read; it is taken instead of the values of `module`'s own weights.

    Attributes:
        reads: numbers that forward read out of weights and buffers, in order, each with the names of these.
        failures: containers that were kept whole because tracing into them failed: path and reason.
        constants: tensors made in forward, by the name their get_attr node has.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        allow_constants: bool,
        reads: Sequence[Read] | None = None,
    ) -> None:
        super().__init__(autowrap_functions=())
        self._allow_constants = allow_constants
        self._device = device
        self._inputs = [torch.zeros(batch, *input_shape, dtype=dtype, device=device) for batch in BATCHES]
        if device.type != "meta":
            generator = torch.Generator().manual_seed(0)
            for value in self._inputs:
                value.copy_(torch.randn(value.shape, generator=generator))
        self.module = module
        self._modules = dict(module.named_modules())
        self._containers = Containers(module)
        self._tensors = named_tensors(module)
        self._names = {id(tensor): name for name, tensor in reversed(self._tensors.items())}
        self._evaluating = False
        self._thread = threading.get_ident()
        self.reads: list[Read] = []
        self._replayed = None if reads is None else iter(reads)
        self.failures: dict[str, str] = {}
        self.constants: dict[str, torch.Tensor] = {}

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """The graph of `root`'s forward; every node's meta holds `values`, `flops` (per row) and `version`."""
        with _ONE_AT_A_TIME, torch.no_grad(), recorded_factories(self._made):
            return super().trace(root, concrete_args)

    @property
    def off(self) -> bool:
        """True while an example is computed, and on other threads: what runs then is not the model's own code."""
        return self._evaluating or threading.get_ident() != self._thread

    def _made(self, factory: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.off:
            return factory(*args, **kwargs)
        return self.create_proxy("call_function", factory, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """One placeholder, the image batch."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers become get_attr nodes as soon as they are touched, so that none is baked in."""
        if self.off or not isinstance(attr_val, torch.Tensor):
            return attr_val
        return self.create_proxy("get_attr", self._name_of(attr_val), (), {})

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A unit becomes one node; a container is traced through, or kept whole where that fails."""
        if self.off:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if m in self._containers:
            before = len(self.graph.nodes)
            try:
                return forward(*args, **kwargs)
            except Exception as error:
                self.failures.setdefault(path, named_line(error))
                for node in list(self.graph.nodes)[: before - 1 : -1]:
                    self.graph.erase_node(node)
        return self.create_proxy("call_module", path, args, kwargs)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Record one node, compute its two values, and return what the model's code shall see of it."""
        node = self.create_node(
            kind, target, self.create_arg(tuple(args)), self.create_arg(dict(kwargs)), name, type_expr
        )
        try:
            node.meta["values"], node.meta["flops"] = self._evaluate(node)
        except Exception:
            self.graph.erase_node(node)
            raise
        value = node.meta["values"][0]
        node.meta["version"] = version(value)
        return self._seen(node)

    def number(self, node: fx.Node, value: Any, convert: Callable[[Any], Any]) -> Any:
        """``convert(value)``, for a value of `node`: what a tensor is converted to is remembered, or replayed.

        Both example batches see the same number, so it is remembered once.
        """
        if not isinstance(value, torch.Tensor):
            return convert(value)
        read = node.meta.setdefault("reads", {})
        what = getattr(convert, "__name__", str(convert))
        if what not in read:
            read[what] = self._replay(node) if self._replayed is not None else convert(value)
            if self._replayed is None:
                self.reads.append(Read(self._weights_of(node), read[what]))
        return read[what] if self._replayed is not None else convert(value)

    def _replay(self, node: fx.Node) -> Any:
        weights = self._weights_of(node)
        found = next(self._replayed or iter(()), None)
        if found is None or found.weights != weights:
            said = "nothing" if found is None else f"a number of {found.weights}"
            raise TraceError(f"forward reads a number of {weights}, where the export read {said}")
        return found.value

    def _weights_of(self, node: fx.Node) -> str:
        """Names of the parameters and buffers that a node is computed from."""
        found, todo, seen = set(), [node], set()
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += one.all_input_nodes
                if one.op == "get_attr":
                    found.add(str(one.target))
        return ", ".join(sorted(found)) or "a constant"

    def create_arg(self, a: Any) -> Any:
        """Proxies to their nodes, tensors to get_attr nodes."""
        if isinstance(a, fx.Node):
            return a
        if isinstance(a, ValueProxy):
            if a.tracer is not self:
                raise TraceError("forward uses what it kept from an earlier call")
            return a.node
        if isinstance(a, torch.Tensor):
            return self.create_proxy("get_attr", self._name_of(a), (), {}).node
        if isinstance(a, Sizes):
            return tuple(self.create_arg(size) for size in a)
        return super().create_arg(a)

    def _name_of(self, tensor: torch.Tensor) -> str:
        name = self._names.get(id(tensor))
        if name is None:
            if not self._allow_constants:
                raise TraceError("forward makes a tensor whose values only the real weights give")
            name = f"constant_{len(self.constants)}_"
            self.constants[name] = self._tensors[name] = tensor
            self._names[id(tensor)] = name
        return name

    def _evaluate(self, node: fx.Node) -> tuple[tuple[Any, Any], float]:
        values = []
        counter = FlopCounter()
        self._evaluating = True
        try:
            with torch.device("meta") if self._device.type == "meta" else nullcontext():
                for i, example in enumerate(self._inputs):
                    args, kwargs = _with_values(node.args, i), _with_values(node.kwargs, i)
                    with counter if i == 0 else nullcontext():
                        values.append(self._run_or_read(node, args, kwargs, example))
        finally:
            self._evaluating = False
        return (values[0], values[1]), counter.flops / BATCHES[0]

    def _run_or_read(self, node: fx.Node, args: Any, kwargs: Any, example: torch.Tensor) -> Any:
        """The node's value; one that makes numbers of a tensor is a read."""
        if node.op == "call_method" and node.target in _READERS and isinstance(args[0], torch.Tensor):
            return self.number(node, args[0], lambda tensor: getattr(tensor, str(node.target))(*args[1:], **kwargs))
        return self._run(node.op, node.target, args, kwargs, example)

    def _run(self, op: str, target: Any, args: Any, kwargs: Any, example: torch.Tensor) -> Any:
        if op == "placeholder":
            return example
        if op == "get_attr":
            return self._tensors[target]
        if op == "call_module":
            return self._modules[target](*args, **kwargs)
        if op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    def _seen(self, node: fx.Node) -> Any:
        """What the model's code gets for `node`: plain values, or containers of proxies, or a proxy."""
        first, second = node.meta["values"]
        if type(first) is not type(second):
            raise TraceError(f"the batch size decides over the type of {node.name!r}")
        if isinstance(first, _PLAIN) and first == second:
            return first
        if isinstance(first, (tuple, list)):
            if len(first) != len(second):
                raise TraceError(f"the batch size decides over the length of {node.name!r}")
            items = [self.create_proxy("call_function", operator.getitem, (node, i), {}) for i in range(len(first))]
            if isinstance(first, torch.Size):
                return Sizes(items)
            return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
        if isinstance(first, dict):
            return self._seen_dict(node, first)
        return ValueProxy(node, self)

    def _seen_dict(self, node: fx.Node, first: dict[Any, Any]) -> Any:
        """A dict of the same class; what it keeps in attributes as well, such as fields of a dataclass, goes along."""
        items = {key: self.create_proxy("call_function", operator.getitem, (node, key), {}) for key in first}
        if type(first) is dict:
            return items
        # Not by the class's own means: transformers' outputs refuse most of them.
        seen = type(first).__new__(type(first))
        put = OrderedDict.__setitem__ if isinstance(first, OrderedDict) else dict.__setitem__
        by_id = {}
        for key, item in items.items():
            put(seen, key, item)
            by_id[id(dict.__getitem__(first, key))] = item
        for name, value in getattr(first, "__dict__", {}).items():
            vars(seen)[name] = by_id.get(id(value), value)
        return seen


def _with_values(argument: Any, i: int) -> Any:
    """`argument` with values instead of nodes, in plain lists and dicts: some units change the list they are given."""
    if isinstance(argument, fx.Node):
        return argument.meta["values"][i]
    if isinstance(argument, (tuple, list)):
        items = [_with_values(item, i) for item in argument]
        return items if isinstance(argument, list) else tuple(items)
    if isinstance(argument, dict):
        return {key: _with_values(value, i) for key, value in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_with_values(part, i) for part in (argument.start, argument.stop, argument.step)))
    return argument
