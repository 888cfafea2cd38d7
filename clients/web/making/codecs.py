"""Payloads of every codec of activations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clients.web.making.numbers import Json, Numbers, held, text_of
from slicer.core.codecs import activations
from slicer.core.codecs.registry import CODECS
from slicer.errors import CodecError

Array = npt.NDArray[np.float32]

#: Shape -> the axes along which its channels may run; a vector has none.
_SHAPES: dict[tuple[int, ...], tuple[int | None, ...]] = {
    (7,): (None,),
    (1, 1): (0, 1),
    (5, 8): (0, 1),
    (3, 3, 3): (0, 2),
    (4, 5, 7): (0, 2),
    (6, 3, 2): (0, 2),
    (2, 2, 3, 5): (0, 3),
}

#: Float32 values where codecs round, overflow and underflow.
_EDGES: tuple[float, ...] = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    65504.0,  # the largest half float
    65519.99,
    2.0**-14,  # its smallest normal number
    2.0**-24,  # its smallest number
    2.0**-25,  # half of that: a tie, to 0
    1.5 * 2.0**-24,  # a tie, to even
    2.5 * 2.0**-24,
    math.nextafter(2.0**-25, 1.0),  # float32 has it as 2^-25
    2.0**-25 * (1 + 2.0**-23),
    2.0**-14 * (1 - 2.0**-11),  # rounds up from the subnormals to the smallest normal number
    1 + 2.0**-11,  # ties
    1 + 3 * 2.0**-11,
    1 + 2.0**-8,
    1 + 3 * 2.0**-8,
    2.0**-126,
    2.0**-127,
    2.0**-149,
    -(2.0**-149),
)

#: Values that some codec refuses.
_REFUSED: tuple[float, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    65520.0,
    -65520.0,
    1e5,
    2.0**126,
    2.0**126 * (1 + 2.0**-23),
    3.3961775e38,
    3.3961776e38,
    3.4028235e38,
)

#: Of each whole number n below `count` the float32 of bits n * step modulo 2^32; those are left out whose magnitude the
#: codec does not take.
_SWEEP = {"count": 60_000, "step": 0x9E3779B1}
_LIMITS = {"fp32": 3.4e38, "fp16": 65519.0, "bf16": 3.39e38, "int8": 2.0**126, "int4": 2.0**126}


def vectors() -> Json:
    """``cases``, with a payload or the class of an error; ``sweeps`` over all magnitudes, whose payload is by SHA-256;
    ``sizes``: of payloads."""
    numbers = Numbers(7)
    cases = [_case(codec, np.array(_EDGES, np.float32), None) for codec in CODECS]
    for value in _REFUSED:
        values = np.array([0.5, value, -2.0, 1.0], np.float32)
        cases += [_case(codec, values, None) for codec in CODECS]
        cases += [_case(codec, values.reshape(2, 2), 1) for codec in ("int8", "int4")]
    cases += [_case(codec, np.zeros((3, 4), np.float32), 1) for codec in CODECS]
    cases += [_case(codec, _uneven(numbers), axis) for codec in CODECS for axis in (0, 1)]
    for shape, axes in _SHAPES.items():
        for axis in axes:
            for codec in CODECS:
                cases.append(
                    _case(codec, numbers.floats(math.prod(shape), numbers.one_of((1, 30, 1e-3))).reshape(shape), axis)
                )
    cases += [_case("int8", _ties(127), 0), _case("int4", _ties(7), 0)]
    sizes = [
        {"codec": codec, "shape": list(shape), "axis": axis, "size": activations.encoded_bytes(codec, shape, axis)}
        for codec in CODECS
        for shape in [*_SHAPES, (197, 192), (196, 7, 7)]
        for axis in (0, len(shape) - 1)
    ]
    return {"cases": cases, "sweeps": [_sweep(codec) for codec in CODECS], "sizes": sizes}


def _case(codec: str, values: Array, axis: int | None) -> Json:
    found: Json = {"codec": codec, "shape": list(values.shape), "axis": axis, "values": text_of(values.tobytes())}
    try:
        return {**found, "payload": text_of(activations.encode(codec, values, axis))}
    except CodecError as error:
        return {**found, "error": type(error).__name__}


def _uneven(numbers: Numbers) -> Array:
    """Channels of very different sizes, one of zeros, one of denormal numbers."""
    values = numbers.floats(5 * 6).reshape(5, 6)
    return (values * np.array([1e3, 1, 0, 1e-39, 1e-20, 7], np.float32)).astype(np.float32)


def _ties(levels: int) -> Array:
    """Halves of a scale, of many scales along the first axis; a quotient and a product with the reciprocal differ."""
    scales = [fraction / 1024 for fraction in range(128, 256, 9)]  # each is a bf16
    halves = [whole + 0.5 for whole in range(-levels, levels, 1 + levels // 16)]
    return np.array([[levels * scale, *(half * scale for half in halves)] for scale in scales], np.float32)


def _sweep(codec: str) -> Json:
    bits = (np.arange(_SWEEP["count"], dtype=np.uint64) * np.uint64(_SWEEP["step"])).astype(np.uint32)
    values = bits.view(np.float32)
    limit = _LIMITS[codec]
    values = values[np.abs(values) <= np.float32(limit)]  # NaN is not
    values = values[: len(values) // 8 * 8]
    payload = activations.encode(codec, values.reshape(-1, 8), 1)
    return {"codec": codec, **_SWEEP, "limit": limit, "columns": 8, "axis": 1, "payload": held(payload)}
