"""Cores and fronts for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.deployments.ipc.bench import Bench, bench


@pytest.fixture
def host() -> Iterator[Bench]:
    with bench() as made:
        yield made
