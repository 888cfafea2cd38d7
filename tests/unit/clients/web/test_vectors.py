"""The JavaScript client equals our Python: its vectors are what this Python makes, and its own tests pass on them."""

from __future__ import annotations

import re
from pathlib import Path

import PIL
import pytest

from clients.web import make_vectors
from tests.unit.clients.web.nodejs import WEB, node

MODULES = sorted([*WEB.glob("*.js"), *WEB.glob("page/*.js"), *WEB.glob("src/*.js"), *WEB.glob("transform/*.js")])

#: What is made with Pillow's resize, whose order of passes is another one before this release.
OF_PILLOW_13 = ("resample.json", "preprocess.json")


@pytest.mark.parametrize("name", make_vectors.MAKERS)
def test_the_vectors_in_git_are_what_this_python_makes(name: str) -> None:
    if name in OF_PILLOW_13 and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip(f"Pillow {PIL.__version__} resizes tall images otherwise than Pillow 13, which made {name}")
    made = make_vectors.text_of(make_vectors.MAKERS[name]())
    again = "python -m clients.web.make_vectors makes them again"
    assert made.encode() == (make_vectors.FOLDER / name).read_bytes(), again


def test_the_vectors_are_all_there_is_and_few() -> None:
    files = list(make_vectors.FOLDER.iterdir())
    assert {file.name for file in files} == set(make_vectors.MAKERS)
    assert sum(file.stat().st_size for file in files) < 1_000_000


@pytest.mark.parametrize("name", sorted(path.name for path in (WEB / "tests").glob("*.test.js")))
def test_the_javascript_passes_its_own_tests(name: str) -> None:
    node("--test", f"tests/{name}")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_module_is_javascript_and_loads_only_its_neighbours(path: Path) -> None:
    node("--check", path)
    imported = re.findall(r'from "([^"]+)"', path.read_text(encoding="utf-8"))
    assert [name for name in imported if not (path.parent / name).is_file()] == []
