"""The Serve deployment that owns an accelerator and speaks to fronts of its node only."""

from __future__ import annotations

from typing import Any

from deployments.config import parse_config
from deployments.core.core import Core
from deployments.ipc.rendezvous import meeting_place
from deployments.replica.front import here
from deployments.replica.identity import node_id, replica_name
from deployments.replica.logs import log_with_serve
from deployments.replica.metrics import AcceleratorMetrics, Watch


class CoreReplica:
    """A `Core` in a Serve replica. Nobody calls it but Serve.

    Args:
        config: a `ServerConfig` as a mapping (Serve pickles it).
        device: ``cuda`` or ``cpu``, as `deployments.placing.placement` decided.
    """

    async def __init__(self, config: dict[str, Any], device: str) -> None:  # type: ignore[misc]
        log_with_serve()
        place = meeting_place(*here())
        self._core = Core(parse_config(config), device, place, name=replica_name(), node=node_id())
        self._watch = Watch(AcceleratorMetrics(self._core.status.read))
        self._watch.start()
        await self._core.serve()

    async def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
        self._core.healthy()

    def __del__(self) -> None:
        """Serve calls this at shutdown; a constructor that failed half-way has nothing to close."""
        if hasattr(self, "_watch"):
            self._watch.stop()
            self._core.close()
