"""README and docs/*.md read literally: every command runs as it is printed, in order, with the files README shows."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from actors.report.files import FILES
from tests.documented import ELSEWHERE, HEADS, all_commands, put_files

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

BIN = Path(sys.executable).parent
RUN = [command for command in all_commands() if command not in ELSEWHERE]
JOBS = [command for command in RUN if command.startswith("ray job submit")]
HERE = [command for command in RUN if command.startswith(("headtail serve", "headtail load"))]


@pytest.fixture
def reader(tmp_path: Path) -> Mapping[str, str]:
    """Of somebody with the documents' files in the current folder and the project's commands at hand."""
    put_files(tmp_path)
    (tmp_path / "home").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "PWD": str(tmp_path)}


def run(command: str, env: Mapping[str, str], timeout_s: float = 900) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=env["PWD"], env=env, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_jobs(address: str, timeout_s: float = 60) -> None:
    """Until the dashboard's agent takes jobs: it joins some seconds after Ray itself."""
    client, end_s = JobSubmissionClient(address), time.monotonic() + timeout_s
    while True:
        try:
            job = client.submit_job(entrypoint="true")
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end_s:
                raise
        else:
            assert job
            return


@contextlib.contextmanager
def running(command: str, env: Mapping[str, str]) -> Iterator[None]:
    """A command that goes on until Ctrl-C, as long as the block runs; it has said that it runs."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            shlex.split(command), cwd=env["PWD"], env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        try:
            first = next((line for line in process.stdout if "is running" in line), "")
            errors.seek(0)
            assert first, f"{command}\n{errors.read()[-4000:]}"
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0


def test_every_command_is_run_here_or_stands_in_the_list_of_those_that_cannot() -> None:
    assert [command for command in ELSEWHERE if command not in all_commands()] == [], "no longer documented"
    slices = [command for command in RUN if command.startswith("headtail slice")]
    assert sorted(slices + HERE + JOBS) == sorted(RUN), "each belongs to one of the tests below"
    assert all(head in " ".join(JOBS) for head in HEADS)


def test_slicing(reader: Mapping[str, str]) -> None:
    for command in RUN:
        if command.startswith("headtail slice"):
            assert run(command, reader)


def test_serve_and_load_on_this_machine(reader: Mapping[str, str], tmp_path: Path) -> None:
    loads = [command for command in HERE if command.startswith("headtail load")]
    for serve in (command for command in HERE if command.startswith("headtail serve")):
        server = f"--server {serve.rpartition('--name ')[2]} "
        beside = [load for load in loads if server in load]
        assert beside, serve
        with running(serve, reader):
            for load in beside:
                run(load, reader)
                loads.remove(load)
    assert {path.name for path in (tmp_path / "results" / "cameras").iterdir()} == set(FILES)
    for load in loads:
        run(load, reader)


def test_jobs_on_a_cluster(reader: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cluster of one machine with README's two cores; what belongs to several hosts is in ELSEWHERE.
    monkeypatch.setenv("PATH", reader["PATH"])
    monkeypatch.setenv("HOME", reader["HOME"])
    cluster = Cluster(
        initialize_head=True,
        # The agent takes jobs at a port of its own: the other tests' cluster may have taken the usual one.
        head_node_args={
            "num_cpus": 2,
            "include_dashboard": True,
            "dashboard_port": 0,
            "dashboard_agent_listen_port": free_port(),
        },
    )
    try:
        wait_for_jobs(f"http://{cluster.head_node.webui_url}")
        for command in JOBS:
            for head in HEADS:
                command = command.replace(head, f"http://{cluster.head_node.webui_url}")
            run(command, {**reader, **{key: value for key, value in os.environ.items() if key.startswith("RAY_")}})
        assert (tmp_path / "home" / "results" / "first" / "report.html").is_file()
    finally:
        cluster.shutdown()
