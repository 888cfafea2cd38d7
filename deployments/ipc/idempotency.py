"""Requests that come again: a row runs once, however often its device had to send it.

A device that lost an answer on the way sends the request again, under the same `Request.key`, and may reach another
front by that. So the core keeps the books: a row that is still at work answers for both, and one that has ended is
answered from here. Bounded, and for a while only: what is not here any more simply runs again, which is harmless, since
an answer depends on the request alone. A request without a key has nothing to do with any other.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from deployments.engine.ledger import Outcome
from slicer.core.protocol.messages import Request

#: So many answers are kept at most, for so long; only those of up to so many bytes.
MOST = 4096
KEPT_S = 60.0
MOST_BYTES = 8192

#: Of a payload of more than twice as much, so many pieces of so many bytes count for its checksum.
_PIECES, _PIECE_BYTES = 128, 64

#: What two sendings of one request have in common: `key_of`. Never empty here.
Key = bytes

Waiter = TypeVar("Waiter")


class Answered(Generic[Waiter]):
    """Not thread-safe: it belongs to whoever hands rows to the engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[float, Outcome]] = OrderedDict()
        self._running: dict[Key, list[Waiter]] = {}

    def begin(self, key: Key, waiter: Waiter) -> Outcome | bool:
        """A row of this key has come: True: it is to run, and `end` must follow; else it must not run.

        False: an earlier sending is at work, and the waiter is told by `end`. An outcome: its earlier sending's answer.
        Looking and beginning are one step, so that of two sendings that come at once only one runs.
        """
        waiting = self._running.get(key)
        if waiting is not None:
            waiting.append(waiter)
            return False
        kept = self._kept.get(key)
        if kept is not None and self._clock() - kept[0] < KEPT_S:
            return kept[1]
        self._running[key] = []
        return True

    def end(self, key: Key, outcome: Outcome) -> list[Waiter]:
        """A row has ended. Returns who waited for it: theirs is this answer or, where there is none, the row to run."""
        waiting = self._running.pop(key, [])
        logits = outcome.logits
        if logits is not None and logits.nbytes <= MOST_BYTES:
            self._kept[key] = self._clock(), outcome
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return waiting


def key_of(request: Request) -> Key:
    """What two sendings of one request have in common: its key, what is asked, and a checksum of the payload.

    Empty where the request has no key. Keys are the client's own, so the checksum keeps two clients apart that count
    from 1. It is against accidents: that nobody gets the answer of another's request, a key must be hard to guess. Of a
    large payload it is one of pieces all over it: of the whole it would cost as much as the rest of the admission.

    Args:
        request: checked, so that what stands before the key in what is hashed is a name or a number that the server
            knows, and no key can pretend to be of another request.
    """
    if not request.key:
        return b""
    size, checksum = len(request.payload), _checksum(request.payload)
    said = f"{request.model}\0{request.manifest}\0{request.cut}\0{request.codec}\0{size} {checksum}\0{request.key}"
    # A key may hold halves of pairs, which JSON can say and UTF-8 cannot: they are no reason to fail its neighbours.
    return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=16).digest()


def _checksum(payload: bytes | memoryview) -> int:
    piece = len(payload) // _PIECES
    if piece <= 2 * _PIECE_BYTES:
        return zlib.crc32(payload)
    pieces = np.frombuffer(payload, np.uint8, piece * _PIECES).reshape(_PIECES, piece)
    return zlib.crc32(pieces[:, :_PIECE_BYTES].tobytes())
