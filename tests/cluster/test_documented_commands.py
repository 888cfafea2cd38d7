"""README and docs/*.md read literally: every command runs as it is printed, in order, with the files README shows."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from actors.report.files import FILES
from slicer.models import zoo
from slicer.models.images import Preprocess
from tests.documented import ELSEWHERE, HEADS, all_commands, blocks, put_files

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

BIN = Path(sys.executable).parent
RUN = [command for command in all_commands() if command not in ELSEWHERE]
JOBS = [command for command in RUN if command.startswith("ray job submit")]
OWN = [command for command in RUN if "--checkpoint" in command]
HERE = [c for c in RUN if c.startswith(("headtail serve", "headtail load")) and c not in OWN]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Of somebody with the documents' files in the current folder and the project's commands at hand."""
    put_files(tmp_path)
    (tmp_path / "home").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # A folder of its own for Ray: the tests' shared cluster, which `headtail serve` would join, is not the reader's.
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:  # tmp_path is too long for Ray's sockets
        yield {
            **kept,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(tmp_path / "home"),
            "PWD": str(tmp_path),
            "RAY_TMPDIR": ray_folder,
        }


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
def running(command: str, env: Mapping[str, str]) -> Iterator[tuple[Iterator[str], IO[str]]]:
    """A command that goes on until Ctrl-C, as long as the block runs; it has said that it runs. What follows on stdout,
    and the file of its stderr."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            shlex.split(command), cwd=env["PWD"], env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        try:
            first = next((line for line in process.stdout if "is running" in line), "")
            errors.seek(0)
            assert first, f"{command}\n{errors.read()[-4000:]}"
            yield iter(process.stdout), errors
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0


def test_every_command_is_run_here_or_stands_in_the_list_of_those_that_cannot() -> None:
    assert [command for command in ELSEWHERE if command not in all_commands()] == [], "no longer documented"
    slices = [command for command in RUN if command.startswith("headtail slice")]
    assert sorted(slices + HERE + OWN + JOBS) == sorted(RUN), "each belongs to one of the tests below"
    assert all(head in " ".join(JOBS) for head in HEADS)


def test_slicing(reader: Mapping[str, str]) -> None:
    for command in RUN:
        if command.startswith("headtail slice"):
            assert run(command, reader)


def test_serve_and_load_on_this_machine(reader: Mapping[str, str], tmp_path: Path) -> None:
    loads = [command for command in HERE if command.startswith("headtail load")]
    for serve in (command for command in HERE if command.startswith("headtail serve")):
        _, named, name = serve.partition("--name ")
        beside = [load for load in loads if named and f"--server {name} " in load]
        assert beside or not named, serve
        with running(serve, reader):
            for load in beside:
                run(load, reader)
                loads.remove(load)
    assert {path.name for path in (tmp_path / "results" / "cameras").iterdir()} == set(FILES)
    for load in loads:
        run(load, reader)


def test_an_own_checkpoint_is_served_and_the_printed_command_gives_the_models_own_answer(
    reader: Mapping[str, str], tmp_path: Path
) -> None:
    (serve,) = OWN
    (shown,) = [line for _, text in blocks("README.md") for line in text.splitlines() if line.startswith("curl ")]
    state = zoo.build(zoo.resolve("vit_tiny_patch16_224", kwargs={"num_classes": 3}, seed=4)).state_dict()
    torch.save({"state_dict": state, "args": Namespace(lr=0.1)}, tmp_path / "pets.pth")
    pixels = np.random.default_rng(5).integers(0, 256, (300, 240, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=95)
    env = {key: value for key, value in reader.items() if key != "HEADTAIL_TOKEN"}
    token_file = tmp_path / "home" / ".cache" / "headtail" / "token-headtail"
    with running(serve, env) as (told, errors):
        said = [next(told) for _ in range(3)]
        assert "3 classes, as the checkpoint has: cat, dog, guinea pig" in said[0]
        printed = said[2].partition("try it: ")[2].strip()
        token = token_file.read_text().strip()
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600 and len(token) >= 32
        errors.seek(0)
        assert token not in "".join(said) + errors.read()
        answer = json.loads(run(printed, env))
        url = printed.split()[-1]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(url, (tmp_path / "photo.jpg").read_bytes()))
    assert re.sub(r":\d+/", ":8000/", printed.replace(str(tmp_path / "home"), "~")) == re.sub(r":\d+/", ":8000/", shown)
    assert not token_file.exists(), "it goes with its application"
    spec = zoo.resolve("vit_tiny_patch16_224", kwargs={"num_classes": 3}, checkpoint=str(tmp_path / "pets.pth"))
    with torch.inference_mode():
        image = torch.from_numpy(Preprocess(spec)(tmp_path / "photo.jpg"))
        scores = zoo.build(spec)(image[None])[0].softmax(0)
    best = int(scores.argmax())
    assert (answer["class"], answer["label"]) == (best, ["cat", "dog", "guinea pig"][best])
    assert answer["score"] == pytest.approx(float(scores[best]), abs=1e-4)
    assert {one["label"] for one in answer["top_k"]} == {"cat", "dog", "guinea pig"}


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
