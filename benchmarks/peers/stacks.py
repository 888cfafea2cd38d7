"""Starts and stops each server with its load generator beside it, and offers it a rate."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.results import ROOT
from benchmarks.peers import install, triton
from benchmarks.peers.accelerator import Accelerator, prepare
from benchmarks.peers.figures import point_of
from benchmarks.peers.processes import Child, cpu_s, send_all, taken_s
from benchmarks.peers.settings import (
    BLOCKS,
    ENTRIES,
    HEADTAIL,
    SHAPE,
    SLICES,
    SPIN_MS,
    Payloads,
    headtail_config,
    payloads,
    spans_s,
)
from deployments.costs.cost_model import CostModel
from deployments.simulation.workloads import Workload
from slicer.errors import ConfigError, ServerError

#: How long an answer may take after the last request was due.
PATIENCE_S = 2.0

#: How long a server may take to come up.
_START_S = 60.0

_AXIS = 2  # the chain's units are linear layers: the server's manifest has the last axis as that of the channels


@dataclass
class Stack:
    """A server that runs, its load generator, and how to end it."""

    name: str
    setting: Mapping[str, Any]
    client: Child
    server_pid: int
    not_its_own: Callable[[], tuple[str, ...]]  # titles of processes below server_pid that serve others
    accelerator: Accelerator | None  # None: HeadTail's own
    end: Callable[[], None]
    emulated: tuple[str, ...] = ()

    def offer(self, rate_rps: float, seconds: float, least_requests: int, seed: int) -> dict[str, Any]:
        """One run, and once more where the load generator lagged too far; see `benchmarks.peers.figures.point_of`."""
        point = self._offer(rate_rps, seconds, least_requests, seed)
        if point["stable"] and not point["valid"]:
            point = {**self._offer(rate_rps, seconds, least_requests, seed), "offered_again": True}
        return point

    def _offer(self, rate_rps: float, seconds: float, least_requests: int, seed: int) -> dict[str, Any]:
        count = max(round(rate_rps * seconds), least_requests)
        arrivals = [(one.arrival_s, one.entry) for one in Workload(ENTRIES, count, seed=seed).arrivals(rate_rps)]
        others = self.not_its_own()
        before, client_before = cpu_s(self.server_pid, others), cpu_s(self.client.pid)
        steps = self.accelerator.done() if self.accelerator else None
        said = self.client.ask(
            {"arrivals": arrivals, "patience_s": PATIENCE_S}, timeout_s=arrivals[-1][0] + PATIENCE_S + 30
        )
        used_s = taken_s(before, cpu_s(self.server_pid, others))
        client_s = taken_s(client_before, cpu_s(self.client.pid))
        point = point_of(said["records"], count)
        answers = sum(record[2] is not None for record in said["records"])
        if self.accelerator and steps:
            did, rows = (now - then for now, then in zip(self.accelerator.done(), steps, strict=True))
            point["rows_per_step"] = round(rows / did, 2) if did else None
        if answers and point["stable"]:
            point["cpu_us_per_request"] = round(1e6 * used_s / answers)
            point["client_cpu_us_per_request"] = round(1e6 * client_s / answers)
        if said["errors"]:
            point["errors"] = dict(sorted(said["errors"].items(), key=lambda item: -item[1])[:3])
        if said["late"] or len(said["records"]) < count:
            self._drain()
        return {"rate_rps": rate_rps, **point}

    def warm(self) -> None:
        """A second of requests that nobody counts."""
        self.client.ask({"arrivals": [(n / 100, ENTRIES[n % len(ENTRIES)]) for n in range(1, 81)], "patience_s": 2.0})

    def _drain(self) -> None:
        """Wait until a server that lost has worked off what it still holds, so that it disturbs nobody."""
        until_s = time.monotonic() + 60
        before = cpu_s(self.server_pid, self.not_its_own())
        while time.monotonic() < until_s:
            steps = self.accelerator.done() if self.accelerator else None
            time.sleep(0.5)
            after = cpu_s(self.server_pid, self.not_its_own())
            busy, before = taken_s(before, after) > 0.05, after
            if not busy and (self.accelerator is None or self.accelerator.done() == steps):
                return

    def idle_share(self, seconds: float) -> float:
        """The share of a core that it takes while nobody asks."""
        before, began_s = cpu_s(self.server_pid, self.not_its_own()), time.monotonic()
        time.sleep(seconds)
        return taken_s(before, cpu_s(self.server_pid, self.not_its_own())) / (time.monotonic() - began_s)

    def stop(self) -> None:
        """End client and server."""
        self.client.stop()
        self.end()


class Stacks:
    """All servers of a run; each is started in a folder of its own. One thread."""

    def __init__(self, profile: str, costs: CostModel) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="headtail-peers-"))
        self._profile, self._costs = profile, costs
        self._payloads: Payloads = payloads(_AXIS)
        self._ray: Child | None = None
        self._ray_port = 0
        self._apps: list[str] = []
        self._count = 0
        self._running: list[Stack] = []

    @property
    def payload_bytes(self) -> int:
        """Of a request."""
        return self._payloads.size

    def start(self, name: str, setting: Mapping[str, Any]) -> Stack:
        """Start a server and its load generator.

        Raises:
            ServerError, OSError: it does not come up; nothing of it is left.
        """
        self._count += 1
        in_ray = name in HEADTAIL or name == "serve_batch"
        self._freeze_all_but(self._ray.pid if in_ray and self._ray else None)
        if name in HEADTAIL:
            stack = self._headtail(name)
        elif name == "serve_batch":
            stack = self._serve_batch(setting)
        else:
            stack = self._process(name, setting)
        self._running.append(stack)
        return stack

    def only(self, stack: Stack) -> None:
        """Freeze all other servers (SIGSTOP), so that what they do while nobody asks them disturbs nobody.

        Ray is one server in this: HeadTail's and `serve_batch`'s replicas freeze and thaw together.
        """
        self._freeze_all_but(stack.server_pid)
        stack.warm()

    def _freeze_all_but(self, thawed: int | None) -> None:
        for pid in {one.server_pid for one in self._running} | ({self._ray.pid} if self._ray else set()):
            send_all(pid, signal.SIGCONT if pid == thawed else signal.SIGSTOP)

    def stop(self, stack: Stack) -> None:
        """Stop one."""
        send_all(stack.server_pid, signal.SIGCONT)
        self._running.remove(stack)
        stack.stop()

    def close(self) -> None:
        """Stop all, and Ray; their folder goes. What failed has said why, with the end of its log."""
        for stack in tuple(self._running):
            with contextlib.suppress(ServerError):  # its server ended before; the others are still to be stopped
                self.stop(stack)
        if self._ray is not None:
            send_all(self._ray.pid, signal.SIGCONT)
            self._ray.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _headtail(self, name: str) -> Stack:
        app = name.replace("_", "-")
        said = self._start_app({"start": app, "config": headtail_config(HEADTAIL[name], self._profile)})
        spec = {
            "wire": "headtail",
            "url": said["url"],
            "model": "chain",
            "shape": SHAPE,
            "blocks_per_slice": BLOCKS // SLICES,
            "payloads": self._payloads.of_headtail,
        }
        return self._in_ray(name, app, {}, spec, None, tuple(said["emulated"]))

    def _serve_batch(self, setting: Mapping[str, Any]) -> Stack:
        app = f"serve-batch-{self._count}"
        folder = self._accelerator()
        said = self._start_app({"start": app, "accelerator": str(folder), "entries": ENTRIES, "setting": dict(setting)})
        spec = {"wire": "octets", "url": said["url"], "payloads": self._payloads.of_peers}
        return self._in_ray("serve_batch", app, setting, spec, Accelerator(folder))

    def _start_app(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._ray is None:
            self._ray_port = free_port()
            asked = [sys.executable, "-m", "benchmarks.peers.servers.ray_apps", str(self._ray_port)]
            self._ray = Child(asked, self._folder / "ray.log", _environment(), talks=True, timeout_s=180.0)
        said = self._ray.ask(command)
        self._apps.append(command["start"])
        return said

    def _in_ray(
        self,
        name: str,
        app: str,
        setting: Mapping[str, Any],
        spec: dict[str, Any],
        accelerator: Accelerator | None,
        emulated: tuple[str, ...] = (),
    ) -> Stack:
        assert self._ray is not None
        ray = self._ray

        def end() -> None:
            ray.ask({"stop": app})
            self._apps.remove(app)

        def others() -> tuple[str, ...]:
            return tuple(f"ray::ServeReplica:{other}:" for other in self._apps if other != app)

        try:
            client = self._client(spec, sys.executable)
        except BaseException:
            end()
            raise
        return Stack(name, setting, client, ray.pid, others, accelerator, end, emulated)

    def _process(self, name: str, setting: Mapping[str, Any]) -> Stack:
        folder, port = self._accelerator(), free_port()
        if not install.PYTHON.exists():
            raise ConfigError(f"{name} is not installed: python benchmarks/peers/peers.py --setup")
        python, module, env = str(install.PYTHON), "benchmarks.peers.servers", _environment()
        url, wire = f"http://127.0.0.1:{port}", "octets"
        if name == "triton":
            repository = self._folder / f"repository-{self._count}"
            triton.write_repository(repository, self.payload_bytes, folder, setting)
            command, env = triton.server(install.site_packages(), self._folder, repository, port)
            url, wire = f"127.0.0.1:{port}", "triton_grpc"
        elif name == "litserve":
            command = [python, "-m", f"{module}.litserve_server", str(folder), str(port), json.dumps(dict(setting))]
            command += map(str, ENTRIES)
            wire = "json_base64"
        else:
            command = [python, "-m", f"{module}.fastapi_server", str(folder), str(port)]
        server = Child(command, self._folder / f"{name}-{self._count}.log", env, talks=False)
        try:
            client = self._client({"wire": wire, "url": url, "payloads": self._payloads.of_peers}, python)
            try:
                _answering(server, client)
            except BaseException:
                client.stop()
                raise
        except BaseException:
            server.stop()
            raise
        return Stack(name, setting, client, server.pid, tuple, Accelerator(folder), server.stop)

    def _client(self, spec: dict[str, Any], python: str) -> Child:
        command = [python, "-m", "benchmarks.peers.client"]
        client = Child(command, self._folder / f"client-{self._count}.log", _environment(), talks=True)
        try:
            client.ask(spec)
        except BaseException:
            client.stop()
            raise
        return client

    def _accelerator(self) -> Path:
        folder = self._folder / f"accelerator-{self._count}"
        folder.mkdir()
        prepare(folder, spans_s(self._costs), SPIN_MS / 1e3)
        return folder


def _answering(server: Child, client: Child) -> None:
    """Return when a request of each entry is answered."""
    until_s, said = time.monotonic() + _START_S, dict[str, Any]()
    while time.monotonic() < until_s:
        server.check()
        arrivals = [(0.01 * (index + 1), entry) for index, entry in enumerate(ENTRIES)]
        said = client.ask({"arrivals": arrivals, "patience_s": 1.0})
        if all(record[2] is not None for record in said["records"]):
            return
        time.sleep(0.3)
    raise ServerError(f"no answer for {_START_S:g} s: {said['errors'] or 'silence'}")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT)}
