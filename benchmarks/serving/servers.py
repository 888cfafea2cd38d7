"""The servers that are measured, each commit's on a Ray of its own, and their processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.process_cpu import descendants, title
from benchmarks.common.results import ROOT
from benchmarks.serving import no_compute
from deployments.placing.http_endpoint import free_port

#: By form: its application's deployments and what they are called here. `old` and `single` are one process beside
#: HAProxy, `new` is two.
FORMS: dict[str, dict[str, str]] = {
    "old": {"TailServer": "server"},
    "new": {"Front": "front", "Core": "core"},
    "single": {"TailServer": "server"},
}

#: How long a Ray with its applications may take to come up, and to go.
_UP_S, _DOWN_S = 180.0, 30.0


@dataclass(frozen=True)
class Form:
    """One application that serves.

    Attributes:
        name: of FORMS.
        url: of the application.
        root: the process under which it is served.
    """

    name: str
    url: str
    root: int

    def processes(self) -> dict[str, list[int]]:
        """Pids that live now; see `processes_of`."""
        return processes_of(self.name, {pid: (title(pid), _command(pid)) for pid in descendants(self.root)})


def processes_of(form: str, there: Mapping[int, tuple[str, str]]) -> dict[str, list[int]]:
    """Pids by what they are: of FORMS, ``haproxy``, and ``others``, Ray's own and those of applications beside it.

    Args:
        there: title and command (``/proc/PID/comm``) by pid.

    Raises:
        RuntimeError: one is missing.
    """
    found: dict[str, list[int]] = {name: [] for name in (*FORMS[form].values(), "haproxy", "others")}
    titles = {f"ray::ServeReplica:{form}:{deployment}": name for deployment, name in FORMS[form].items()}
    for pid, (said, command) in there.items():
        name = "haproxy" if command == "haproxy" else titles.get(said.split(" ")[0], "others")
        found[name].append(pid)
    if missing := [name for name, pids in found.items() if not pids]:
        raise RuntimeError(f"{form} has no process {', '.join(missing)} among {sorted(there.values())}")
    return found


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """A git worktree of a commit, outside the repository; removed at the end.

    Raises:
        SystemExit: git does not know the commit.
    """
    with tempfile.TemporaryDirectory(prefix="headtail-old-") as folder:
        checkout = Path(folder).resolve() / "checkout"
        made = _git("worktree", "add", "--detach", str(checkout), commit)
        if made.returncode:
            raise SystemExit(f"--old {commit}: {made.stderr.strip()}; it needs a clone that holds this commit")
        try:
            yield checkout
        finally:
            shutil.rmtree(checkout, ignore_errors=True)  # what its processes left there, too
            _git("worktree", "prune")


def commit_of(checkout: Path) -> str:
    """The commit that lies there."""
    return _git("rev-parse", "HEAD", folder=checkout).stdout.strip()


@contextmanager
def serving(old: Path) -> Iterator[dict[str, Form]]:
    """All forms, in the order of FORMS, up at the same time: the old checkout's, and those of this one.

    Raises:
        RuntimeError: one does not come up; it says what its process said.
    """
    with ExitStack() as stack:
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headtail-shared-")))
        shutil.copy(no_compute.__file__, shared)
        port, another = free_port(8145), free_port(8146)
        new = no_compute.config(another)
        applications = {"new": {**new, "ingress": {"replicas": 1}}, "single": {**new, "ingress": {"replicas": 0}}}
        first = stack.enter_context(_host(old, {"old": no_compute.config(port)}, shared, 0))
        second = stack.enter_context(_host(ROOT, applications, shared, 1))
        yield {
            name: Form(name, f"http://127.0.0.1:{another if name in applications else port}/{name}", pid)
            for name, pid in (("old", first), ("new", second), ("single", second))
        }


@contextmanager
def serving_here(name: str = "single") -> Iterator[Form]:
    """One form of this checkout.

    Raises:
        RuntimeError: it does not come up; it says what its process said.
    """
    with tempfile.TemporaryDirectory(prefix="headtail-shared-") as folder:
        shared, port = Path(folder), free_port(8147)
        shutil.copy(no_compute.__file__, shared)
        application = {**no_compute.config(port), "ingress": {"replicas": 1 if name == "new" else 0}}
        with _host(ROOT, {name: application}, shared, 0) as pid:
            yield Form(name, f"http://127.0.0.1:{port}/{name}", pid)


@contextmanager
def _host(checkout: Path, applications: dict[str, Any], shared: Path, number: int) -> Iterator[int]:
    """The pid of a process under which applications of a checkout are served."""
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(checkout), str(shared))),
        "RAY_worker_niceness": "0",  # Ray's default, nice 15, would measure what else runs
        # Two Serves on one host do not know of each other's replicas.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(30000 + 500 * number),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(30499 + 500 * number),
    }
    asked = json.dumps({"checkout": str(checkout), "applications": applications})
    said = shared / f"host-{number}.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("host.py")), asked],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=variables,
            cwd=checkout,
            start_new_session=True,  # Ctrl-C is for the benchmark, which ends it
        )
    try:
        until_s = time.monotonic() + _UP_S
        while "serving" not in said.read_text(errors="replace").splitlines():
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"{', '.join(applications)} did not come up: {said.read_text()[-3000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it take its Ray down, and end what is left of that."""
    started = {pid: title(pid) for pid in descendants(process.pid)}
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_DOWN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    until_s = time.monotonic() + _DOWN_S
    while (
        left := [pid for pid, said in started.items() if said and title(pid) == said]
    ) and time.monotonic() < until_s:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _git(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
