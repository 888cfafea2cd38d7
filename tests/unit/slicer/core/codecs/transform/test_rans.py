"""Interleaved rANS: what comes out is what went in, at about its code length, and nothing that was altered passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicer.core.codecs.transform import rans
from slicer.errors import CodecError


def message(seed: int, count: int, lanes: int) -> tuple[rans.SymbolTables, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    tables = rans.SymbolTables(rans.fitted(rng.random((5, 16)) ** 4))
    which = rng.integers(0, 5, count)
    symbols = tables.symbol_at[(which << rans.PRECISION) + rng.integers(0, 1 << rans.PRECISION, count)]
    return tables, which.astype(np.uint8), symbols, rng.integers(0, 1 << 16, lanes).astype(np.uint16)


def words_of(tables: rans.SymbolTables, which: np.ndarray, symbols: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    return rans.encode(tables.intervals[which, symbols], seeds)


@given(st.integers(0, 10**6), st.integers(0, 700), st.sampled_from([1, 2, 8, 64]), st.integers(0, 700))
def test_symbols_and_seeds_come_back_however_many_are_read_at_once(seed: int, n: int, lanes: int, split: int) -> None:
    tables, which, symbols, seeds = message(seed, n, lanes)
    decoder = rans.Decoder(words_of(tables, which, symbols, seeds), lanes)
    found = [decoder.read(tables, part) for part in (which[:split], which[split:])]
    assert np.array_equal(np.concatenate(found), symbols)
    assert np.array_equal(decoder.finish(), seeds)


def test_the_words_are_as_long_as_the_code_length_and_two_bytes_a_lane() -> None:
    tables, which, symbols, seeds = message(1, 20_000, 32)
    ideal = -np.log2((tables.intervals[which, symbols] & 0x1FFF) / (1 << rans.PRECISION)).sum() / 8 + 2 * 32
    assert ideal <= 2 * len(words_of(tables, which, symbols, seeds)) <= ideal * 1.001 + 2 * 32


def test_no_symbols_leave_the_seeds_alone() -> None:
    tables, which, symbols, seeds = message(1, 0, 4)
    words = words_of(tables, which, symbols, seeds)
    assert len(words) == 8
    assert np.array_equal(rans.Decoder(words, 4).finish(), seeds)


@pytest.mark.parametrize("drop", [1, 5, 100])
def test_words_that_end_too_early_are_refused(drop: int) -> None:
    tables, which, symbols, seeds = message(2, 1000, 8)
    words = words_of(tables, which, symbols, seeds)[:-drop]
    with pytest.raises(CodecError, match=r"cut off|altered"):
        decoder = rans.Decoder(words, 8)
        decoder.read(tables, which)
        decoder.finish()
    with pytest.raises(CodecError, match="8 lanes begin with 16"):
        rans.Decoder(words[:15], 8)


@given(st.integers(0, 10**6), st.integers(1, 0xFFFF))
def test_an_altered_word_is_seen_in_the_end(place: int, change: int) -> None:
    tables, which, symbols, seeds = message(3, 1000, 8)
    words = words_of(tables, which, symbols, seeds).copy()
    words[place % len(words)] ^= change
    decoder = rans.Decoder(words, 8)
    try:
        found = decoder.read(tables, which)
        back = decoder.finish()
    except CodecError:
        return
    assert not (np.array_equal(found, symbols) and np.array_equal(back, seeds))


def test_words_that_are_left_over_are_refused() -> None:
    tables, which, symbols, seeds = message(3, 1000, 8)
    words = words_of(tables, which, symbols, seeds)
    decoder = rans.Decoder(np.append(words, np.uint16(7)), 8)
    assert np.array_equal(decoder.read(tables, which), symbols)
    with pytest.raises(CodecError, match="do not end where they began"):
        decoder.finish()


def test_symbols_that_were_not_read_are_missed() -> None:
    tables, which, symbols, seeds = message(3, 1000, 8)
    decoder = rans.Decoder(words_of(tables, which, symbols, seeds), 8)
    decoder.read(tables, which[:-8])
    with pytest.raises(CodecError, match="do not end where they began"):
        decoder.finish()


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=16), st.integers(1, 3))
def test_fitted_frequencies_leave_no_symbol_out(counts: list[float], rows: int) -> None:
    found = rans.fitted(np.array([counts] * rows))
    assert (found.sum(axis=1) == 1 << rans.PRECISION).all()
    assert (found >= 1).all()


def test_frequencies_that_do_not_fill_the_range_are_refused() -> None:
    with pytest.raises(CodecError, match="must sum to 4096"):
        rans.SymbolTables(np.array([[1, 2, 3]]))
