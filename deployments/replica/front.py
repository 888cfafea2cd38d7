"""The Serve deployment that speaks to clients where the accelerator belongs to a process of its own (`CoreReplica`).

Several on each node with a core: each parses, checks and decodes on a processor of its own, writes rows into memory
that the core reads, and answers when that says so. Nothing here imports torch before an image is to be decoded.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from typing_extensions import override

from deployments.config import HttpAddress, ServerConfig, parse_config
from deployments.ipc.arena import Arena
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.node_cores import NO_CORE, NodeCores
from deployments.ipc.rendezvous import meeting_place
from deployments.ipc.row_sink import Deliver
from deployments.replica.admission.admission import Admission
from deployments.replica.admission.calls import CheckedRequest, Result
from deployments.replica.identity import identify
from deployments.replica.logs import log_with_serve
from deployments.replica.metrics import Watch
from deployments.replica.request_server import RequestServer
from deployments.replica.several_cores import together
from slicer.common.thread_timing import hand_over_soon
from slicer.core.protocol.messages import Answer, Refusal, Request
from slicer.errors import ServerError


class Front(RequestServer):
    """Made on the event loop that it serves on.

    Args:
        config: a `ServerConfig` as a mapping (Serve pickles it).
        note: what placement wants a person to know; repeated in `status`.
        http: where the application's HTTP port is; None: it has none.
        place: where cores are found; None: this node's, of this application.
        core: Serve's handle of them. It is not used: Serve starts what an ingress is bound to.
    """

    def __init__(
        self,
        config: dict[str, Any] | ServerConfig,
        note: str = "",
        http: HttpAddress | None = None,
        place: Path | None = None,
        core: object = None,
    ) -> None:
        del core
        config = parse_config(config)
        hand_over_soon()
        if ray.is_initialized():  # in a replica, not in a test's process
            log_with_serve()
        super().__init__(identify(http, config.token, note), token=config.token, http=config.http)
        self._arena = arena = Arena(config.ingress.shared_memory_bytes)
        self._place = place or meeting_place(*here())

        def make_sink(deliver: Deliver) -> NodeCores:
            return NodeCores(self._place, arena, deliver)

        self._admission = Admission(
            make_sink,
            most=config.admission_batch,
            threads=config.admission_concurrency,
            max_rows=config.max_queue_rows,
            max_bytes=config.max_queue_bytes,
        )
        self._cores = self._admission.sink
        self._watch = Watch(self._counted)
        with contextlib.suppress(RuntimeError):  # made outside of an event loop: at the first request
            self._cores.look()
        if ray.is_initialized():  # in a replica, not in a test's process
            gc.collect()
            gc.freeze()  # what is here stays; a full collection would walk all of it in the middle of a request

    @property
    @override
    def models(self) -> Mapping[str, HostedModel]:
        return self._cores.models

    @property
    @override
    def emulated(self) -> tuple[str, ...]:
        facts = self._cores.facts
        return tuple(facts["emulated"]) if facts else ()

    @override
    def absent(self, request_id: str, model: str) -> Refusal:
        models = self._cores.models
        # None has ever been here, or the first has come since whoever calls looked: the next sending finds it.
        if not models or model in models:
            return Refusal(request_id, "stopped", NO_CORE, self._identity.name)
        return super().absent(request_id, model)

    @override
    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        self._watch.start()
        return await super().infer_parcel(requests)

    @override
    async def run(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        return await self._admission.infer(requests)

    @override
    async def status(self) -> dict[str, Any]:
        """Of the cores of this node, and beside it this front's part.

        Raises:
            ServerError: no core is here now.
        """
        _ = self._cores.models  # looks for cores where none is known
        reports = await self._cores.ask("status")
        if not reports:
            raise ServerError(NO_CORE)
        core = together(reports)
        front = {
            "replica": self._identity.name,
            "cores": self._cores.cores,
            "shared_memory_bytes": self._arena.used_bytes,
        }
        notes = [*self._identity.notes, *core["notes"]]
        return {**core, "url": self._identity.url, "grpc": self._identity.grpc, "notes": notes, "front": front}

    @override
    async def steps(self, since_s: float = 0.0) -> dict[str, Any]:
        found: dict[str, Any] = next(iter(await self._cores.ask("steps", since_s)), {"replica": "", "steps": []})
        return found

    @override
    async def check_health(self) -> None:
        """Whether the front can decode; it does not depend on a core, which Serve watches by itself."""
        if not await self._admission.healthy():
            raise RuntimeError("the admission loop has died")

    def close(self) -> None:
        """Rows that are at work are told `stopped`. Calling it again is harmless."""
        self._watch.stop()
        self._cores.close()


def here() -> tuple[str, str, str]:
    """Names under which the processes of one application on one node of one cluster meet."""
    from ray import serve

    context = ray.get_runtime_context()
    try:
        app = serve.get_replica_context().app_name
    except Exception as error:
        raise ServerError("only a Serve replica has an application; give a place") from error
    return str(context.gcs_address), str(app), str(context.get_node_id())
