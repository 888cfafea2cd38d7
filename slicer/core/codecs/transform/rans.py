"""Interleaved rANS with static tables: in numpy all lanes take a step together, in C (`compiled`) one after the other.

Symbol i of a message goes to lane ``i % lanes``, so that a step is one operation on all lanes: what numpy, JavaScript's
typed arrays and vector units like. Tables of frequencies sum to 2**PRECISION and are chosen per symbol by whoever
calls; they never depend on anything but what was decoded before.

A lane's state is 32 bits and never below 2**16; 16 bits leave or enter at once. It begins at 2**16 plus 16 bits of the
caller's (`seeds`), which the decoder finds there in the end. So a lane costs about a byte where there are bits to
send that need no coding: signs. And a message that was altered hardly ever ends within [2**16, 2**17) in every lane.

Source: J. Duda, arXiv:1311.2540; interleaving: F. Giesen, arXiv:1402.3392. Functions are pure; any thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import CodecError
from .compiled import COMPILED, loops

#: Frequencies of a table sum to 2 to the power of this.
PRECISION = 12

_LOWEST = 1 << 16
_SLOTS, _PRECISION, _SHIFT = np.uint32((1 << PRECISION) - 1), np.uint32(PRECISION), np.uint32(16)

#: An interval: where a symbol starts and, in so many lower bits, its frequency, which may be 2**PRECISION.
FREQUENCY_BITS = np.uint32(PRECISION + 1)
_FREQUENCIES = np.uint32((1 << (PRECISION + 1)) - 1)

Words = npt.NDArray[np.uint16]
Symbols = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.uint32]


class SymbolTables:
    """Static frequencies, one row a table, each row summing to 2**PRECISION.

    Args:
        frequencies: [tables, symbols] integers, at most 256 symbols.

    Raises:
        CodecError: a row is no table.

    Attributes:
        intervals: [tables, symbols], what `encode` takes of a symbol.
        symbol_at: [tables * 2**PRECISION], the symbol by the lower bits of a state.
    """

    def __init__(self, frequencies: npt.NDArray[np.integer]) -> None:
        counts = np.asarray(frequencies, np.uint32)
        if counts.ndim != 2 or not (counts.sum(axis=1, dtype=np.int64) == 1 << PRECISION).all():
            raise CodecError(f"frequencies of a table must sum to {1 << PRECISION}")
        starts = (np.cumsum(counts, axis=1, dtype=np.uint32) - counts).astype(np.uint32)
        self.intervals: Integers = starts << FREQUENCY_BITS | counts
        symbols = np.arange(counts.shape[1], dtype=np.uint8)
        self.symbol_at: Symbols = np.concatenate([np.repeat(symbols, row) for row in counts])

    def intervals_of(
        self, which: npt.NDArray[np.uint8], symbols: npt.NDArray[np.integer], out: Integers | None = None
    ) -> Integers:
        """Of each symbol, in the table named beside it."""
        at = which.astype(np.intp)
        at *= self.intervals.shape[1]
        at += symbols
        found: Integers = self.intervals.reshape(-1).take(at, out=out)
        return found


def fitted(counts: npt.NDArray[np.floating]) -> npt.NDArray[np.uint32]:
    """Counts of symbols [tables, symbols] as frequencies: proportional, each at least 1, each row 2**PRECISION."""
    whole = 1 << PRECISION
    share = np.asarray(counts, np.float64) + 1e-9
    free = whole - share.shape[1]
    exact = share / share.sum(axis=1, keepdims=True) * free
    found = np.floor(exact).astype(np.int64)
    for row, rest, missing in zip(found, exact - found, free - found.sum(axis=1), strict=True):
        row[np.argsort(-rest, kind="stable")[:missing]] += 1
    frequencies: npt.NDArray[np.uint32] = (found + 1).astype(np.uint32)
    return frequencies


def encode(intervals: Integers, seeds: Words, numpy: bool = False) -> Words:
    """Symbols, given by their intervals, as words: two of each lane's state, then what left the lanes.

    Args:
        intervals: [n], of `SymbolTables.intervals`, in the order in which the decoder asks for them.
        seeds: [lanes], the bits that the lanes begin with.
        numpy: do not use the compiled part.
    """
    state = seeds.astype(np.uint32) + np.uint32(_LOWEST)
    if numpy or not COMPILED:
        left = _encode_by_numpy(intervals, state)
    else:
        room = np.empty(len(intervals), np.uint16)
        left = room[len(room) - loops.write(intervals, state, room) :]
    heads = np.empty((len(seeds), 2), np.uint16)
    heads[:, 0], heads[:, 1] = state & np.uint32(0xFFFF), state >> _SHIFT
    return np.concatenate([heads.reshape(-1), left])


def _encode_by_numpy(intervals: Integers, state: Integers) -> Words:
    """What left the lanes; their `state` is changed."""
    out: list[Words] = []
    for first in range((len(intervals) - 1) // len(state) * len(state), -1, -len(state)):
        step = intervals[first : first + len(state)]
        frequency = step & _FREQUENCIES
        x = state[: len(step)]  # the last step may be shorter: the lanes behind it rest
        full = x >> np.uint32(32 - PRECISION) >= frequency
        if full.any():
            out.append(x[full].astype(np.uint16))
            x = np.where(full, x >> _SHIFT, x)
        quotient, remainder = np.divmod(x, frequency)
        state[: len(step)] = (quotient << _PRECISION) + remainder + (step >> FREQUENCY_BITS)
    return np.concatenate([np.empty(0, np.uint16), *reversed(out)])


class Decoder:
    """Reads symbols in the order in which `encode` was given them, any number at a time. For one message, one thread.

    Args:
        words: what `encode` gave, as little-endian bytes.
        lanes: of it.
        numpy: do not use the compiled part.

    Raises:
        CodecError: there are too few words for so many lanes.
    """

    def __init__(self, words: bytes | memoryview | Words, lanes: int, numpy: bool = False) -> None:
        self._bytes, self._words = words, np.frombuffer(words, "<u2")
        if len(self._words) < 2 * lanes:
            raise CodecError(f"the payload is cut off: {len(self._words)} words, {lanes} lanes begin with {2 * lanes}")
        heads = self._words[: 2 * lanes].astype(np.uint32).reshape(lanes, 2)
        self._state: Integers = heads[:, 0] | heads[:, 1] << _SHIFT
        self._at, self._lane = 2 * lanes, 0
        self._numpy = numpy or not COMPILED

    def read(self, tables: SymbolTables, which: Symbols) -> Symbols:
        """As many symbols as `which` names tables.

        Raises:
            CodecError: the words are used up.
        """
        found = np.empty(len(which), np.uint8)
        if self._numpy:
            self._read_by_numpy(tables, which, found)
            return found
        self._at = loops.read(
            self._bytes, self._at, self._state, self._lane, tables.symbol_at, tables.intervals, which, found
        )
        if self._at < 0:
            raise _ends_too_early()
        self._lane = (self._lane + len(which)) % len(self._state)
        return found

    def _read_by_numpy(self, tables: SymbolTables, which: Symbols, found: Symbols) -> None:
        rows = which.astype(np.intp)
        intervals, of_table = tables.intervals.reshape(-1), rows * tables.intervals.shape[1]
        rows <<= PRECISION
        done, lanes = 0, len(self._state)
        while done < len(which):
            count = min(lanes - self._lane, len(which) - done)
            step = slice(done, done + count)
            x = self._state[self._lane : self._lane + count]
            slots = x & _SLOTS
            symbols = tables.symbol_at[rows[step] + slots]
            found[step] = symbols
            interval = intervals[of_table[step] + symbols]
            x >>= _PRECISION
            x *= interval & _FREQUENCIES
            x += slots - (interval >> FREQUENCY_BITS)
            self._take_words(x)
            done += count
            self._lane = (self._lane + count) % lanes

    def _take_words(self, x: Integers) -> None:
        """A word for each lane that is too low, in the order of lanes."""
        low = np.flatnonzero(x < _LOWEST)
        taken = self._words[self._at : self._at + len(low)]
        if len(taken) < len(low):
            raise _ends_too_early()
        x[low] = x[low] << _SHIFT | taken
        self._at += len(low)

    def finish(self) -> Words:
        """The seeds.

        Raises:
            CodecError: words are left, or a lane did not come back to where it began: the message was altered.
        """
        if self._at != len(self._words) or not (self._state >> _SHIFT == 1).all():
            raise CodecError("the payload was altered: its lanes do not end where they began")
        seeds: Words = (self._state & np.uint32(0xFFFF)).astype(np.uint16)
        return seeds


def _ends_too_early() -> CodecError:
    return CodecError("the payload is cut off: the words of its lanes end too early")
