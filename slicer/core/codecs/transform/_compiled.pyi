from typing import Any

import numpy.typing as npt

_Array = npt.NDArray[Any]

def read(
    words: bytes | memoryview | _Array,
    at: int,
    state: _Array,
    lane: int,
    symbol_at: _Array,
    intervals: _Array,
    which: _Array,
    symbols: _Array,
) -> int: ...
def write(intervals: _Array, state: _Array, words: _Array) -> int: ...
def expand(patterns: _Array, places: _Array) -> int: ...
def gather(integers: _Array, patterns: _Array, places: _Array) -> int: ...
def mix(
    which: _Array,
    values: _Array,
    spots: _Array,
    shift: int,
    prefix: int,
    matrices: _Array,
    channels: int,
    out: _Array,
) -> int: ...
