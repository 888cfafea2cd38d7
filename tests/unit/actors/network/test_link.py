"""The example in the documentation of `Link` runs as it stands."""

from __future__ import annotations

import doctest

from actors.network import Link, link


def test_the_example_of_an_own_link_runs() -> None:
    assert ">>>" in (Link.__doc__ or "")
    failed, attempted = doctest.testmod(link)
    assert (failed, attempted > 0) == (0, True)
