"""What an error says, in one line: for messages and reports that quote somebody else's error."""

from __future__ import annotations

from collections.abc import Iterator


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
