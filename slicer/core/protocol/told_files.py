"""Names and digests of files that another machine tells, checked."""

from __future__ import annotations

import re
from typing import Any

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # no path separators
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: What reading a document of another machine may raise, where it holds other values than it should.
DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


def digest_of(value: Any) -> str:
    """A SHA-256 in hex. Raises ValueError, TypeError: it is none."""
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is no sha256 digest")
    return str(value)


def check_file(name: str, size_bytes: int) -> None:
    """Raise ValueError unless it is a plain name, and a size."""
    if not _FILE_NAME.fullmatch(name) or size_bytes < 0:
        raise ValueError(f"file {name!r} has a bad name or size")
