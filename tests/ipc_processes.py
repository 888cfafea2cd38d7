"""A core and its fronts as processes of their own, without Ray, for tests that kill them.

::

    python -m tests.ipc_processes PLACE SHARDS FRONTS

starts a supervisor that forks a core and FRONTS fronts, and forks one again as soon as it has died, as Serve would. It
says on stdout, a JSON object a line, what it has forked (``{"started": "core", "pid": 1}``, ``"front 0"``, ...); a
process says by itself when it serves (``{"serves": "front 0", "pid": 2, "port": 3}``). All of it ends when its stdin
does, or when it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deployments.config import ServerConfig, parse_config
from deployments.executors.base import ReceivedBatch
from deployments.scheduling.scheduler import Row, Step
from deployments.testing.fakes import FakeExecutor

MODEL, SHAPE, SLICES = "chain", (1, 8, 8), 4

#: Of the emulated accelerator.
STEP_S = 0.002

_PR_SET_PDEATHSIG = 1


class Tracing(FakeExecutor):
    """A `FakeExecutor` for longer rows, of which the first two numbers count. It takes time, and remembers no steps."""

    def __init__(self, device: str, threads: int | None) -> None:
        super().__init__(seconds=lambda step: STEP_S, before=lambda step: time.sleep(STEP_S))

    def put(self, model: str, rows: Sequence[Row], batch: ReceivedBatch) -> None:
        """Of each row its first two numbers."""
        super().put(model, rows, batch.reshape(len(batch), -1)[:, :2])

    def run(self, step: Step) -> float:
        """As told."""
        try:
            return super().run(step)
        finally:
            self.steps.clear()
            self.tried.clear()


def config_of(shards: str) -> ServerConfig:
    """Of the application: a tiny model that can be cut in four, on the executor above."""
    model = {
        "name": MODEL,
        "model": "deployments.executors.emulated:chain",
        "kwargs": {"units": SLICES, "img_size": SHAPE[1], "in_chans": SHAPE[0]},
        "num_slices": SLICES,
        "strategy": "per_tail",
        "max_batch": 16,
    }
    return parse_config(
        {
            "models": [model],
            "executor": "tests.ipc_processes:Tracing",
            "torch_threads": 1,
            "shard_dir": shards,
            "ingress": {"shared_memory_bytes": 1 << 20},
            "token": "",
        }
    )


def say(**what: Any) -> None:
    """One line on stdout; so short that lines of several processes do not mix."""
    os.write(1, json.dumps(what).encode() + b"\n")


def outside_of_ray() -> None:
    """All that a front needs of a Serve replica: `@serve.batch` asks it for max_ongoing_requests."""
    from ray.serve import context
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.schema import ReplicaRank

    context._set_internal_replica_context(
        replica_id=ReplicaID("test", DeploymentID("Front", "test")),
        servable_object=lambda: None,
        _deployment_config=DeploymentConfig(max_ongoing_requests=1000),
        rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
        world_size=1,
    )


async def core(place: Path, config: ServerConfig) -> None:
    """Serves until it is killed."""
    from deployments.core.core import Core

    made = Core(config, "cpu", place)
    await made.serve()
    say(serves="core", pid=os.getpid())
    while True:
        await asyncio.sleep(1)
        made.healthy()


async def front(name: str, place: Path, config: ServerConfig) -> None:
    """Serves until it is killed: its ingress at a port of its own, and its status at /status."""
    import uvicorn

    from deployments.replica.front import Front

    outside_of_ray()
    made = Front(config, place=place)
    ingress = made.__serve_build_asgi_app__()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/status":
            try:
                status, body = 200, json.dumps(await made.status()).encode()
            except Exception as error:
                status, body = 503, repr(error).encode()
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": body})
        else:
            await ingress(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False))
    say(serves=name, pid=os.getpid(), port=listener.getsockname()[1])
    await server.serve(sockets=[listener])


def forked(work: Callable[[], Any]) -> int:
    """The pid of a process that does it, and that ends when this one does."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            asyncio.run(work())
    except BaseException as error:
        print(f"{os.getpid()}: {error!r}", file=sys.stderr)
        raise
    finally:
        os._exit(code)


def supervise(place: Path, shards: str, fronts: int) -> None:
    """Until stdin ends."""
    import deployments.core.core
    import deployments.executors.emulated
    import deployments.replica.front  # noqa: F401  what all of them need, loaded once

    config = config_of(shards)
    works: dict[str, Callable[[], Any]] = {"core": lambda: core(place, config)}
    for number in range(fronts):
        name = f"front {number}"
        works[name] = lambda name=name: front(name, place, config)  # type: ignore[misc]
    there: dict[int, tuple[str, int]] = {}  # by the descriptor of the process: its name, and its pid

    def start(name: str) -> None:
        pid = forked(works[name])
        there[os.pidfd_open(pid)] = name, pid
        say(started=name, pid=pid)

    try:
        for name in works:
            start(name)
        while True:
            for descriptor in select.select([0, *there], [], [])[0]:
                if descriptor == 0:
                    return
                name, pid = there.pop(descriptor)
                os.close(descriptor)
                os.waitpid(pid, 0)
                start(name)
    finally:
        for _, pid in there.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
