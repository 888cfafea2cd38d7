"""The load job as a user runs it, against a running application: its table, its last line, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate
from ray.cluster_utils import Cluster

from deployments import app

ROOT = Path(__file__).parents[2]
NAME = "headtail-cameras"


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = [{"name": "digits_vit", "strategy": "per_tail_shared"}]
    app.run({"models": models, "torch_threads": 1, "shard_dir": str(tmp_path_factory.mktemp("served"))}, name=NAME)
    yield NAME
    app.stop(NAME)


@pytest.fixture
def load(cluster: Cluster, tmp_path: Path) -> Any:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "model: digits_vit\ngroups:\n- {name: camera, cut: 1}\n- {name: board, cut: 3, codec: fp16}\n"
        f"cache: {{directory: {tmp_path / 'cache'}}}\n"
    )

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "actors", "--address", cluster.address, "--fleet", str(fleet), *flags]
        return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=180)

    return run


def test_a_running_application_is_measured_and_left_running(server: str, load: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = load("--server", server, "--rate", "10", "--duration", "2", "--warmup", "0.2", "--out", str(out))
    assert job.returncode == 0, job.stderr
    result = json.loads(job.stdout.splitlines()[-1])
    validate(result, json.loads((ROOT / "actors/report/result.schema.json").read_text()))
    (strategy,) = result["strategies"]
    figures = result["strategies"][strategy]
    assert strategy == "per_tail_shared"
    assert figures["requests"] == figures["answered"] > 0 == figures["lost"] == figures["refused"]
    assert figures["agreement_top1"] == 1.0
    # What the devices said of themselves when they joined: native ones have measured the slices that they hold.
    joined = {device["group"]: device["slices_ms"] for device in result["manifest"]["devices"]}
    assert {group: len(times) for group, times in joined.items()} == {"camera": 1, "board": 3}
    assert all(time_ms > 0 for times in joined.values() for time_ms in times)
    # The table people read, and the raw records behind it.
    assert "per_tail_shared" in job.stdout and "open loop: poisson" in job.stdout
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert Counter(record["cut"] for record in records).keys() == {1, 3}
    assert (out / "report.html").exists()


@pytest.mark.long
def test_a_closed_loop_with_a_number_of_requests(server: str, load: Any) -> None:
    job = load("--server", server, "--concurrency", "2", "--requests", "12", "--warmup", "0")
    assert job.returncode == 0, job.stderr
    result = json.loads(job.stdout.splitlines()[-1])
    assert result["load"].startswith("closed loop")
    assert result["strategies"]["per_tail_shared"]["answered"] == 12


@pytest.mark.long
def test_stale_images_are_dropped_and_counted_as_misses(server: str, load: Any) -> None:
    # Everything is captured at the same moment, so all but the first few are too old when the device gets to them.
    job = load("--server", server, "--rate", "400", "--requests", "40", "--max-age-ms", "1", "--warmup", "0")
    figures = json.loads(job.stdout.splitlines()[-1])["strategies"]["per_tail_shared"]
    assert figures["requests"] == 40 == figures["answered"] + figures["dropped"]
    assert figures["dropped"] > 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--server", "nothing-here"), "no application 'nothing-here' is running"),
        (("--server", NAME, "--strategy", "per_slice"), "per_slice"),
        (("--server", NAME, "--model", "digits_swin"), "digits_swin"),
    ],
)
def test_a_server_that_is_absent_or_another_one_is_refused_with_exit_code_2(
    server: str, load: Any, flags: tuple[str, ...], says: str
) -> None:
    job = load(*flags, "--rate", "5", "--duration", "1")
    assert job.returncode == 2
    assert says in job.stderr and "Traceback" not in job.stderr
