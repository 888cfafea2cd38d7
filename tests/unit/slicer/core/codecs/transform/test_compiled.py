"""The loops in C do what numpy does: the same payloads, the same integers, the same refusals."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicer.core.codecs.transform import rans
from slicer.core.codecs.transform.compiled import COMPILED, loops
from slicer.core.codecs.transform.payload import BoundaryCodec
from slicer.core.codecs.transform.tables import CLASSES, MAGNITUDES, PATTERNS
from slicer.errors import CodecError
from tests.unit.slicer.core.codecs.transform import made

pytestmark = pytest.mark.skipif(not COMPILED, reason="no C compiler was there when HeadTail was installed")

EVERY = pytest.mark.parametrize("name", made.LAYOUTS)
QUALITIES = st.integers(0, 5)


@lru_cache(maxsize=200)
def both(name: str, seed: int | None = None) -> tuple[BoundaryCodec, BoundaryCodec]:
    """Compiled and numpy, of fitted tables; with a seed, of levels, frequencies and gains by chance."""
    tables = made.codec(name).tables
    if seed is not None:
        rng = np.random.default_rng(seed)
        tables = replace(
            tables,
            levels=rng.integers(100, 150, len(tables.levels)).astype(np.uint8),
            patterns=rans.fitted(rng.random((CLASSES, PATTERNS)) ** 8).astype(np.uint16),
            magnitudes=rans.fitted(rng.random((CLASSES, MAGNITUDES)) ** 8).astype(np.uint16),
            gains=rng.uniform(1, 1.5, CLASSES).astype(np.float32),
        )
    return BoundaryCodec(tables), BoundaryCodec(tables, numpy=True)


def outcome(codec: BoundaryCodec, payload: bytes) -> str | list[int]:
    """The integers, or why there are none."""
    try:
        integers, quality = codec.integers(payload)
    except CodecError as error:
        return str(error)
    return [quality, *integers.reshape(-1).tolist()]


def decoded(codec: BoundaryCodec, payload: bytes) -> npt.NDArray[np.float32]:
    out = np.full(codec.tables.shape, np.nan, np.float32)
    codec.decode(payload, out)
    return out


def with_checksum(body: bytes) -> bytes:
    """So that what stands behind the checksum is reached."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@EVERY
@settings(max_examples=25, deadline=None)
@given(tables=st.none() | st.integers(0, 20), seed=st.integers(0, 10**6), quality=QUALITIES, size=st.floats(0, 3000))
def test_payloads_are_the_same_bytes_and_come_back_as_the_same_integers(
    name: str, tables: int | None, seed: int, quality: int, size: float
) -> None:
    compiled, numpy = both(name, tables)
    row = (np.random.default_rng(seed).standard_normal(compiled.tables.shape) * size).astype(np.float32)
    payload = compiled.encode(row, quality)
    assert payload == numpy.encode(row, quality)
    assert outcome(compiled, payload) == outcome(numpy, payload)


@EVERY
@settings(max_examples=25, deadline=None)
@given(tables=st.none() | st.integers(0, 20), seed=st.integers(0, 10**6), quality=QUALITIES, size=st.floats(0, 3000))
def test_activations_come_back_equal_but_for_the_order_of_sums(
    name: str, tables: int | None, seed: int, quality: int, size: float
) -> None:
    compiled, numpy = both(name, tables)
    row = (np.random.default_rng(seed).standard_normal(compiled.tables.shape) * size).astype(np.float32)
    payload = numpy.encode(row, quality)
    found, wanted = decoded(compiled, payload), decoded(numpy, payload)
    assert np.abs(found - wanted).max() <= 1e-5 * max(float(np.abs(wanted).max()), 1)


@EVERY
def test_a_message_of_many_lanes_is_the_same_and_may_begin_anywhere_in_a_buffer(name: str) -> None:
    # Large enough for several lanes, the last step of which is not full.
    compiled, _ = both(name)
    rng = np.random.default_rng(3)
    symbols = rng.integers(0, PATTERNS, 5003).astype(np.uint8)
    which = rng.integers(0, CLASSES, 5003).astype(np.uint8)
    tables = rans.SymbolTables(compiled.tables.patterns)
    for lanes in (1, 2, 16, 128):
        seeds = rng.integers(0, 1 << 16, lanes).astype(np.uint16)
        words = rans.encode(tables.intervals_of(which, symbols), seeds)
        assert np.array_equal(words, rans.encode(tables.intervals_of(which, symbols), seeds, numpy=True))
        at_odd_address = memoryview(b"\0" + words.astype("<u2").tobytes())[1:]
        for numpy_too in (False, True):
            decoder = rans.Decoder(at_odd_address, lanes, numpy=numpy_too)
            found = [decoder.read(tables, which[:777]), decoder.read(tables, which[777:])]
            assert np.array_equal(np.concatenate(found), symbols)
            assert np.array_equal(decoder.finish(), seeds)


@EVERY
@pytest.mark.parametrize("tables", [None, 1])
def test_a_payload_that_ends_anywhere_is_refused_in_the_same_words(name: str, tables: int | None) -> None:
    compiled, numpy = both(name, tables)
    body = numpy.encode(made.activations(name, 1)[0] * 30, 0)[:-4]
    for end in range(len(body)):
        found = outcome(compiled, with_checksum(body[:end]))
        assert found == outcome(numpy, with_checksum(body[:end]))
        assert isinstance(found, str)


@EVERY
def test_altered_payloads_give_the_same_integers_or_the_same_refusal(name: str) -> None:
    rng = np.random.default_rng(5)
    codecs = [both(name), both(name, 1), both(name, 2)]
    rows = made.activations(name, 4, seed=5)
    bodies = [[compiled.encode(row * 3**n, n % 2)[:-4] for n, row in enumerate(rows)] for compiled, _ in codecs]
    found = []
    for number in range(400):
        compiled, numpy = codecs[number % 3]
        body = bytearray(bodies[number % 3][number % 4])
        for _ in range(rng.integers(1, 4)):
            # Often in the header: lanes, groups, words, escapes. The tables' digest has a test of its own.
            place = rng.choice([2, 8, 9, 12, 13, 16]) if rng.random() < 0.3 else rng.integers(8, len(body))
            body[place] ^= 1 << rng.integers(0, 8)
        forged = with_checksum(bytes(body))
        found.append(outcome(compiled, forged))
        assert found[-1] == outcome(numpy, forged)
        if not isinstance(found[-1], str):
            assert np.isfinite(decoded(compiled, forged)).all()
    refusals = {text.translate({ord(digit): None for digit in "0123456789"}) for text in found if isinstance(text, str)}
    assert len(refusals) >= 7
    assert any(isinstance(one, list) for one in found)


def test_a_codec_serves_several_threads_at_once() -> None:
    compiled, numpy = both("tokens behind five")
    rows = made.activations("tokens behind five", 16, seed=3)
    payloads = [numpy.encode(row, 0) for row in rows] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda payload: decoded(compiled, payload), payloads))
    for one, payload in zip(found, payloads, strict=True):
        assert np.array_equal(one, decoded(compiled, payload))


def test_buffers_that_do_not_fit_each_other_are_refused_before_they_are_touched() -> None:
    u8, u16, u32, f32 = (lambda n, t=t: np.ones(n, t) for t in (np.uint8, np.uint16, np.uint32, np.float32))
    places = np.zeros
    table, intervals = u8(4096), u32(16)
    wrong = [
        lambda: loops.read(u16(4), 5, u32(2), 0, table, intervals, u8(1), u8(1)),
        lambda: loops.read(u16(4), -1, u32(2), 0, table, intervals, u8(1), u8(1)),
        lambda: loops.read(u16(4), 0, u32(2), 2, table, intervals, u8(1), u8(1)),
        lambda: loops.read(u16(4), 0, u32(0), 0, table, intervals, u8(1), u8(1)),
        lambda: loops.read(u16(4), 0, u32(2), 0, table, intervals, u8(2), u8(1)),
        lambda: loops.read(u16(4), 0, u32(2), 0, table, u32(1), u8(1) * 0, u8(1)),
        lambda: loops.read(u16(4), 0, u32(2), 0, table, intervals, u8(1), u8(1)),  # there is no table 1
        lambda: loops.read(u16(4), 0, u8(9), 0, table, intervals, u8(1), u8(1)),
        lambda: loops.write(u32(2), u32(1), u16(1)),
        lambda: loops.write(u32(2), u32(0), u16(2)),
        lambda: loops.write(u32(2) * 0, u32(1), u16(2)),
        lambda: loops.write(u32(2) * 4097, u32(1), u16(2)),
        lambda: loops.expand(u8(2), places(8, np.intp)),
        lambda: loops.gather(u32(8), u8(2), places(8, np.intp)),
        lambda: loops.gather(u32(7), u8(2), places(9, np.intp)),
        lambda: loops.mix(places(1, np.intp) - 1, f32(1), u32(4), 2, 0, f32(128), 4, f32(8)),
        lambda: loops.mix(places(1, np.intp) + 4, f32(1), u32(4), 2, 0, f32(128), 4, f32(8)),
        lambda: loops.mix(places(1, np.intp), f32(2), u32(4), 2, 0, f32(128), 4, f32(8)),
        lambda: loops.mix(places(1, np.intp), f32(1), u32(4) * 8, 2, 0, f32(128), 4, f32(8)),  # row 2 of 2
        lambda: loops.mix(places(1, np.intp), f32(1), u32(4) * 7, 3, 0, f32(128), 4, f32(8)),  # channel 7 of 4
        lambda: loops.mix(places(1, np.intp), f32(1), u32(4), 2, 0, f32(127), 4, f32(8)),
        lambda: loops.mix(places(1, np.intp), f32(1), u32(4), 2, 0, f32(128), 4, f32(7)),
        lambda: loops.mix(places(1, np.intp), f32(1), u32(4), 32, 0, f32(128), 4, f32(8)),
        lambda: loops.mix(places(1, np.intp), f32(1), u32(4), 2, 0, f32(128), 0, f32(8)),
    ]
    for number, call in enumerate(wrong):
        with pytest.raises(ValueError, match="do not fit each other"):
            pytest.fail(f"number {number} gave {call()}")
