"""A Ray of its own with HeadTail's server and plain Ray Serve: ``python -m benchmarks.peers.servers.ray_apps PORT``.

Reads commands, a JSON line each: ``{"start": NAME, "config": {...}}`` for HeadTail, ``{"start": NAME, "accelerator":
FOLDER, "entries": [...], "setting": {...}}`` for `@serve.batch`, ``{"stop": NAME}``. Answers each with a line. Ends,
and Ray with it, when stdin does.

Both get the settings of Serve that HeadTail gives itself (`slicer.common.ray_serve_env`), HAProxy among them: plain
Serve's own proxy is slower.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from benchmarks.peers.accelerator import Accelerator, answer


def batched(folder: str, entries: list[int], setting: dict[str, Any]) -> Any:
    """The deployment: `@serve.batch` around the tail of each entry, as Serve's guide to batching has it."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Tails:
        def __init__(self) -> None:
            self._accelerator = Accelerator(folder)
            self._tails = {entry: self._tail(entry) for entry in entries}

        def _tail(self, entry: int) -> Any:
            async def run(payloads: list[bytes]) -> list[bytes]:
                await asyncio.to_thread(self._accelerator.run, entry, len(payloads))
                return [answer(payload, entry) for payload in payloads]

            return serve.batch(
                max_batch_size=setting["max_batch_size"],
                batch_wait_timeout_s=setting["batch_wait_timeout_s"],
                max_concurrent_batches=setting["max_concurrent_batches"],
            )(run)

        async def __call__(self, request: Request) -> Response:
            entry = int(request.url.path.rpartition("/")[2])
            return Response(await self._tails[entry](await request.body()))

    return Tails


def start(command: dict[str, Any], port: int) -> dict[str, Any]:
    """Start an application; returns its ``url``, and HeadTail's ``emulated`` parts."""
    from ray import serve

    from actors.load import applications
    from deployments import app
    from deployments.config import HttpAddress
    from slicer.common.ray_serve_env import environment

    if app.running_serve() is None:  # whoever comes first: the port and HAProxy are fixed from then on
        app.start_serve(HttpAddress("127.0.0.1", port, ""))
    name, url = command["start"], f"http://127.0.0.1:{port}/{command['start']}"
    if "config" in command:
        http = {"enabled": True, "host": "127.0.0.1", "port": port}
        app.run({**command["config"], "http": http}, name=name)
        return {"url": url, "emulated": list(applications.status(name)["emulated"])}
    kind = batched(command["accelerator"], command["entries"], command["setting"])
    deployment = serve.deployment(
        kind,
        name=name,
        max_ongoing_requests=4096,
        logging_config=app.LOGGING,
        ray_actor_options={"num_cpus": 0.01, "runtime_env": {"env_vars": environment("replica", http=True)}},
    )
    serve.run(deployment.bind(), name=name, route_prefix=f"/{name}")
    return {"url": url}


def main() -> None:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")  # what Ray prints goes to stderr
    os.dup2(2, 1)
    from actors.load import applications

    with applications.ray_session("local"):
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            try:
                if "stop" in command:
                    applications.stop(command["stop"])
                    said: dict[str, Any] = {}
                else:
                    said = start(command, int(sys.argv[1]))
            except Exception as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
