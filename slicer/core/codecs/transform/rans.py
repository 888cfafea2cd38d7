"""Interleaved rANS with static tables, in numpy: all lanes take a step together.

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

#: Frequencies of a table sum to 2 to the power of this.
PRECISION = 12

_LOWEST = 1 << 16
_SLOTS, _PRECISION, _SHIFT = np.uint64((1 << PRECISION) - 1), np.uint64(PRECISION), np.uint64(16)

Words = npt.NDArray[np.uint16]
Integers = npt.NDArray[np.int64]


class SymbolTables:
    """Static frequencies, one row a table, each row summing to 2**PRECISION.

    Args:
        frequencies: [tables, symbols] integers.

    Raises:
        CodecError: a row is no table.
    """

    def __init__(self, frequencies: npt.NDArray[np.integer]) -> None:
        counts = np.asarray(frequencies, np.uint32)
        if counts.ndim != 2 or not (counts.sum(axis=1, dtype=np.int64) == 1 << PRECISION).all():
            raise CodecError(f"frequencies of a table must sum to {1 << PRECISION}")
        self.frequencies = counts
        self.starts = (np.cumsum(counts, axis=1, dtype=np.uint32) - counts).astype(np.uint32)
        # By table and the lower bits of a state: the symbol there, its frequency, how far in it these bits are.
        symbols = np.arange(counts.shape[1], dtype=np.uint8)
        self.symbol_at = np.concatenate([np.repeat(symbols, row) for row in counts])
        places = self.symbol_at.reshape(len(counts), -1)
        self.frequency_at = np.take_along_axis(counts, places, axis=1).astype(np.uint64).reshape(-1)
        within = np.arange(1 << PRECISION, dtype=np.uint64) - np.take_along_axis(self.starts, places, axis=1)
        self.within_at = within.astype(np.uint64).reshape(-1)


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


def encode(starts: npt.NDArray[np.uint32], frequencies: npt.NDArray[np.uint32], seeds: Words) -> Words:
    """Symbols, given by the start and frequency of each, as words: two of each lane's state, then what left the lanes.

    Args:
        starts, frequencies: [n], in the order in which the decoder asks for them.
        seeds: [lanes], the bits that the lanes begin with.
    """
    lanes = len(seeds)
    steps = -(-len(starts) // lanes)
    rest = len(starts) - (steps - 1) * lanes
    low, wide = _in_steps(starts, steps, lanes, 0), _in_steps(frequencies, steps, lanes, 1)
    most = (wide << np.uint64(32 - PRECISION)) - np.uint64(1)
    state = seeds.astype(np.uint64) + np.uint64(_LOWEST)
    out: list[Words] = []
    for step in range(steps - 1, -1, -1):
        f, s, x = wide[step], low[step], state
        if step == steps - 1 and rest < lanes:  # the last step is shorter: the lanes behind it rest
            f, s, x = f[:rest], s[:rest], state[:rest]
            limit = most[step][:rest]
        else:
            limit = most[step]
        full = x > limit
        if full.any():
            out.append(x[full].astype(np.uint16))
            x = np.where(full, x >> _SHIFT, x)
        quotient, remainder = np.divmod(x, f)
        state[: len(x)] = (quotient << _PRECISION) + remainder + s
    heads = np.empty((lanes, 2), np.uint16)
    heads[:, 0], heads[:, 1] = state & np.uint64(0xFFFF), state >> _SHIFT
    return np.concatenate([heads.reshape(-1), *reversed(out)])


def _in_steps(values: npt.NDArray[np.uint32], steps: int, lanes: int, padding: int) -> npt.NDArray[np.uint64]:
    padded = np.full(steps * lanes, padding, np.uint64)
    padded[: len(values)] = values
    return padded.reshape(steps, lanes)


class Decoder:
    """Reads symbols in the order in which `encode` was given them, any number at a time. For one message, one thread.

    Args:
        words: what `encode` gave.
        lanes: of it.

    Raises:
        CodecError: there are too few words for so many lanes.
    """

    def __init__(self, words: Words, lanes: int) -> None:
        if len(words) < 2 * lanes:
            raise CodecError(f"the payload is cut off: {len(words)} words, {lanes} lanes begin with {2 * lanes}")
        heads = words[: 2 * lanes].astype(np.uint64).reshape(lanes, 2)
        self._state = heads[:, 0] | heads[:, 1] << np.uint64(16)
        self._words, self._at, self._lane = words.astype(np.uint64), 2 * lanes, 0

    def read(self, tables: SymbolTables, which: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """As many symbols as `which` names tables.

        Raises:
            CodecError: the words are used up.
        """
        found = np.empty(len(which), np.uint8)
        rows = which.astype(np.int64) << PRECISION
        done, lanes = 0, len(self._state)
        while done < len(which):
            count = min(lanes - self._lane, len(which) - done)
            found[done : done + count] = self._step(tables, rows[done : done + count])
            done += count
            self._lane = (self._lane + count) % lanes
        return found

    def _step(self, tables: SymbolTables, rows: Integers) -> npt.NDArray[np.uint8]:
        span = slice(self._lane, self._lane + len(rows))
        x = self._state[span]
        at = rows + (x & _SLOTS).astype(np.int64)
        x = tables.frequency_at[at] * (x >> _PRECISION) + tables.within_at[at]
        low = np.flatnonzero(x < _LOWEST)
        if len(low):
            taken = self._words[self._at : self._at + len(low)]
            if len(taken) < len(low):
                raise CodecError("the payload is cut off: the words of its lanes end too early")
            x[low] = x[low] << _SHIFT | taken
            self._at += len(low)
        self._state[span] = x
        symbols: npt.NDArray[np.uint8] = tables.symbol_at[at]
        return symbols

    def finish(self) -> Words:
        """The seeds.

        Raises:
            CodecError: words are left, or a lane did not come back to where it began: the message was altered.
        """
        if self._at != len(self._words) or not (self._state >> np.uint64(16) == 1).all():
            raise CodecError("the payload was altered: its lanes do not end where they began")
        seeds: Words = (self._state & np.uint64(0xFFFF)).astype(np.uint16)
        return seeds
