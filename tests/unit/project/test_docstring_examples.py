"""The examples in the docstrings of what users extend run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

EXAMPLES = [
    "deployments.executors.base:Executor",
    "deployments.scheduling.scheduler:Policy",
]


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_example_runs(path: str) -> None:
    module_name, _, name = path.partition(":")
    thing = getattr(importlib.import_module(module_name), name)
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    assert test.examples, f"{path} has no example"
    said: list[str] = []

    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)

    assert not said, "".join(said)
