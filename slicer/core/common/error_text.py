"""Text for messages: a value however long it is, and what somebody else's error says, in one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

#: Characters of anything in a message.
MAX_SHOWN = 200


def first_line(error: BaseException) -> str:
    """The first line of its message that is not blank; the name of its class where it says nothing."""
    return next(_lines(error), type(error).__name__)


def last_line(error: BaseException) -> str:
    """The last one: of what Ray raises, whose message is the other side's traceback, this is the error itself."""
    return [type(error).__name__, *_lines(error)][-1]


def named_line(error: BaseException) -> str:
    """Its class and the first line of its message: ``ValueError: too many``; the class alone where it says nothing."""
    name = type(error).__name__
    said = next(_lines(error), "")
    return f"{name}: {said}" if said else name


def _lines(error: BaseException) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())


def shown(value: Any) -> str:
    """A value for a message, however long it is."""
    text = value if isinstance(value, str) else os.fspath(value) if isinstance(value, Path) else _short_repr(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _short_repr(value: Any, depth: int = 3) -> str:
    """A repr whose cost does not grow with the value."""
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN])
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[:MAX_SHOWN]))
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple):
        if depth == 0:
            return "..."
        first = list(islice(value.items() if isinstance(value, dict) else value, 8))
        more = ", ..." if len(value) > len(first) else ""
        if isinstance(value, dict):
            inner = ", ".join(f"{_short_repr(k, depth - 1)}: {_short_repr(v, depth - 1)}" for k, v in first)
            return f"{{{inner}{more}}}"
        inner = ", ".join(_short_repr(one, depth - 1) for one in first) + more
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    return repr(value)


def nearest(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing if no known word is near."""
    close = difflib.get_close_matches(str(word)[:100].lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
