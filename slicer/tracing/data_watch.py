"""Follow the content of an input through a model that runs, and refuse what a fixed program for all inputs cannot be.

A value is *data* if it depends on the input's content; shapes, dtypes and devices are not data, neither are weights,
buffers and constants. Two things make a model's answer depend on more than the tensor operations that a trace records:
reading data as Python values (``if x.max() > 1``), and using data of an earlier call. `Watch` sees both, in the model's
own code as well as inside of units, because it looks at every operator that runs. A model that runs without either does
the same operations for every input of that shape.
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from slicer.tracing.value_proxy import TraceError

_ATEN = torch.ops.aten

#: Operators that take nothing but shape, dtype and device from their argument.
_LIKE = {
    *(_ATEN.zeros_like, _ATEN.ones_like, _ATEN.empty_like, _ATEN.full_like, _ATEN.rand_like, _ATEN.randn_like),
    *(_ATEN.new_zeros, _ATEN.new_ones, _ATEN.new_empty, _ATEN.new_full, _ATEN.new_empty_strided),
}

#: Operators that hand values to Python, or raise by them, and that torch has no tag for.
_READERS = {_ATEN.equal, _ATEN.is_nonzero, _ATEN._assert_async, _ATEN._assert_scalar}

#: Where only some arguments decide over the shape of the result: which ones.
_SHAPE_FROM: Mapping[Any, Callable[..., Iterable[Any]]] = {
    _ATEN.index: lambda self, indices: (i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)),
    _ATEN.masked_select: lambda self, mask, **_: (mask,),
    _ATEN.repeat_interleave: lambda repeats, **_: (repeats,),
    _ATEN.one_hot: lambda self, num_classes=-1: (self,) if num_classes == -1 else (),
    _ATEN.bincount: lambda self, weights=None, minlength=0: (self,),
}

#: Methods of tensors that hand values to Python behind the operators' back.
_METHODS = ("tolist", "numpy", "__array__", "__dlpack__", "__repr__", "__reduce_ex__", "__deepcopy__")


_LIBRARY = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}")
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep

_ONE_AT_A_TIME = threading.RLock()


class DataUse(TraceError):
    """The model reads data, or uses data of an earlier call. The message says where."""


def data_use(module: nn.Module, what: str) -> str:
    """The message for a model that is not one fixed program."""
    return (
        f"{type(module).__name__} cannot be sliced: {what}. Slices are one program for all inputs, and strangers share "
        "a batch: let tensor operations decide row by row (torch.where), do it before the model, or return it instead "
        "of keeping it"
    )


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches one module, over several calls of `run` in turn.

    Attributes:
        dtypes: of all floating-point data that was seen.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._module = module
        self._paths = {id(part): path for path, part in module.named_modules()}
        # A storage's address is not used again while a weak reference to it lives.
        self._data: dict[int, tuple[StorageWeakRef, int]] = {}
        self._calls = 0
        self._found: DataUse | None = None
        self._may_read = False
        self.dtypes: set[torch.dtype] = set()

    def run(self, x: torch.Tensor) -> Any:
        """``module(x)`` without gradients; `x` is not changed.

        Raises:
            DataUse: also where the model's own code swallows it. Otherwise whatever the model raises.
        """
        self._calls += 1
        value = x.clone()
        self._mark(value)
        with _methods_watched(self):
            try:
                with torch.no_grad(), self:
                    result = self._module(value)
            except Exception:
                if self._found is not None:
                    raise self._found from None
                raise
        if self._found is not None:
            raise self._found
        return result

    def is_data(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` depends on the content of the input of any call so far."""
        return self._age(tensor) is not None

    @contextmanager
    def reading_allowed(self) -> Iterator[None]:
        """Inside, values may be read: they decide nothing."""
        self._may_read = True
        try:
            yield
        finally:
            self._may_read = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        data = False
        for tensor in _tensors((args, kwargs)):
            age = self._age(tensor)
            if age is not None:
                data = True
                if age != self._calls:
                    self._refuse("uses what it kept from the input of an earlier call")
        kind = func.overloadpacket
        if not data or kind in _LIKE:
            return func(*args, **kwargs)
        if not self._may_read and self._reads(func, args, kwargs):
            self._refuse("reads values that depend on the content of its input")
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._mark(tensor)
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args):  # noqa: B905 - the rest have defaults
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for tensor in _tensors(value):
                        self._mark(tensor)
        return result

    def _reads(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        kind = func.overloadpacket
        if kind in _READERS or torch.Tag.data_dependent_output in func.tags:
            return True
        if torch.Tag.dynamic_output_shape in func.tags:
            decide = _SHAPE_FROM.get(kind)
            return decide is None or any(self._age(t) is not None for t in _tensors(tuple(decide(*args, **kwargs))))
        return False

    def _mark(self, tensor: torch.Tensor) -> None:
        if tensor.is_floating_point():
            self.dtypes.add(tensor.dtype)
        storage = _storage(tensor)
        if storage is not None and self._data.get(storage._cdata, (None, 0))[1] != self._calls:
            self._data[storage._cdata] = (StorageWeakRef(storage), self._calls)  # type: ignore[no-untyped-call]

    def _age(self, tensor: torch.Tensor) -> int | None:
        """The call whose input `tensor` depends on, None if it is no data."""
        storage = _storage(tensor)
        if storage is None or storage._cdata not in self._data:
            return None
        return self._data[storage._cdata][1]

    def _refuse(self, does: str) -> None:
        self._found = self._found or DataUse(f"{self._where()} {does}")
        raise self._found

    def _where(self) -> str:
        """The innermost module and line that are neither torch's nor ours."""
        frame: FrameType | None = sys._getframe(1)
        path: str | None = None
        line = ""
        while frame is not None and frame.f_code is not Watch.run.__code__:
            owner = self._paths.get(id(frame.f_locals.get("self")))
            if path is None:
                path = owner
            file = frame.f_code.co_filename
            if not line and not _is_library(file):
                source = linecache.getline(file, frame.f_lineno, frame.f_globals).strip()
                line = f" at {file}:{frame.f_lineno}" + (f", `{source}`," if source else "")
            frame = frame.f_back
        kind = type(self._module).__name__
        return (f"its module {path!r}" if path else f"the forward of {kind}") + line


def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARY) or (file.startswith(_STANDARD_LIBRARY) and "site-packages" not in file)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    try:
        return torch._C.TensorBase.untyped_storage(tensor)
    except (NotImplementedError, RuntimeError):  # sparse and mkldnn tensors have none
        return None


@contextmanager
def _methods_watched(watch: Watch) -> Iterator[None]:
    """While the ``with`` block runs, tensors' own methods that hand out values are looked at, on this thread.

    A TorchFunctionMode would see them as well, but torch's attention takes another path while one is active.
    """
    thread = threading.get_ident()
    busy = False

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if threading.get_ident() == thread and not busy and watch.is_data(self):
                busy = True  # naming the place may look at tensors as well
                try:
                    watch._refuse("reads values that depend on the content of its input")
                finally:
                    busy = False
            return original(self, *args, **kwargs)

        return call

    one_hot = torch.nn.functional.one_hot

    def checked_one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
        """torch's own checks its argument's range, which decides nothing where the number of classes is given."""
        if threading.get_ident() != thread or num_classes < 0:
            return one_hot(tensor, num_classes)
        with watch.reading_allowed():
            return one_hot(tensor, num_classes)

    with _ONE_AT_A_TIME:
        torch.nn.functional.one_hot = checked_one_hot
        own = {name: vars(torch.Tensor).get(name) for name in _METHODS}
        for name in _METHODS:
            setattr(torch.Tensor, name, watched(getattr(torch.Tensor, name)))
        try:
            yield
        finally:
            torch.nn.functional.one_hot = one_hot
            for name, original in own.items():
                if original is None:
                    delattr(torch.Tensor, name)
                else:
                    setattr(torch.Tensor, name, original)
