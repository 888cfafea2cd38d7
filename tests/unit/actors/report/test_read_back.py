"""Records that were written are a report again: a load job's, and those of devices on their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.report import files as report_files
from actors.report.plots import draw
from actors.report.read_back import AS_SERVED, read_back
from actors.report.report_tables import text
from actors.report.result import document
from headtail.cli import main
from slicer.core.records.record import Record
from slicer.core.standalone.records_file import RecordsFile
from slicer.errors import ConfigError
from tests.unit.actors.report.test_result import two_strategies


@pytest.fixture(autouse=True)
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "HOW", {"summary": draw.HOW["summary"]})


def device(folder: Path, name: str, answers: int) -> Path:
    """Records of one device on its own: two to warm up, then so many answers and one that was refused."""
    file = RecordsFile(folder)
    for number in range(-2, answers + 1):
        which = f"warmup-{number}" if number < 0 else str(number)
        record = Record(f"{name}/{which}", name, "", 2, 0, None, max(number, 0) * 0.5, started_s=0.0, codec="int8")
        if number == answers:
            record.close("refused", "overloaded", "come again")
        else:
            record.close("answered", finished_s=record.scheduled_s + 0.02)
        file.write(record)
    file.close()
    return folder / "records.jsonl"


def test_a_load_jobs_figures_of_requests_are_the_same_again(tmp_path: Path) -> None:
    job = two_strategies()
    report_files.write(job, tmp_path)
    before, after = document(job)["strategies"], document(read_back([tmp_path / "records.jsonl"]))["strategies"]
    assert set(after) == set(before)
    for name, figures in before.items():
        for key in ("requests", "answered", "refused", "dropped", "lost", "mean_ms", "p99_ms", "phases_ms"):
            assert after[name][key] == figures[key], (name, key)
        for cut, of_cut in figures["cuts"].items():
            assert after[name]["cuts"][cut]["p50_ms"] == of_cut["p50_ms"]


def test_devices_on_their_own_are_runs_side_by_side_without_their_warm_up(tmp_path: Path) -> None:
    found = read_back([device(tmp_path / "a", "a", 10), device(tmp_path / "b", "b", 4)])
    figures = document(found)["strategies"][AS_SERVED]
    assert (figures["requests"], figures["answered"], figures["refused"]) == (16, 14, 2)
    assert figures["p50_ms"] == pytest.approx(20)
    assert [run.seed for run in found.runs] == [0, 1]
    assert "2 devices" in text(found)
    assert "what was emulated is not known" in text(found)


def test_what_was_emulated_is_said_again(tmp_path: Path) -> None:
    report_files.write(replace(two_strategies(), emulated=("emulated accelerator x",)), tmp_path)
    found = read_back([tmp_path / "records.jsonl"])
    assert found.emulated == ("emulated accelerator x",)
    assert "Emulated: accelerator x." in text(found)
    assert "is not known" not in text(found)


def test_the_command_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = device(tmp_path / "a", "a", 10)
    assert main(["report", str(records), "--out", str(tmp_path / "out")]) == 0
    assert "as served" in capsys.readouterr().out
    assert {"report.html", "report.md", "records.jsonl"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert main(["report", str(records), "--out", str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "eaten"}, "outcome 'eaten'"),
        ({"head_ms": "3"}, "head_ms is '3'"),
        ({"cut": 1.5}, "cut is 1.5"),
        ({"scheduled_s": None}, "scheduled_s is None"),
        ({"seed": "0"}, "seed is '0'"),
        ({"group": {}}, "group is {}"),
        ({"rows_per_step": 5}, "rows_per_step is 5"),
        ({"rows_per_step": ["a"]}, "rows_per_step is ['a']"),
        ({"cut": True}, "cut is True"),
        ({"mood": 1}, "unknown keys: mood"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = device(tmp_path, "a", 2)
    lines = path.read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), **change})
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"records\.jsonl, line 4 is no record") as error:
        read_back([path])
    assert reason in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"[1]", b"{", b"{}", b"[" * 100_000])
def test_a_file_without_records_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"records\.jsonl"):
        read_back([path])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_back([tmp_path / "missing"])


def test_a_file_of_warm_ups_alone_counts_nothing(tmp_path: Path) -> None:
    path = device(tmp_path, "a", 2)
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:2]))
    assert document(read_back([path]))["strategies"][AS_SERVED]["requests"] == 0
