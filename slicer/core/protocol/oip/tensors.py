"""What an inference request and its response hold, however they travel. Nothing of a peer is trusted here."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...common.error_text import shown
from ...errors import BadRequestError

Buffer = bytes | bytearray | memoryview

# The dataclasses here are not frozen, since making a frozen one takes four times as long; nobody changes them all the
# same.

#: What the protocol allows as the value of a parameter.
Parameter = bool | int | float | str

#: Names of the protocol -> numpy's, little-endian. BF16 has none: it travels as raw bytes only.
DATATYPES: Mapping[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}

#: Bytes of one element; BYTES has no fixed size.
ITEM_BYTES: Mapping[str, int] = {**{name: np.dtype(kind).itemsize for name, kind in DATATYPES.items()}, "BF16": 2}

#: Far above what devices send, far below what hurts.
MAX_DIMS, MAX_DIM = 8, 1 << 31
MAX_TEXT = 4096
MAX_TENSORS = 16
MAX_PARAMETERS = 64
MAX_VALUES = 1 << 18  # that are not raw bytes, in and out: each is an object of Python's, some 140 ms all together
MAX_ELEMENTS = 1 << 16  # of BYTES: Python's object for each weighs more than an empty one takes in a body

_LENGTH = struct.Struct("<I")
_SINGLE = frozenset((bool, int, float, str))


@dataclass(slots=True)
class Tensor:
    """One input or output.

    Attributes:
        name: of the model's input or output.
        datatype: a key of `ITEM_BYTES`, or ``BYTES``.
        shape: with the batch dimension first.
        data: row-major, little-endian; of BYTES the elements, in order. A memoryview where it came in a larger body.
        parameters: of this tensor.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer | Sequence[Buffer]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def raw(self) -> Buffer:
        """As the binary extension has it: of BYTES each element after its length, four bytes little-endian."""
        if self.datatype != "BYTES":
            assert isinstance(self.data, (bytes, bytearray, memoryview))
            return self.data
        pieces: list[Buffer] = []
        for one in self.elements():
            pieces += (_LENGTH.pack(len(one)), one)
        return b"".join(pieces)

    def elements(self) -> Sequence[Buffer]:
        """Of BYTES. Raises BadRequestError: it is none."""
        if self.datatype != "BYTES" or isinstance(self.data, (bytes, bytearray, memoryview)):
            raise BadRequestError(f"tensor {self.name[:80]!r} has datatype {self.datatype}; it must be BYTES")
        return self.data

    def array(self) -> npt.NDArray[Any]:
        """Its numbers, ``shape``; a view of `data`. Raises BadRequestError: they are no numbers of numpy's."""
        kind = DATATYPES.get(self.datatype)
        if kind is None:
            raise BadRequestError(
                f"tensor {self.name[:80]!r} has datatype {self.datatype}; numbers are {', '.join(DATATYPES)}"
            )
        return np.frombuffer(self.data, kind).reshape(self.shape)  # type: ignore[arg-type]


@dataclass(slots=True)
class WantedOutput:
    """An output that the client names."""

    name: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(slots=True)
class InferRequest:
    """A request, of one row or several.

    Attributes:
        model: its name. version: as the client gave it; empty: any.
        id: the client's own; the response repeats it.
        outputs: empty: what the model gives by itself.
    """

    model: str
    inputs: Sequence[Tensor]
    outputs: Sequence[WantedOutput] = ()
    id: str = ""
    version: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(slots=True)
class InferResponse:
    """The response; its outputs in the order in which they were asked for."""

    model: str
    outputs: Sequence[Tensor]
    id: str = ""
    version: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def wrong(what: str, value: Any, want: str) -> BadRequestError:
    """An error that shows the value and says what it must be."""
    text = repr(value[:80]) if isinstance(value, str) else shown(value)  # however long it is, this takes no time
    return BadRequestError(f"{what} is {text[:80]}; it must be {want}")


def checked_text(what: str, value: Any, limit: int = MAX_TEXT) -> str:
    """Text of at most so many characters. Raises BadRequestError."""
    if not isinstance(value, str) or len(value) > limit:
        raise wrong(what, value, f"text of at most {limit} characters")
    return value


def checked_shape(what: str, dims: Any) -> tuple[int, ...]:
    """Dimensions from 0 on. Raises BadRequestError."""
    if not isinstance(dims, (list, tuple)) or len(dims) > MAX_DIMS:
        raise wrong(f"the shape of {what}", dims, f"a list of at most {MAX_DIMS} dimensions")
    for dim in dims:
        if type(dim) is not int or not 0 <= dim < MAX_DIM:
            raise wrong(f"the shape of {what}", dims, f"whole numbers from 0 to {MAX_DIM - 1}")
    return tuple(dims)


def checked_parameters(what: str, value: Any) -> dict[str, Parameter]:
    """A mapping of names to single values, the caller's own; absent: none. Raises BadRequestError."""
    if value is None:
        return {}
    if type(value) is not dict or len(value) > MAX_PARAMETERS:
        raise wrong(f"parameters of {what}", value, f"an object of at most {MAX_PARAMETERS} values")
    for name, one in value.items():
        if type(one) not in _SINGLE or (type(one) is str and len(one) > MAX_TEXT):
            raise wrong(f"parameter {name[:80]!r} of {what}", one, "true, false, a number or a short text")
    return value


def checked_datatype(what: str, value: Any) -> str:
    """A datatype of the protocol. Raises BadRequestError."""
    if not isinstance(value, str) or (value not in ITEM_BYTES and value != "BYTES"):
        raise wrong(f"the datatype of {what}", value, f"one of {', '.join(ITEM_BYTES)}, BYTES")
    return value


def tensor_of_raw(
    name: str, datatype: str, shape: tuple[int, ...], data: Buffer, parameters: Mapping[str, Parameter]
) -> Tensor:
    """A tensor from bytes as the binary extension has them; `data` is not copied.

    Raises:
        BadRequestError: another number of bytes than shape and datatype say.
    """
    count = math.prod(shape)  # of Python's integers, which do not overflow
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _split(name, memoryview(data), count), parameters)
    want = count * ITEM_BYTES[datatype]
    if len(data) != want:
        raise BadRequestError(
            f"input {name[:80]!r} has {len(data)} bytes; {datatype} of shape {list(shape)} has {want}"
        )
    return Tensor(name, datatype, shape, data, parameters)


def tensor_of_values(
    name: str, datatype: str, shape: tuple[int, ...], values: Any, parameters: Mapping[str, Parameter]
) -> Tensor:
    """A tensor from numbers (of BYTES: from bytes objects), flat or nested as its shape is.

    Raises:
        BadRequestError: another number of values than the shape says, or values of another kind.
    """
    flat = _flat(name, values)
    count = math.prod(shape)
    if len(flat) != count:
        raise BadRequestError(f"input {name[:80]!r} has {len(flat)} values; shape {list(shape)} has {count}")
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        if not kinds <= {bytes}:
            raise BadRequestError(f"input {name[:80]!r} of datatype BYTES holds other values than bytes")
        return Tensor(name, datatype, shape, flat, parameters)
    if datatype not in DATATYPES:
        raise BadRequestError(f"input {name[:80]!r} of datatype {datatype}: send it as raw bytes")
    allowed = {bool} if datatype == "BOOL" else {int, float} if datatype.startswith("FP") else {int}
    if not kinds <= allowed:
        odd = next(value for value in flat if type(value) not in allowed)
        raise wrong(f"a value of input {name[:80]!r}", odd, f"a number of datatype {datatype}")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused where it matters
            array = np.array(flat, np.dtype(DATATYPES[datatype]))
    except (OverflowError, ValueError) as error:
        raise BadRequestError(f"input {name[:80]!r} holds a value out of range of {datatype}: {error}") from None
    return Tensor(name, datatype, shape, array.tobytes(), parameters)


def tensor_of_array(name: str, array: npt.NDArray[Any], parameters: Mapping[str, Parameter] | None = None) -> Tensor:
    """A tensor that holds the array's numbers. Raises BadRequestError: the protocol has no such datatype."""
    kind = array.dtype.newbyteorder("<")
    for datatype, text in DATATYPES.items():
        if kind == np.dtype(text):
            return Tensor(name, datatype, array.shape, array.astype(kind, copy=False).tobytes(), parameters or {})
    raise BadRequestError(f"an array of dtype {array.dtype}; the protocol knows {', '.join(DATATYPES)}")


def _split(name: str, data: memoryview, count: int) -> list[Buffer]:
    """Elements of BYTES. Stops at `count`, so no shape makes it do more than the data holds."""
    if count > MAX_ELEMENTS:
        raise BadRequestError(f"input {name[:80]!r} has {count} elements of BYTES; at most {MAX_ELEMENTS}")
    found: list[Buffer] = []
    at = 0
    while at < len(data) and len(found) < count:
        if at + _LENGTH.size > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise BadRequestError(
                f"an element of input {name[:80]!r} says {length} bytes, {len(data) - at} are left; of BYTES each "
                "element follows its length, four bytes little-endian"
            )
        found.append(data[at : at + length])
        at += length
    if len(found) != count or at != len(data):
        raise BadRequestError(
            f"input {name[:80]!r} holds {len(found)} elements in {at} of {len(data)} bytes; its shape has {count}"
        )
    return found


def _flat(name: str, nested: Any) -> list[Any]:
    """Level by level, all of one depth; the list itself where it is flat."""
    if not isinstance(nested, list):
        raise wrong(f"the data of input {name[:80]!r}", nested, "a list")
    values: list[Any] = nested
    for _ in range(MAX_DIMS):
        kinds = set(map(type, values))
        if list not in kinds:
            return values
        if len(kinds) > 1:
            raise BadRequestError(f"the data of input {name[:80]!r} is ragged: values and lists side by side")
        values = list(itertools.chain.from_iterable(values))
    raise BadRequestError(f"the data of input {name[:80]!r} is nested deeper than {MAX_DIMS} lists")


def names(values: Iterable[Any]) -> str:
    """For a message."""
    return ", ".join(str(value) for value in values)
