"""The messages between a front and a core, each one datagram of a SOCK_SEQPACKET socket: msgpack of a flat tuple.

| from  | message                                                                                        |
|-------|------------------------------------------------------------------------------------------------|
| front | HELLO, VERSION; with the arena's descriptor                                                    |
| front | SUBMIT, model, entry, dtype, first ticket, offset of the rows, offset of the answers, arrivals, deadlines, keys, priorities |
| front | CANCEL, tickets                                                                                |
| core  | ENDED, rows in the core, [ticket, code, message, queue_s, execution_s, rows per step, shape] of each row |

A ticket is the front's own number of a row. Offsets are bytes in the front's arena, where the rows of one SUBMIT lie
side by side, and where the core writes what comes out of each. Times are seconds on this host's monotonic clock, which
all its processes share. Both sides are one release of one user, and the socket lies in a folder of that user alone, so a
message that does not fit is a defect, and ends the connection.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

VERSION = 2
HELLO, SUBMIT, CANCEL, ENDED = range(4)

#: Above any message: what a socket takes at once is about 200 kB by default, and `in_parts` keeps below it.
MOST_BYTES = 1 << 18

#: Rows, or their ends, in one message: with a refusal's longest text each they stay below MOST_BYTES.
MOST_ROWS = 64

#: Of rows: float32 and float16, as numpy names them.
TYPES = frozenset({"<f4", "<f2"})

#: The longest text of a refusal, in bytes.
MOST_TEXT = 2000


pack = msgpack.packb


def unpack(message: bytes) -> list[Any]:
    """The parts of a message.

    Raises:
        ValueError: it is none.
    """
    parts = msgpack.unpackb(message)
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"a message of {len(message)} bytes that is no list")
    return parts


def shortened(text: str) -> str:
    """As much of it as a message takes; what UTF-8 does not know is replaced."""
    return text.encode(errors="replace")[:MOST_TEXT].decode(errors="ignore")


def in_parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As many as one message holds, and the others."""
    for start in range(0, len(rows), MOST_ROWS):
        yield rows[start : start + MOST_ROWS]
