"""`headtail serve` with a Ray of its own, as a process: Serve's way in is fixed when it starts, and the tests' shared
cluster has none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.paths import ROOT

#: What its ways in want.
TOKEN = "secret"


@dataclass(frozen=True)
class OwnServer:
    """Where it answers (`url`; of image files `predict_url`), its Ray, by its address, since others may run on this
    machine (`cluster`), and the environment of commands that use them."""

    url: str
    predict_url: str
    cluster: str
    env: Mapping[str, str]


@contextmanager
def own_server(
    folder: Path, config: Mapping[str, Any], *, limit_s: float, on_limit: Callable[[], object] = lambda: None
) -> Iterator[OwnServer]:
    """Serve these models, and end with Ctrl-C.

    Args:
        folder: where it runs and keeps its files. config: beside ways in, token and threads, which are set here;
            ``http`` adds to its way in. limit_s: it is killed after so long, and `on_limit` is called before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    http = {"enabled": True, "host": "127.0.0.1", "port": port, **config.get("http", {})}
    ways_in = {"http": http, "grpc": {"enabled": False}, "token": TOKEN}
    told = {"torch_threads": 1, "shard_dir": str(folder / "served"), **config, **ways_in}
    (folder / "server.yaml").write_text(json.dumps(told))
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    # A test's own folder is too long for Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_folder, (folder / "said").open("w") as said:
        env["RAY_TMPDIR"] = ray_folder
        process = subprocess.Popen(
            [sys.executable, "-m", "headtail", "serve", "server.yaml", "--json"], cwd=folder, text=True,
            env=env, stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
        watchdog = threading.Timer(limit_s, lambda: (on_limit(), process.kill()))
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "said").read_text()
            where = json.loads(line)
            # As its own line says without --json: this Ray wants a token of whoever names it by address.
            yield OwnServer(where["url"], where["predict_url"], where["cluster"], {**env, "RAY_AUTH_MODE": "token"})
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
