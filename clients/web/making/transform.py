"""Payloads by tables: small ones, made by a formula and not fitted, since what is fitted depends on the machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clients.web.making.numbers import Json, Numbers, text_of
from slicer.core.codecs.transform import rans
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.rans import PRECISION
from slicer.core.codecs.transform.tables import CLASSES, MAGNITUDES, PATTERNS, TransformTables
from slicer.errors import CodecError, ShardError

Array = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

#: Name -> layout, grid, prefix tokens, channels.
_TABLES: dict[str, tuple[str, tuple[int, int], int, int]] = {
    "tokens behind one": ("tokens", (4, 3), 1, 6),
    "tokens behind five": ("tokens", (2, 3), 5, 5),
    "a map": ("grid", (3, 5), 0, 5),  # the last group of four is not full
    "planes": ("planes", (5, 3), 0, 5),
    "many tokens": ("tokens", (10, 12), 0, 8),  # enough symbols for four lanes
}

#: Levels of the steps: 1/8, 1 and 8.
_STEPS = (116, 128, 140)

#: So far, in steps, are coefficients of activations from halves, and more by this share of the largest one: sums of
#: float32 in another order then round to the same integer.
_CLEAR, _CLEAR_SHARE = 1e-3, 1e-5

#: What damages the file of "a map": so many bytes are kept, or text is put in the place of other text.
_CUT = (0, 7, 8, 300, 1200, -1, -4)
_REPLACED = (
    ("headtail-transform-1", "headtail-transform-9"),
    ('"layout":"grid"', '"layout":"list"'),
    ('"grid":"[3, 5]"', '"grid":"[5, 5]"'),
    ('"grid":"[3, 5]"', '"grid":"[0, 5]"'),
    ('"prefix":"0"', '"prefix":"1"'),
    ('"dtype":"U16"', '"dtype":"I16"'),
    ('"gains":', '"gainz":'),
    ('"shape":[5,5]', '"shape":[5,4]'),
    ('"data_offsets":[0,50]', '"data_offsets":[9,50]'),
    ('"data_offsets":[0,50]', '"data_offsets":[0,52]'),
    ('{"__metadata__"', '["__metadata__"'),
)

#: Array -> what it begins with: no number, infinity, frequencies with a sum that is too high, with one that is 0.
_BEGUN = (("mean", b"\0\xff"), ("gains", b"\0\0\x80\x7f"), ("patterns", b"\xf2\x0f"), ("patterns", b"\xf2\x0f\0\0"))


def vectors() -> Json:
    """``messages`` of rANS; ``tables``, their files; ``integers`` and ``activations`` with their payloads; ``refused``,
    with the class of the error; ``damaged``: files that are no tables."""
    numbers = Numbers(23)
    tables = {name: _tables(numbers, *facts) for name, facts in _TABLES.items()}
    codecs = {name: BoundaryCodec(one) for name, one in tables.items()}
    return {
        "messages": list(_messages(numbers)),
        "tables": [
            {
                "name": name,
                "sha256": one.digest,
                "shape": list(one.shape),
                "analysis": text_of(one.analysis.astype(np.float32).tobytes()),
                "file": text_of(one.to_bytes()),
            }
            for name, one in tables.items()
        ],
        "integers": [case for name, codec in codecs.items() for case in _of_integers(numbers, name, codec)],
        "activations": [case for name, codec in codecs.items() for case in _of_activations(numbers, name, codec)],
        "refused": list(_refused("a map", codecs["a map"])),
        "damaged": list(_damaged(tables["a map"].to_bytes())),
    }


def _messages(numbers: Numbers) -> Iterator[Json]:
    """Of symbols by their starts and frequencies; in the first one a state lies exactly where words leave it."""
    whole = 1 << PRECISION
    cases = [([0, 0], [256, 1], [0]), ([], [], [7, 0xFFFF])]
    for lanes, most in ((1, whole), (1, 40), (4, whole), (16, whole)):
        frequencies = [1 + numbers.below(min(most, whole - 1)) for _ in range(61)]
        starts = [numbers.below(whole - frequency + 1) for frequency in frequencies]
        cases.append((starts, frequencies, [numbers.below(1 << 16) for _ in range(lanes)]))
    for starts, frequencies, seeds in cases:
        intervals = np.array(starts, np.uint32) << rans.FREQUENCY_BITS | np.array(frequencies, np.uint32)
        words = rans.encode(intervals, np.array(seeds, np.uint16))
        yield {"starts": starts, "frequencies": frequencies, "seeds": seeds, "words": words.tolist()}


def _tables(numbers: Numbers, layout: str, grid: tuple[int, int], prefix: int, channels: int) -> TransformTables:
    """Nothing can be decoded with them: what they call an inverse is none."""
    tokens = prefix + grid[0] * grid[1]
    analysis, of_prefix = (_within(numbers, (channels, channels), 1).astype(np.float16) for _ in range(2))
    analysis[0, :3] = (2.0**-24, -3 * 2.0**-20, -(2.0**-14))  # the least half floats, and the least normal one
    return TransformTables(
        grid=grid,
        prefix=prefix,
        layout=layout,
        mean=_within(numbers, (tokens, channels), 4).astype(np.float16),
        analysis=analysis,
        synthesis=np.eye(channels, dtype=np.float32),
        prefix_analysis=of_prefix,
        prefix_synthesis=np.eye(channels, dtype=np.float32),
        levels=np.array([90 + numbers.below(75) for _ in range(tokens * channels)], np.uint8),
        steps=np.array(_STEPS, np.uint8),
        qualities=np.array([9980, 9950, 9900], np.uint16),
        patterns=_frequencies(numbers, PATTERNS),
        magnitudes=_frequencies(numbers, MAGNITUDES),
        gains=np.ones(CLASSES, np.float32),
    )


def _within(numbers: Numbers, shape: tuple[int, ...], most: float) -> Array:
    found = [numbers.within(-most, most) for _ in range(int(np.prod(shape)))]
    return np.array(found, np.float32).reshape(shape)


def _frequencies(numbers: Numbers, symbols: int) -> npt.NDArray[np.uint16]:
    """A table for each class, every symbol at least 1; in the first one all the others are no more."""
    found = np.ones((CLASSES, symbols), np.int64)
    for at, row in enumerate(found):
        left = (1 << PRECISION) - symbols
        for symbol in range(1, symbols if at else 1):
            share = numbers.below(left // 4 + 1)
            row[symbol] += share
            left -= share
        row[0] += left
    return found.astype(np.uint16)


def _of_integers(numbers: Numbers, name: str, codec: BoundaryCodec) -> Iterator[Json]:
    """None, one at either end, what escapes, whatever there may be, and an end of zeros."""
    count = codec.tables.levels.size
    first, last, escapes, few, many = np.zeros((5, -(-count // 4) * 4), np.int32)
    first[0] = -1
    last[count - 1] = 3
    escapes[:7] = (14, 15, 16, -15, 65549, -65549, 65550)
    for _ in range(9):
        few[numbers.below(count // 2)] = numbers.below(7) - 3
    many[:count] = [int(numbers.within(-30, 30) * numbers.within(0, 1)) for _ in range(count)]
    for at, values in enumerate((np.zeros_like(first), first, last, escapes, few, many)):
        quality = at % len(_STEPS)
        yield {
            "tables": name,
            "quality": quality,
            "integers": np.trim_zeros(values, "b").tolist(),
            "payload": text_of(_checked(codec, values, quality)),
        }


def _of_activations(numbers: Numbers, name: str, codec: BoundaryCodec) -> Iterator[Json]:
    small = codec.tables.levels.size < 200
    for quality, size in ((0, 0.5), (0, 200), (1, 8), (2, 8)) if small else ((1, 8),):
        values = _clear(numbers, codec, quality, size)
        payload = codec.encode(values, quality)
        yield {"tables": name, "quality": quality, "values": text_of(values.tobytes()), "payload": text_of(payload)}


def _clear(numbers: Numbers, codec: BoundaryCodec, quality: int, size: float) -> Array:
    """An activation of about `size` none of whose coefficients is near a half."""
    while True:
        values = _within(numbers, codec.tables.shape, size)
        steps = codec.in_steps(values, quality).astype(np.float64)
        clear = _CLEAR + _CLEAR_SHARE * np.abs(steps).max()
        if (np.abs(steps - np.floor(steps) - 0.5) > clear).all():
            return values


def _checked(codec: BoundaryCodec, values: Integers, quality: int) -> bytes:
    """Their payload, which Python reads again."""
    payload = codec.packed(values.reshape(-1, 4), quality)
    found, _ = codec.integers(payload)
    assert np.array_equal(found.reshape(-1), values[: found.size])
    assert not values[found.size :].any()
    return payload


def _refused(name: str, codec: BoundaryCodec) -> Iterator[Json]:
    shape = codec.tables.shape
    zeros = np.zeros(shape, np.float32)
    cases: list[tuple[Array, int]] = [(zeros, 3), (zeros, -1), (zeros.reshape(shape[::-1]), 0), (zeros[:2], 0)]
    for value in (np.nan, np.inf, -np.inf, 1e8, 3e38):
        values = zeros.copy()
        values[1, 2, 3] = value
        cases.append((values, 0))
    for values, quality in cases:
        case = {"tables": name, "quality": quality, "shape": list(values.shape), "values": text_of(values.tobytes())}
        try:
            codec.encode(values, quality)
        except CodecError as error:
            yield {**case, "error": type(error).__name__}
        else:
            raise AssertionError(f"{json.dumps(case)} is not refused")


def _damaged(file: bytes) -> Iterator[Json]:
    """``keep`` bytes of it; ``old`` text replaced by ``new``, wherever it stands; ``data`` from ``at`` on."""
    cases: list[tuple[Json, bytes]] = [({"keep": keep % len(file)}, file[:keep]) for keep in _CUT]
    cases += [({"old": old, "new": new}, file.replace(old.encode(), new.encode())) for old, new in _REPLACED]
    body = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:body])
    for array, start in _BEGUN:
        at = body + header[array]["data_offsets"][0]
        cases.append(({"at": at, "data": text_of(start)}, file[:at] + start + file[at + len(start) :]))
    for case, data in cases:
        assert data != file, case
        try:
            TransformTables.from_bytes(data)
        except ShardError:
            yield case
        else:
            raise AssertionError(f"{case} is not refused")
