"""The examples in the docstrings of what users extend run as they stand."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from unittest import mock

import pytest

from slicer.core.codecs.registry import CODECS, IMAGE_CODECS

EXAMPLES = [
    "actors.device.device:Device",
    "slicer.core.heads.head_runtime:HeadRuntime",
    "actors.network.link:Link",
    "deployments.executors.base:Executor",
    "deployments.scheduling.scheduler:Policy",
    "slicer.core.codecs.codec:Codec",
]


@pytest.fixture(autouse=True)
def own_codecs_go_afterwards() -> Iterator[None]:
    with mock.patch.dict(CODECS), mock.patch.dict(IMAGE_CODECS):
        yield


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_example_runs(path: str) -> None:
    module_name, _, name = path.partition(":")
    thing = getattr(importlib.import_module(module_name), name)
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    assert test.examples, f"{path} has no example"
    said: list[str] = []

    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)

    assert not said, "".join(said)
