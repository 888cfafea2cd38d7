"""The parts of the cluster test (tests/rig) that need no cluster."""

from __future__ import annotations

import math
from pathlib import Path

import yaml

from tests.paths import ROOT
from tests.rig.claims_network import arithmetic_ms
from tests.rig.every_codec import CHOICES
from tests.rig.finding import Finding, judged, merged, unfinished
from tests.rig.hosts import Hosts
from tests.rig.jobs import Results, ledger, p99_ms
from tests.rig.operator import on_these_hosts


def test_the_clusters_file_changes_in_addresses_key_and_pip_lines_only() -> None:
    config = yaml.safe_load((ROOT / "cluster-onprem.yaml").read_text())
    made = on_these_hosts(config, "10.0.0.1", ["10.0.0.2"])
    assert {key for key in config if made[key] != config[key]} == {"provider", "auth", "setup_commands"}
    assert made["provider"] == {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    gone = [line for line in config["setup_commands"] if line not in made["setup_commands"]]
    assert len(gone) == 3
    assert all("pip install" in line or "-m venv" in line for line in gone)


def test_600_kb_over_50_mbit_and_10_ms() -> None:
    assert math.isclose(arithmetic_ms(600_000, 50.0), 120.5, abs_tol=0.1)
    assert arithmetic_ms(0, 1e9) > 20.0


def test_every_codec_is_there_and_begins_as_the_fleet_file_does() -> None:
    fleet = yaml.safe_load((ROOT / "tests/rig/fleets/codecs.yaml").read_text())
    (group,) = fleet["groups"]
    assert (CHOICES[0].cut, CHOICES[0].codec) == (group["cut"], group["codec"])
    assert len(CHOICES) == len({choice.codec for choice in CHOICES}) == 15


def records(*outcomes: str) -> tuple[dict[str, object], ...]:
    return tuple(
        {
            "id": f"run/cam-0/{number}",
            "device": "cam-0",
            "outcome": outcome,
            "message": "" if outcome == "answered" else "why",
            "scheduled_s": float(number),
            "inference_ms": 10.0 + number,
        }
        for number, outcome in enumerate(outcomes)
    )


def results(*mine: dict[str, object]) -> Results:
    return Results((), {"manifest": {"devices": [{"name": "cam-0", "node_ip": "10.0.0.2"}]}}, mine)


def test_a_ledger_closes_when_every_request_has_one_record_and_a_reason() -> None:
    mine = records("answered", "lost", "answered")
    assert ledger(results(*mine)) == (True, "3 sent = 2 answered, 1 lost")
    assert not ledger(results(*mine[:1], *mine[2:]))[0]
    assert not ledger(results(mine[0], {**mine[1], "message": ""}, mine[2]))[0]


def test_a_percentile_is_of_the_answers_of_a_part_of_the_run() -> None:
    mine = list(records("answered", "lost", "answered", "answered"))
    assert p99_ms(mine, 0.0, 3.0) == (12.0, 2)
    assert math.isnan(p99_ms(mine, 9.0, 10.0)[0])


def test_a_page_keeps_the_rows_of_claims_that_were_not_checked_again() -> None:
    page = "# Title\n\n| claim | result | figure | when |\n|---|---|---|---|\n\nEnd.\n"
    once = merged(page, [judged("a", True, "1 s"), Finding("b", "NOT MEASURED", "no rig")])
    twice = merged(once, [judged("b", False, "2 s"), judged("c", True, "x | y")])
    rows = [line for line in twice.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| a", "PASS", "1 s"],
        ["| b", "FAIL", "2 s"],
        ["| c", "PASS", "x / y"],
    ]
    assert twice.endswith("\n\nEnd.\n")


def test_that_something_was_not_measured_is_forgotten_once_it_was() -> None:
    page = merged("|---|---|---|---|\n", [unfinished("doctor", "no answer"), unfinished("power", "no answer")])
    page = merged(page, [judged("doctor: sound", True, "15 ok"), unfinished("power", "again")], ["doctor", "power"])
    assert [line.split(" | ")[0] for line in page.splitlines()[1:]] == ["| power: the rest", "| doctor: sound"]
    assert "again" in page


def test_a_command_on_a_host_goes_through_the_rig(tmp_path: Path) -> None:
    rig = tmp_path / "rig"
    rig.write_text('#!/bin/sh\n[ "$1" = up ] && { echo 10.0.0.1 head; echo 10.0.0.2 edge1; exit; }\necho "$@"; cat\n')
    rig.chmod(0o755)
    hosts = Hosts(rig)
    hosts.up(1, 50, 10)
    assert (hosts.addresses, hosts.edges) == ({"head": "10.0.0.1", "edge1": "10.0.0.2"}, ["edge1"])
    assert hosts.run("edge1", "uptime", stdin="x") == "sh edge1 uptime\nx"
    output = hosts.start("head", "uptime")
    assert output.wait_for("uptime", 30.0) is not None
    assert output.wait(30.0) == 0
    assert output.text == "sh head uptime"
