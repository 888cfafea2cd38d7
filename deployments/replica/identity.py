"""Which replica this process is, and where it can be reached."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray import serve

from deployments.config import HttpAddress


@dataclass(frozen=True)
class Identity:
    """What a replica says of itself, the same as long as it lives.

    Attributes:
        name: its own id within Serve, for the record.
        url: where devices reach its application by HTTP; empty where they do not.
        notes: what a person should know.
        grpc: where its gRPC is, ``host:port``; empty: nowhere.
        local_only: only this machine is to reach it.
    """

    name: str
    url: str
    notes: tuple[str, ...]
    grpc: str = ""
    local_only: bool = False


def identify(http: HttpAddress | None, token: str, note: str = "") -> Identity:
    """Of this process.

    Args:
        http: of the application.
        token: that its HTTP requests must bring.
        note: what placement wants a person to know.
    """
    notes = [note] if note else []
    url = http_url(http)
    if http is not None and url:
        notes += http_notes(http, token)
    if http is None:
        return Identity(replica_name(), url, tuple(notes))
    grpc = http.grpc_of(ray.util.get_node_ip_address()) if url else ""
    return Identity(replica_name(), url, tuple(notes), grpc, http.local)


def app_name() -> str:
    """The Serve application of this replica; empty outside Serve."""
    try:
        return str(serve.get_replica_context().app_name)
    except Exception:  # outside a replica, in a unit test
        return ""


def http_url(http: HttpAddress | None) -> str:
    """Where devices reach this application by HTTP; empty where it has no port, or outside Serve."""
    if http is None:
        return ""
    if http.url:
        return http.url.rstrip("/")
    name = app_name()
    return http.of(name, ray.util.get_node_ip_address()) if name else ""


def http_notes(http: HttpAddress, token: str) -> list[str]:
    """What a person should know of the way in; no URL in it, so that a job with several applications says it once."""
    ways, ports = (
        ("HTTP and gRPC", f"ports {http.port}, {http.grpc_port}") if http.grpc_port else ("HTTP", f"port {http.port}")
    )
    notes = [f"{ways} bound to {http.host}, {ports}; HAProxy's statistics and metrics listen on all interfaces"]
    if not token and not http.local:
        notes.append(
            f"{ways}: open to everyone who comes this far; set token, or HEADTAIL_TOKEN where the server is started"
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
