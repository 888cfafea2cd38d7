"""One line of an error, also of one that says nothing, or begins with an empty line."""

from __future__ import annotations

import pytest

from slicer.core.common.error_text import first_line, last_line, named_line


@pytest.mark.parametrize(
    ("error", "first", "last", "named"),
    [
        (ValueError("too many"), "too many", "too many", "ValueError: too many"),
        (ValueError("\n  one \n two\n\n"), "one", "two", "ValueError: one"),
        (KeyError("a"), "'a'", "'a'", "KeyError: 'a'"),
        (AssertionError(), "AssertionError", "AssertionError", "AssertionError"),
        (OSError(" \n "), "OSError", "OSError", "OSError"),
    ],
)
def test_one_line(error: Exception, first: str, last: str, named: str) -> None:
    assert (first_line(error), last_line(error), named_line(error)) == (first, last, named)
