"""Activations to bytes and back by the tables of their boundary.

The payload, little-endian::

    header     18 bytes: version, quality, log2 of the lanes, 0; the first 4 bytes of the tables' digest; uint32 groups
               that are coded; uint32 words; uint16 escapes
    signs      of coefficients that are not 0, a bit each, those that the lanes' seeds hold left out
    escapes    uint16 each: what a magnitude is above 15
    words      uint16 each, of rANS (`rans`): the pattern of each group, then the magnitudes
    CRC-32     of all before, uint32

Coefficients stand in the order of their scales, largest first, in groups of four; groups behind the last one that is
not all 0 are not coded. A group's pattern says which of its coefficients are not 0. Patterns and magnitudes have static
frequencies by the group's class, which is its scale over the step, in whole levels: integers decide, so every host
decodes the same integers. The rest is float32 arithmetic, which differs by some 1e-6 of the activation's scale.

Values are rounded, not pushed towards 0, and decoded coefficients keep their energy (`gains`) rather than the least
squared error: a network reads what is left of a shrunk activation otherwise (docs/log, 2026-11-28-transform).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from ...errors import CodecError
from ..codec import check_finite
from . import rans
from .groups import GROUP, Places, patterns_of, places_of
from .linear import LinearTransform
from .tables import CLASS_OF_ONE, CLASSES, LEVEL_OF_ONE, MAGNITUDES, TransformTables

_VERSION = 1
_HEADER = struct.Struct("<BBBB4sIIH")
_CRC = struct.Struct("<I")
_LARGEST = MAGNITUDES + 0xFFFF

#: A lane costs about a byte and saves a step of numpy: so many symbols should each have.
_SYMBOLS_PER_LANE = 256
_MOST_LANES_LOG2 = 7


class BoundaryCodec:
    """Codes activations of one boundary. Any thread.

    Args:
        tables: of the boundary.
        numpy: do not use what is compiled (`compiled`); payloads and refusals are the same.
    """

    def __init__(self, tables: TransformTables, numpy: bool = False) -> None:
        self.tables, self._numpy = tables, numpy
        self._linear = LinearTransform(tables, numpy)
        self._count = len(tables.order)
        self._groups = -(-self._count // GROUP)
        firsts = tables.levels[tables.order[::GROUP]].astype(np.int16)
        classes = firsts[None] - tables.steps.astype(np.int16)[:, None] + CLASS_OF_ONE
        self._classes = np.clip(classes, 0, CLASSES - 1).astype(np.uint8)
        self._steps = np.exp2((tables.steps.astype(np.float32) - LEVEL_OF_ONE) / 4).astype(np.float32)
        self._patterns = rans.SymbolTables(tables.patterns)
        self._magnitudes = rans.SymbolTables(tables.magnitudes)
        self._digest = bytes.fromhex(tables.digest[:8])

    @property
    def most_bytes(self) -> int:
        """No payload is longer: every symbol at its table's rarest, every magnitude escaped."""
        symbols = self._groups + self._count
        lanes = 1 << _MOST_LANES_LOG2
        return _HEADER.size + _CRC.size + 4 * lanes + (symbols * rans.PRECISION + 15) // 16 * 2 + 3 * self._count

    def encode(self, activation: npt.NDArray[np.floating], quality: int) -> bytes:
        """One activation of the tables' shape; `quality` is the index of a step.

        Raises:
            CodecError: it holds NaN or infinity, or more than the tables can hold; it has another shape; there is no
                such quality.
        """
        self._check(activation.shape, quality)
        check_finite(activation)
        integers = self.quantised(np.asarray(activation, np.float32), quality)
        return self.packed(integers, quality)

    def classes(self, quality: int) -> npt.NDArray[np.uint8]:
        """[groups], of each group at a quality."""
        found: npt.NDArray[np.uint8] = self._classes[quality]
        return found

    def in_steps(self, activation: npt.NDArray[np.float32], quality: int) -> npt.NDArray[np.float32]:
        """[groups, 4] coefficients over the step, in the order of scales; the last group is filled up with 0."""
        found = np.zeros(self._groups * GROUP, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever quantises looks
            np.take(self._linear.analyse(activation), self.tables.order, out=found[: self._count])
            found *= np.float32(1) / self._steps[quality]
        return found.reshape(-1, GROUP)

    def quantised(self, activation: npt.NDArray[np.float32], quality: int) -> npt.NDArray[np.int32]:
        """`in_steps`, rounded. Raises CodecError: they are too large."""
        coefficients = self.in_steps(activation, quality)
        peak = float(np.abs(coefficients).max())
        if not peak < _LARGEST:
            raise CodecError(
                f"the activation is {peak:.3g} steps from the images that it was calibrated on, more than {_LARGEST} "
                "can be coded; use int8 for it"
            )
        integers: npt.NDArray[np.int32] = np.rint(coefficients).astype(np.int32)
        return integers

    def packed(self, integers: npt.NDArray[np.int32], quality: int) -> bytes:
        """The payload of what `quantised` gave."""
        patterns, places = patterns_of(integers, self._numpy)
        groups = int(places[-1]) // GROUP + 1 if len(places) else 0
        patterns, classes = patterns[:groups], self._classes[quality, :groups]
        values = integers.reshape(-1).take(places)
        above = np.minimum(np.abs(values), MAGNITUDES) - 1
        lanes_log2 = _lanes_log2(groups + len(values))
        signs, seeds = _signs_out(values < 0, 1 << lanes_log2)
        intervals = np.empty(groups + len(values), np.uint32)
        self._patterns.intervals_of(classes, patterns, intervals[:groups])
        self._magnitudes.intervals_of(classes.take(places >> 2), above, intervals[groups:])
        words = rans.encode(intervals, seeds, self._numpy)
        large = np.abs(values[above == MAGNITUDES - 1]) - MAGNITUDES
        if len(large) > 0xFFFF:
            raise CodecError(f"{len(large)} coefficients are far beyond calibration; use int8 for this activation")
        payload = b"".join(
            [
                _HEADER.pack(_VERSION, quality, lanes_log2, 0, self._digest, groups, len(words), len(large)),
                signs,
                large.astype("<u2").tobytes(),
                words.astype("<u2").tobytes(),
            ]
        )
        return payload + _CRC.pack(zlib.crc32(payload))

    def decode(self, payload: bytes | memoryview, out: npt.NDArray[np.float32]) -> None:
        """A payload into `out` of the tables' shape.

        Raises:
            CodecError: it was cut off or altered, or is of other tables.
        """
        self._check(out.shape, 0)
        quality, groups, places, values = self._read(payload)
        scales = self._steps[quality] * self.tables.gains
        coded = values.astype(np.float32) * scales.take(self._classes[quality].take(places >> 2))
        inside = len(places) if groups < self._groups else int(np.searchsorted(places, self._count))
        self._linear.synthesise(places[:inside], coded[:inside], out)

    def integers(self, payload: bytes | memoryview) -> tuple[npt.NDArray[np.int32], int]:
        """[coded groups, 4] integers of a payload, and its quality. Raises CodecError as `decode`."""
        quality, groups, places, values = self._read(payload)
        integers = np.zeros(groups * GROUP, np.int32)
        integers[places] = values
        return integers.reshape(-1, GROUP), quality

    def _read(self, payload: bytes | memoryview) -> tuple[int, int, Places, npt.NDArray[np.int32]]:
        """Quality, coded groups, and the integers that are not 0 with their places among all."""
        payload = memoryview(payload)
        quality, lanes_log2, groups, words, escapes = self._header(payload)
        behind = len(payload) - _CRC.size
        of_words, of_escapes = behind - 2 * words, behind - 2 * (words + escapes)
        if of_escapes < _HEADER.size:
            raise CodecError("the payload was cut off: it is shorter than its header says")
        decoder = rans.Decoder(payload[of_words:behind], 1 << lanes_log2, self._numpy)
        classes = self._classes[quality, :groups]
        places = places_of(decoder.read(self._patterns, classes), self._numpy)
        magnitudes = decoder.read(self._magnitudes, classes.take(places >> 2)).astype(np.int32) + 1
        negative = _signs_in(payload[_HEADER.size : of_escapes], decoder.finish(), len(magnitudes))
        large = np.flatnonzero(magnitudes == MAGNITUDES)
        if len(large) != escapes:
            raise CodecError(f"the payload has {escapes} escapes for {len(large)} magnitudes")
        magnitudes[large] += np.frombuffer(payload[of_escapes:of_words], "<u2")
        return quality, groups, places, magnitudes * (1 - 2 * negative.astype(np.int32))

    def _header(self, payload: memoryview) -> tuple[int, int, int, int, int]:
        if not _HEADER.size + _CRC.size <= len(payload) <= self.most_bytes:
            raise CodecError(
                f"the payload has {len(payload)} bytes; with these tables it has at most {self.most_bytes}"
            )
        if zlib.crc32(payload[: -_CRC.size]) != _CRC.unpack(payload[-_CRC.size :])[0]:
            raise CodecError("the payload was cut off or altered: its CRC-32 differs")
        version, quality, lanes_log2, zero, digest, groups, words, escapes = _HEADER.unpack(payload[: _HEADER.size])
        if version != _VERSION or zero:
            raise CodecError(f"the payload is of version {version}; this build reads version {_VERSION}")
        if digest != self._digest:
            raise CodecError(
                f"the payload was coded with tables {digest.hex()}, these are {self._digest.hex()}: the model was "
                "calibrated again; fetch its tables anew"
            )
        if quality >= len(self._steps) or lanes_log2 > _MOST_LANES_LOG2 or groups > self._groups:
            raise CodecError("the payload's quality, lanes or groups are not possible with these tables")
        return quality, lanes_log2, groups, words, escapes

    def _check(self, shape: tuple[int, ...], quality: int) -> None:
        if tuple(shape) != self.tables.shape:
            raise CodecError(f"shape {tuple(shape)}; these tables are of activations {self.tables.shape}")
        if not 0 <= quality < len(self._steps):
            raise CodecError(f"quality {quality}; these tables have 0 to {len(self._steps) - 1}")


def digest_in(payload: bytes | memoryview) -> bytes:
    """The first four bytes of the digest of the tables that made a payload. Raises CodecError: it is cut off."""
    if len(payload) < _HEADER.size + _CRC.size:
        raise CodecError(f"the payload has {len(payload)} bytes and was cut off: its header alone has {_HEADER.size}")
    return bytes(payload[4:8])


def _lanes_log2(symbols: int) -> int:
    return min(max(symbols // _SYMBOLS_PER_LANE, 1).bit_length() - 1, _MOST_LANES_LOG2)


def _signs_out(negative: npt.NDArray[np.bool_], lanes: int) -> tuple[bytes, rans.Words]:
    """Signs as bytes, and the lanes' seeds, which hold the first of them."""
    packed = np.packbits(negative, bitorder="little")
    inside = np.zeros(2 * lanes, np.uint8)
    inside[: len(packed)] = packed[: len(inside)]
    return packed[len(inside) :].tobytes(), inside.view("<u2").astype(np.uint16)


def _signs_in(outside: memoryview, seeds: rans.Words, count: int) -> npt.NDArray[np.bool_]:
    """What `_signs_out` took. Raises CodecError: the number of bytes is not that of so many signs."""
    inside = seeds.astype("<u2").view(np.uint8)
    wanted = -(-count // 8)
    if len(outside) != max(wanted - len(inside), 0):
        raise CodecError(f"the payload has {len(outside)} bytes of signs for {count} coefficients")
    packed = np.concatenate([inside, np.frombuffer(outside, np.uint8)])
    if packed[wanted:].any():
        raise CodecError("the payload was altered: bits follow the last sign")
    found: npt.NDArray[np.bool_] = np.unpackbits(packed[:wanted], count=count, bitorder="little").astype(np.bool_)
    return found
