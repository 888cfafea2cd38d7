"""Whether a caller has the token; one answer for HTTP and gRPC."""

from __future__ import annotations

import hmac

_SCHEME = b"bearer "


def has_token(given: bytes, token: bytes) -> bool:
    """Whether an authorization is ``Bearer TOKEN``. The scheme's letters may be of either case (RFC 9110).

    It takes as long for every wrong token of one length.
    """
    scheme, secret = given[: len(_SCHEME)], given[len(_SCHEME) :]
    return scheme.lower() == _SCHEME and hmac.compare_digest(secret, token)
