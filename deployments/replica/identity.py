"""Which replica this process is, and where it can be reached."""

from __future__ import annotations

import ray
from ray import serve

from deployments.config import ServerConfig


def http_url(config: ServerConfig) -> str:
    """Where devices reach this application by HTTP; empty where it is off (or not settled), or outside Serve."""
    http = config.http
    if http.enabled is not True:
        return ""
    if http.url:
        return http.url.rstrip("/")
    host = ray.util.get_node_ip_address() if http.host in ("0.0.0.0", "::") else http.host
    try:
        name = serve.get_replica_context().app_name
    except Exception:  # outside a replica, in a unit test
        return ""
    return f"http://{f'[{host}]' if ':' in host else host}:{http.port}/{name}"


def http_notes(config: ServerConfig, url: str) -> list[str]:
    """What a person should know of the way in; nothing where there is none, with an empty `url`."""
    if not url:
        return []
    http = config.http  # no URL in it, so that a job with several applications says it once
    notes = [f"HTTP bound to {http.host}, port {http.port}; HAProxy's statistics and metrics listen on all interfaces"]
    if not config.token and http.host not in ("127.0.0.1", "::1", "localhost"):
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
