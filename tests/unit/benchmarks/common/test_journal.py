"""A benchmark that was cut off goes on: what its journal keeps, and when it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.journal import Journal
from slicer.errors import ConfigError


def test_what_was_measured_is_there_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    Journal(path, {"profile": "a"}).put([1.5, []], "per_tail", 2.0, 0)
    again = Journal(path, {"profile": "a"})
    assert again.get("per_tail", 2.0, 0) == [1.5, []]
    assert again.get("per_tail", 2.0, 1) is None


def test_the_line_at_which_a_run_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {}).put(1, "a")
    with path.open("a") as file:
        file.write('["b", 2')
    assert Journal(path, {}).get("b") is None
    assert Journal(path, {}).get("a") == 1


def test_a_file_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {"profile": "a", "points": 3})
    with pytest.raises(ConfigError, match="profile 'a' there, 'b' here"):
        Journal(path, {"profile": "b", "points": 3})


def test_without_a_file_nothing_outlives_the_run() -> None:
    journal = Journal(None, {})
    journal.put(1, "a")
    assert journal.get("a") == 1


def test_what_was_measured_under_a_strategys_old_name_is_found_under_its_new_one(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_text('{"asked": 1}\n["naive/2.0/0", 5.0]\n["per_tail/2.0/0", 6.0]\n')
    journal = Journal(file, {"asked": 1})
    assert (journal.get("serve_batch", 2.0, 0), journal.get("per_tail", 2.0, 0)) == (5.0, 6.0)
