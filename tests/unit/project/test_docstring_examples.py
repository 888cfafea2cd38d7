"""The examples in the docstrings of extension points run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

#: Modules whose docstrings hold examples, one a line.
MODULES = [
    "deployments.executors.base",
    "deployments.scheduling.scheduler",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
