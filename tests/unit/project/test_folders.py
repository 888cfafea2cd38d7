"""A folder holds at most about 14 entries, apart from those that CONTRIBUTING names; unit tests mirror the rooms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import ROOT

#: Beside the root, which is not asked.
EXCEPTIONS = ("docs/decisions", "benchmarks/results")
MOST = 15

#: What `make web` fetched.
NOT_OURS = {"node_modules"}

#: Tests of all rooms of a package at once.
ABOVE_ROOMS = {"deployments": {"start"}, "benchmarks": {"command_lines", "stored_results", "without_ray"}}


def entries(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__", *NOT_OURS)]


def folders(top: str) -> list[Path]:
    inner = (p for p in (ROOT / top).rglob("*") if p.is_dir() and p.name != "__pycache__")
    return [ROOT / top, *(p for p in inner if not NOT_OURS & set(p.parts))]


@pytest.mark.parametrize(
    "top", ["slicer", "actors", "deployments", "clients", "benchmarks", "docs", "examples", "tests"]
)
def test_a_folder_is_taken_in_by_one_look(top: str) -> None:
    full = {str(folder.relative_to(ROOT)): len(entries(folder)) for folder in folders(top)}
    assert {name: count for name, count in full.items() if count > MOST and name not in EXCEPTIONS} == {}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_one_and_is_named(name: str) -> None:
    assert len(entries(ROOT / name)) > MOST
    assert f"`{name}`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("top", ["slicer", "actors", "deployments", "benchmarks"])
def test_unit_tests_lie_in_the_rooms_of_what_they_test(top: str) -> None:
    of_tests = [folder.relative_to(ROOT / "tests/unit") for folder in folders(f"tests/unit/{top}")]
    assert [str(folder) for folder in of_tests if not (ROOT / folder).is_dir()] == []
    loose = {path.stem.removeprefix("test_") for path in entries(ROOT / "tests/unit" / top) if path.is_file()}
    assert loose <= {path.stem for path in (ROOT / top).glob("*.py")} | ABOVE_ROOMS.get(top, set())
