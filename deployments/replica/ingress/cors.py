"""Which pages of other origins may ask: the rules of cross-origin resource sharing (CORS), which browsers obey.

No rule for who may ask at all: that is the token's. Without an origin in the configuration nothing here is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slicer.core.protocol import packet
from slicer.core.protocol.oip import http_body

Headers = list[tuple[bytes, bytes]]

_LENGTH = http_body.LENGTH_HEADER.lower()

#: What a page may send, and what it may read of an answer, beside what every page may.
_SENT = f"authorization, content-type, {_LENGTH}".encode()
_READ = f"{packet.SERVER_HEADER}, {_LENGTH}, retry-after".encode()

#: For so long a browser need not ask again, s.
_KNOWN_S = b"600"


class Cors:
    """Immutable, so calls may overlap.

    Args:
        origins: as browsers write them, ``https://host[:port]``; none: no page of another origin may ask.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers(self, asked: Iterable[tuple[bytes, bytes]]) -> Headers:
        """What is added to the answer to a request with these headers."""
        if not self._origins:
            return []
        vary = (b"vary", b"origin")  # to everybody, since a cache may give this answer to another page
        origin = dict(asked).get(b"origin", b"")
        if origin not in self._origins:
            return [vary]
        return [vary, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _READ)]

    def preflight(self, method: str, asked: Mapping[bytes, bytes]) -> Headers | None:
        """What the answer to a browser's question before a request says, beside `headers`; None: it is none that we
        know the origin of."""
        if method != "OPTIONS" or b"access-control-request-method" not in asked:
            return None
        if asked.get(b"origin") not in self._origins:
            return None
        return [
            (b"access-control-allow-methods", b"GET, HEAD, POST"),
            (b"access-control-allow-headers", _SENT),
            (b"access-control-max-age", _KNOWN_S),
        ]
