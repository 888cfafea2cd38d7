"""The codecs of one model's activations, by cut and name: the same on the device that encodes and the server.

Most codecs need to know an activation's shape and the axis of its channels. Those of `transform` need tables, too,
which calibration made for the cut (`protocol.calibration_index`); they are read when they are first used.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import CodecError, ShardError, StaleTablesError
from ..protocol.calibration_index import CalibratedCut, CalibrationIndex
from ..protocol.messages import ShardInfo
from . import activations
from .codec import Array
from .transform.names import needs_tables
from .transform.payload import BoundaryCodec, digest_in
from .transform.tables import TransformTables


class ModelCodecs:
    """Of one model. Any thread.

    Args:
        shapes: of its activations at the cuts 0..n, without a batch dimension.
        channel_axes: of these; empty: the codecs measure them.
        calibration: what tables there are; None: none.
        read: the bytes of a tables file; blocking. What it raises passes through.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        channel_axes: Sequence[int] = (),
        calibration: CalibrationIndex | None = None,
        read: Callable[[ShardInfo], bytes] | None = None,
    ) -> None:
        self.shapes, self.calibration = tuple(shapes), calibration
        self._axes, self._read = tuple(channel_axes), read
        self._known: dict[int, BoundaryCodec] = {}
        self._reading = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, those that some cuts alone have among them."""
        return (*activations.CODECS, *(self.calibration.codecs if self.calibration else ()))

    def prepare(self, codec: str, cut: int) -> None:
        """Read what `encode` and `decode` need, so that they do not wait for it.

        Raises:
            CodecError: the model has no such codec at this cut. ShardError: its tables are damaged.
        """
        if needs_tables(codec):
            self._quality(codec, cut)
            self._boundary(cut)

    def encode(self, codec: str, activation: npt.NDArray[np.floating], cut: int) -> bytes:
        """One activation at a cut to bytes.

        Raises:
            CodecError: it is not finite, or beyond what the codec holds; the model has no such codec at this cut.
            ShardError: its tables are damaged.
        """
        if needs_tables(codec):
            quality = self._quality(codec, cut)
            return self._boundary(cut).encode(activation, quality)
        return activations.encode(codec, activation, self._axis(cut))

    def check(self, codec: str, payload: bytes | memoryview, cut: int) -> None:
        """All that can be said of a payload before it is decoded.

        Raises:
            CodecError: its length is not possible, or the model has no such codec at this cut.
            StaleTablesError: it was made with other tables than these.
        """
        if not needs_tables(codec):
            activations.check_payload(codec, self.shapes[cut], payload, self._axis(cut))
            return
        self._quality(codec, cut)
        known = self._calibrated(codec, cut)
        if len(payload) > known.most_bytes:
            raise CodecError(
                f"the payload has {len(payload)} bytes; {codec} at cut {cut} has {known.most_bytes} at most"
            )
        if (told := digest_in(payload)) != (ours := bytes.fromhex(known.tables.sha256[:8])):
            raise StaleTablesError(
                f"the payload was coded with tables {told.hex()}, these are {ours.hex()}: the model was calibrated "
                "again; fetch its tables anew"
            )

    def decode(
        self,
        codec: str,
        payloads: Sequence[bytes | memoryview],
        cut: int,
        empty: Callable[[tuple[int, ...]], Array] = activations.ordinary,
    ) -> Array:
        """Payloads that have passed `check`, of one codec and cut, to rows [B, *shape], in order.

        Args:
            empty: makes the array.

        Raises:
            CodecError: one of them is bad. ShardError: the tables are damaged.
        """
        if not needs_tables(codec):
            return activations.decode_batch(codec, payloads, self.shapes[cut], empty, self._axis(cut), checked=True)
        boundary, rows = self._boundary(cut), empty((len(payloads), *self.shapes[cut]))
        for row, payload in zip(rows, payloads, strict=True):
            boundary.decode(payload, row)
        return rows

    def _axis(self, cut: int) -> int | None:
        return self._axes[cut] if self._axes else None

    def _calibrated(self, codec: str, cut: int) -> CalibratedCut:
        found = None if self.calibration is None else self.calibration.by_cut.get(cut)
        if found is None:
            there = tuple(self.calibration.by_cut) if self.calibration else ()
            raise CodecError(
                f"codec {codec} at cut {cut}: the model has tables at {', '.join(map(str, there)) or 'no cut'}; "
                "calibrate it (headtail slice MODEL --export DIR --calibrate IMAGES), or use int8 there"
            )
        return found

    def _quality(self, codec: str, cut: int) -> int:
        known = self._calibrated(codec, cut)
        if codec not in known.qualities:
            raise CodecError(f"unknown codec {codec!r} at cut {cut}; it has {', '.join(known.qualities)}")
        return known.qualities[codec]

    def _boundary(self, cut: int) -> BoundaryCodec:
        if (found := self._known.get(cut)) is not None:
            return found
        with self._reading:
            if cut not in self._known:
                self._known[cut] = self._load(self._calibrated("transform", cut))
            return self._known[cut]

    def _load(self, known: CalibratedCut) -> BoundaryCodec:
        assert self._read is not None, "tables are read by whoever has an index of them"
        data, what = self._read(known.tables), f"the tables of cut {known.cut}"
        if hashlib.sha256(data).hexdigest() != known.tables.sha256:
            raise ShardError(f"{what} are damaged: {known.tables.file} has another sha256; calibrate the model again")
        tables = TransformTables.from_bytes(data, what)
        if tables.shape != self.shapes[known.cut]:
            raise ShardError(f"{what} are of activations {tables.shape}, the model has {self.shapes[known.cut]}")
        if (most := max(known.qualities.values(), default=0)) >= len(tables.steps):
            raise ShardError(f"{what} have {len(tables.steps)} qualities, the index names quality {most}")
        return BoundaryCodec(tables)
