"""A benchmark's document: the file, and the last line of stdout."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.common import results
from slicer.common.comparison import interval, paired_ratio


def test_it_is_a_file_and_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "result.json"
    assert results.publish({"figure": 1.5}, out, "theme") == out
    assert json.loads(out.read_text()) == {"figure": 1.5}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"figure": 1.5}


def test_without_a_name_it_says_theme_hardware_and_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    name = results.publish({}, None, "outage_emulated").name
    assert name.startswith("outage_emulated-") and "cpu_20" in name and name.endswith(".json")


def test_without_a_file_it_is_only_printed(capsys: pytest.CaptureFixture[str]) -> None:
    results.put({"figure": 1.5}, None)
    assert json.loads(capsys.readouterr().out) == {"figure": 1.5}


def test_a_manifest_says_what_was_asked_and_how_busy_the_machine_was() -> None:
    made = results.manifest(argparse.Namespace(seed=3, requests=10, out="x"), 0.5)
    assert made["configuration"] == {"seed": "3", "requests": "10"}
    assert made["seeds"] == [3]
    before, after = made["load_average_1m_before_and_after"]
    assert before == 0.5 and after >= 0
    assert {"commit", "command", "versions", "hardware"} <= made.keys()


def test_a_paired_ratio_stands_in_a_document_with_four_digits() -> None:
    found = results.ratio_figures(paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]))
    assert found == {"ratio": 2.0, "ci95": [2.0, 2.0], "by_seed": [2.0, 2.0, 2.0]}
    assert results.ratio_figures(paired_ratio([1.0], [3.0])) == {"ratio": 0.3333, "ci95": None, "by_seed": [0.3333]}


def test_an_interval_stands_in_a_document_as_two_bounds() -> None:
    assert results.ci95(interval([7.0] * 5)) == [7.0, 7.0]
    assert results.ci95((1.23456, 2.0)) == [1.2346, 2.0]
    assert results.ci95(interval([7.0])) is None


def test_a_list_stands_in_a_manifest_as_it_was_given() -> None:
    made = results.manifest(
        argparse.Namespace(seeds=(0, 1), cases=("a", "b"), hidden=1), seeds=(0, 1), without=("hidden",)
    )
    assert made["configuration"] == {"seeds": "0,1", "cases": "a,b"} and made["seeds"] == [0, 1]
    assert "load_average_1m_before_and_after" not in made


def test_a_path_of_this_machine_does_not_stand_in_the_manifest(tmp_path: Path) -> None:
    args = argparse.Namespace(seed=0, resume=tmp_path / "rows.jsonl", fleet=Path("examples/fleet.yaml"))
    found = results.manifest(args)["configuration"]
    assert (found["resume"], found["fleet"]) == ("rows.jsonl", "examples/fleet.yaml")
