"""What the load job says of its runs: tables, the JSON document and the files, from made-up records."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import actors
from actors.records.step import StepSeen
from actors.report import files as report_files
from actors.report.report_tables import group_table, tables, text
from actors.report.result import Result, document
from actors.report.statistics import PHASES, StrategyRun
from actors.report.tables import Table, mib, number, share
from slicer.core.records.record import Record

SCHEMA = json.loads((Path(actors.__file__).parent / "report/result.schema.json").read_text(encoding="utf-8"))


def record(at_s: float, took_ms: float, cut: int = 1, **more: Any) -> Record:
    made = Record(id=f"r{at_s}/{cut}", device="d", group="g", cut=cut, image=0, label=7, scheduled_s=at_s)
    made.outcome, made.top1, made.reference_top1, made.rows_per_step = "answered", 7, 7, (2,)
    made.inference_ms, made.finished_s, made.payload_bytes = took_ms, at_s + took_ms / 1000, 1000
    for phase in PHASES:
        setattr(made, f"{phase}_ms", took_ms / len(PHASES))
    for name, value in more.items():
        setattr(made, name, value)
    return made


def steady(factor: float, seed: int) -> tuple[Record, ...]:
    rng = random.Random(seed)
    return tuple(record(t / 10, factor * rng.uniform(50, 60), cut=t % 5) for t in range(100))


SERVER = {
    "busy_share": 0.5,
    "steps": 100,
    "rows_per_step": 2.0,
    "joules_per_answer": None,
    "memory_bytes": {"weights": 2**21, "process": 2**28},
}


def result(*runs: StrategyRun, **more: Any) -> Result:
    manifest: dict[str, Any] = {
        "commit": "abc",
        "configuration": {"strategies": ["unbatched", "per_slice"]},
        "versions": {"ray": "2"},
        "hardware": {},
        "seeds": [0, 1],
    }
    return Result("open loop: made up", tuple(runs), more.pop("emulated", ()), manifest, "unbatched", **more)


def two_strategies() -> Result:
    return result(
        *(
            StrategyRun(name, seed, "open", 0.0, 10.0, steady(factor, seed), SERVER)
            for seed in (0, 1)
            for name, factor in (("per_slice", 0.5), ("unbatched", 1.0))
        )
    )


def test_the_document_follows_its_schema_and_survives_json() -> None:
    found = json.loads(json.dumps(document(two_strategies()), allow_nan=False))
    jsonschema.validate(found, SCHEMA)
    assert list(found["strategies"]) == ["unbatched", "per_slice"], "as asked for, not as they ran"
    figures = found["strategies"]["per_slice"]
    assert (figures["requests"], figures["answered"], figures["agreement_top1"]) == (200, 200, 1.0)
    assert sum(cut["requests"] for cut in figures["cuts"].values()) == 200
    ratio = figures["ratio_to_unbatched"]["mean_ms"]
    assert (ratio["ratio"], ratio["n"]) == (pytest.approx(0.5), 2)
    assert "ratio_to_unbatched" not in found["strategies"]["unbatched"]


def test_a_run_without_any_answer_is_a_document_too() -> None:
    lost = record(0.0, 1.0, outcome="lost", inference_ms=None, finished_s=None, message="the server went away")
    found = result(StrategyRun("unbatched", 0, "open", 0.0, 1.0, (lost,)))
    said = json.loads(json.dumps(document(found), allow_nan=False))
    jsonschema.validate(said, SCHEMA)
    assert said["strategies"]["unbatched"]["lost"] == 1
    assert said["strategies"]["unbatched"]["mean_ms"] is None
    assert "no request was answered" in text(found)
    assert "MISSED: unbatched: 1 lost, such as: the server went away." in text(found)


def test_an_unstable_strategy_has_no_latency_in_table_or_document() -> None:
    growing = tuple(record(t / 10, 20 + 10 * t) for t in range(100))
    found = result(
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, growing),
        StrategyRun("per_slice", 0, "open", 0.0, 10.0, steady(1, 0)),
    )
    said = document(found)
    jsonschema.validate(said, SCHEMA)
    assert said["strategies"]["unbatched"]["unstable"] is True
    assert said["strategies"]["unbatched"]["p99_ms"] is None
    assert said["strategies"]["unbatched"]["cuts"]["1"]["mean_ms"] is None
    assert said["strategies"]["per_slice"]["ratio_to_unbatched"]["mean_ms"] is None, "nothing to compare with"
    by_strategy = tables(found)[0]
    assert by_strategy.rows[0][7:11] == ["unstable", "-", "-", "-"]
    assert "UNSTABLE: unbatched, seed 0" in text(found)


def test_an_invalid_run_says_so_and_is_in_no_ratio() -> None:
    late = tuple(record(t / 10, 50.0, generator_lag_ms=40.0) for t in range(100))
    found = result(
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)),
        StrategyRun("per_slice", 0, "open", 0.0, 10.0, late),
    )
    said = document(found)
    assert "lag p99 40.0 ms" in said["strategies"]["per_slice"]["invalid"]["0"]
    assert said["strategies"]["per_slice"]["ratio_to_unbatched"]["mean_ms"] is None
    assert said["generator_lag_ms"]["p99_worst_run"] == 40.0
    assert "INVALID: per_slice, seed 0" in text(found)
    assert tables(found)[0].rows[1][0] == "per_slice (!)"
    assert len(tables(found)) == 2, "no table of ratios without a ratio"
    assert len(tables(two_strategies())) == 3


def test_emulated_parts_overruns_and_refusals_are_said_everywhere(tmp_path: Path) -> None:
    rows = (*steady(1.0, 0), record(5, 50.0, overrun=True), record(6, 1.0, outcome="refused", code="overloaded"))
    found = result(
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, rows), emulated=("emulated device slow-board (made up)",)
    )
    report_files.write(found, tmp_path)
    for shown in (text(found), *((tmp_path / name).read_text() for name in ("report.md", "report.html"))):
        assert "Emulated: device slow-board (made up)." in shown
        assert "OVERRUN: unbatched: 1 of 102" in shown
        assert "MISSED: unbatched: 1 refused (overloaded)." in shown


def test_the_files_of_a_report(tmp_path: Path) -> None:
    found = two_strategies()
    report_files.write(found, tmp_path / "made" / "here")
    directory = tmp_path / "made" / "here"
    drawn = ("summary", "latency_cdf", "phases", "over_time", "memory", "groups")  # no timeline without steps
    pictures = [f"{name}.{ending}" for name in drawn for ending in ("png", "svg")]
    texts = ["records.jsonl", "report.html", "report.md", "result.json", "steps.jsonl"]
    assert sorted(path.name for path in directory.iterdir()) == sorted([*pictures, *texts])
    assert {path.name for path in directory.iterdir()} <= set(report_files.FILES)
    lines = [json.loads(line) for line in (directory / "records.jsonl").read_text().splitlines()]
    assert len(lines) == 400
    assert {line["strategy"] for line in lines} == {"unbatched", "per_slice"}
    assert lines[0]["warmup"] is False and lines[0]["rows_per_step"] == [2]
    for name in drawn:
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (directory / f"{name}.svg").read_bytes()
        assert f"({name}.png)" in (directory / "report.md").read_text()
    assert (directory / "report.html").read_text().count("<svg") == len(drawn)
    assert json.loads((directory / "result.json").read_text()) == json.loads(json.dumps(document(found)))


def test_records_can_be_summarised_again_from_the_file_alone(tmp_path: Path) -> None:
    report_files.write(two_strategies(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    again = [line["inference_ms"] for line in lines if line["strategy"] == "per_slice" and not line["warmup"]]
    mean = document(two_strategies())["strategies"]["per_slice"]["mean_ms"]
    assert sum(again) / len(again) == pytest.approx(mean)


def test_the_steps_of_the_accelerator_have_a_file_and_a_count(tmp_path: Path) -> None:
    steps = (StepSeen("m", 1, 4, 0.5, 0.6123456789, {1: 2, 3: 1}),)
    found = result(StrategyRun("per_slice", 7, "open", 0.0, 10.0, steady(1, 0), SERVER, steps))
    report_files.write(found, tmp_path)
    (line,) = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "strategy": "per_slice",
        "seed": 7,
        "model": "m",
        "start": 1,
        "end": 4,
        "began_s": 0.5,
        "ended_s": 0.612346,
        "entries": {"1": 2, "3": 1},
    }
    said = json.loads((tmp_path / "result.json").read_text())
    jsonschema.validate(said, SCHEMA)
    assert said["strategies"]["per_slice"]["runs"][0]["traced_steps"] == 1
    assert (tmp_path / "timeline.svg").is_file()


def test_html_is_escaped(tmp_path: Path) -> None:
    report_files.write(
        result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)), notes=("<b>bold</b>",)), tmp_path
    )
    assert "&lt;b&gt;bold&lt;/b&gt;" in (tmp_path / "report.html").read_text()


def test_the_tables_as_people_read_them() -> None:
    even = tuple(
        record(t / 10, 70.0 + t % 2, payload_bytes=1500, answer_bytes=300, wait_ms=12.5 + t % 2) for t in range(100)
    )
    late = tuple(record(t / 10, 50.0, generator_lag_ms=40.0) for t in range(100))
    found = result(
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, even, SERVER),
        StrategyRun("per_slice", 0, "open", 0.0, 10.0, late),
    )
    by_strategy, by_cut = tables(found)
    assert by_strategy.title == (
        "Per strategy (inference time in ms, memory in MiB; (!) not to be published, see below)"
    )
    assert " ".join(by_strategy.header) == (
        "strategy asked answered refused dropped lost img/s mean p50 p95 p99 rows/step busy weights process top-1 agree"
    )
    assert " ".join(by_strategy.rows[0]) == (
        "unbatched 100 100 0 0 0 10.0 70.5 70.5 71.0 71.0 2.00 50% 2.0 256 100.0% 100.0%"
    )
    assert " ".join(by_strategy.rows[1]) == "per_slice (!) 100 100 0 0 0 10.0 50.0 50.0 50.0 50.0 - - - - 100.0% 100.0%"
    assert by_cut.title == ("Per strategy and cut (ms; the means from wait to rest sum up to mean; kB on the wire)")
    assert " ".join(by_cut.header) == (
        "strategy cut answered img/s mean p50 p95 p99 wait head enc net admit queue exec rest rows/step kB kB back"
        " top-1 agree"
    )
    assert " ".join(by_cut.rows[0]) == (
        "unbatched 1 100/100 10.0 70.5 70.5 71.0 71.0 13.0 10.1 10.1 10.1 10.1 10.1 10.1 -2.9 2.00 1.5 0.3 100.0%"
        " 100.0%"
    )
    assert {column.left for column in (by_strategy, by_cut)} == {1}
    by_group = group_table(found)
    assert by_group.title == "Per strategy and group of devices (ms; kB on the wire)"
    assert " ".join(by_group.header) == "strategy group cut, codec devices answered p50 p99 kB kB back"
    assert " ".join(by_group.rows[0]) == "unbatched g 1 : 100% 1 100/100 70.5 71.0 1.5 0.3"


def test_what_ran_the_heads_is_told_where_it_is_not_torch_alone() -> None:
    plain = result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)))
    for others, runtime in (("torch", None), ("onnx", "onnx"), ("lab.heads:Npu", "lab.heads:Npu")):
        devices = [{"group": "g", "runtime": others}] * 2
        found = group_table(replace(plain, manifest={**plain.manifest, "devices": devices}))
        assert found.header[2] == ("cut, codec" if runtime is None else "runtime")
        assert runtime is None or found.rows[0][2] == runtime
        assert {len(row) for row in found.rows} == {len(found.header)}


def test_what_came_back_is_a_figure_of_its_own_and_a_record_without_it_still_reads() -> None:
    back = tuple(record(t / 10, 70.0, answer_bytes=302_000 + t) for t in range(3))
    said = document(result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, back)))
    jsonschema.validate(said, SCHEMA)
    assert said["strategies"]["unbatched"]["cuts"]["1"]["answer_bytes"] == 302_001
    old = {key: value for key, value in back[0].to_json().items() if key != "answer_bytes"}
    assert Record(**old).answer_bytes == 0


def test_table_cells_stand_under_their_header() -> None:
    table = Table("T", ["name", "x"], [["a", "1.0"], ["longer", "22.0"]])
    assert table.text().splitlines() == ["T", "name       x", "------  ----", "a        1.0", "longer  22.0"]
    assert table.markdown().splitlines()[2:4] == ["| name | x |", "| :-- | --: |"]


def test_numbers_say_what_is_missing_and_only_all_is_100_percent() -> None:
    assert (number(None), number(1.25, 2), mib(None), mib(3 * 2**20)) == ("-", "1.25", "-", "3.0")
    assert (share(None), share(1.0), share(0.5), share(0.99999)) == ("-", "100.0%", "50.0%", "99.9990%")
