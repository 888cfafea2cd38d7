"""Which replica this process is, on which device it computes, and where it can be reached."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import ray
import torch
from ray import serve

from deployments.config import HttpAddress

logger = logging.getLogger("headtail.server")


@dataclass(frozen=True)
class Identity:
    """What a replica says of itself, the same as long as it lives.

    Attributes:
        name: its own id within Serve, for the record.
        device: ``cuda`` or ``cpu``, on which it computes.
        url: where devices reach its application by HTTP; empty where they do not.
        notes: what a person should know.
        started_s: when it was made, ``time.monotonic``.
    """

    name: str
    device: str
    url: str
    notes: tuple[str, ...]
    started_s: float


def identify(device: str, http: HttpAddress | None, token: str, note: str = "") -> Identity:
    """Of this process.

    Args:
        device: as placement decided; a GPU that torch does not see is a note, and the CPU.
        http: of the application.
        token: that its HTTP requests must bring.
        note: what placement wants a person to know.
    """
    started_s = time.monotonic()
    notes = [note] if note else []
    if device == "cuda" and not torch.cuda.is_available():
        notes.append("this node declares a GPU but torch finds no CUDA there, so the server uses the CPU")
        logger.warning(notes[-1])
        device = "cpu"
    url = http_url(http)
    if http is not None and url:
        notes += http_notes(http, token)
    return Identity(replica_name(), device, url, tuple(notes), started_s)


def http_url(http: HttpAddress | None) -> str:
    """Where devices reach this application by HTTP; empty where it has no port, or outside Serve."""
    if http is None:
        return ""
    if http.url:
        return http.url.rstrip("/")
    try:
        name = serve.get_replica_context().app_name
    except Exception:  # outside a replica, in a unit test
        return ""
    return http.of(name, ray.util.get_node_ip_address())


def http_notes(http: HttpAddress, token: str) -> list[str]:
    """What a person should know of the way in; no URL in it, so that a job with several applications says it once."""
    notes = [f"HTTP bound to {http.host}, port {http.port}; HAProxy's statistics and metrics listen on all interfaces"]
    if not token and http.host not in ("127.0.0.1", "::1", "localhost"):
        notes.append(
            "HTTP is open to everyone who reaches it: set token, or HEADTAIL_TOKEN where the server is started"
        )
    return notes


def node_id() -> str:
    """Ray's id of this node; empty outside Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def replica_name() -> str:
    """The replica's own id within Serve, for the record."""
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except Exception:  # outside a replica, in a unit test
        return "local"
