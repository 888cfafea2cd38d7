"""Whether an application offers HTTP, and gRPC beside it, and where: settled once, when it is deployed.

HTTP is the faster way in (docs/log/), so ``http.enabled`` is ``auto`` by default: on wherever it can work by itself,
and then with a token of its own, which devices inside Ray learn through the Serve handle. Serve binds its port when it
starts, so an application that comes to a Serve that runs takes what is there.
"""

from __future__ import annotations

import http.client
import logging
import secrets
import socket
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.config import HttpAddress, ServerConfig
from deployments.placing.placement import Node
from slicer.common.ray_serve_env import OWN_FILES, OWN_PORTS
from slicer.core.protocol import packet
from slicer.errors import ServerError

logger = logging.getLogger("headtail.placing")

#: Where nobody asks for another port, or this one is taken.
PORT, GRPC_PORT = 8000, 9000

#: HAProxy learns of an application a moment after Serve says that it runs.
_REACHABLE_WITHIN_S = 15.0


@dataclass(frozen=True)
class Running:
    """A Serve that runs: where its HTTP is bound ("" and 0: nowhere), whether by HAProxy, and gRPC's port (0: none)."""

    host: str = ""
    port: int = 0
    haproxy: bool = False
    grpc_port: int = 0


@dataclass(frozen=True)
class Settled:
    """A configuration whose HTTP is decided.

    Attributes:
        config: as it was asked for, with the token that requests must bring.
        http: where its port is; None: there is none.
    """

    config: ServerConfig
    http: HttpAddress | None


def as_asked(config: ServerConfig) -> Settled:
    """Of a configuration that says itself whether there is HTTP; address as it says, else Serve's default."""
    http = config.http
    if http.enabled is not True:
        return Settled(config, None)
    grpc_port = (config.grpc.port or GRPC_PORT) if config.grpc.enabled is True else 0
    return Settled(config, HttpAddress(http.host or "127.0.0.1", http.port or PORT, http.url, grpc_port))


def settle(
    config: ServerConfig, nodes: Sequence[Node], running: Running | None, free: Callable[[int], int] | None = None
) -> Settled:
    """Whether and where the application offers HTTP, with a token of its own where nobody asked for HTTP.

    Args:
        nodes: that live.
        running: the Serve that runs; None: it will be started for this application.
        free: the port asked for if it is free on this host, else another one; for tests.

    Raises:
        ServerError: HTTP or gRPC is asked for, and the Serve that runs has it elsewhere or not at all, or it cannot be.
    """
    http, free = config.http, free or free_port
    if http.enabled is False:
        return Settled(config, None)
    settled = _settle_http(config, nodes, running, free)
    if settled.http is None and config.grpc.enabled is True:
        raise ServerError("grpc: {enabled: true}, but HTTP is not possible here; http: {enabled: true} says why")
    return settled


def _settle_http(
    config: ServerConfig, nodes: Sequence[Node], running: Running | None, free: Callable[[int], int]
) -> Settled:
    http = config.http
    if running is not None:
        there = (not http.host or http.host == running.host) and (not http.port or http.port == running.port)
        if running.haproxy and there:
            return _at(config, running.host, running.port, _grpc_port_there(config, running))
        if http.enabled == "auto":
            return Settled(config, None)
        where = f"{running.host}:{running.port}" if running.haproxy else "none of this kind"
        raise ServerError(
            f"Serve already runs with HTTP at {where}, not at {http.host or 'any address'}:{http.port or PORT}; its "
            "ports are fixed at its start: end it with `serve shutdown`, or set http: {enabled: false}"
        )
    if http.enabled == "auto" and len({node.address for node in nodes}) < len(nodes):
        return Settled(config, None)  # several nodes on one host would want the same port
    host = http.host or ("127.0.0.1" if len(nodes) == 1 else "0.0.0.0")
    port = http.port or (free(PORT) if http.enabled == "auto" else PORT)
    return _at(config, host, port, _new_grpc_port(config, port, free))


def _grpc_port_there(config: ServerConfig, running: Running) -> int:
    """Of the Serve that runs; 0: this application has none."""
    grpc, there = config.grpc, running.grpc_port
    if grpc.enabled is False:
        return 0
    if grpc.enabled is True and (not there or grpc.port not in (0, there)):
        raise ServerError(
            f"Serve already runs with {f'gRPC at port {there}' if there else 'no gRPC'}, not at port "
            f"{grpc.port or GRPC_PORT}; its ports are fixed at its start: end it with `serve shutdown`, or leave out "
            "grpc"
        )
    return there if grpc.port in (0, there) else 0


def _new_grpc_port(config: ServerConfig, http_port: int, free: Callable[[int], int]) -> int:
    """For a Serve that is to start, another one than HTTP's."""
    grpc = config.grpc
    if grpc.enabled is False:
        return 0
    if grpc.port or grpc.enabled is True:
        return grpc.port or GRPC_PORT
    return free(GRPC_PORT if http_port != GRPC_PORT else GRPC_PORT + 1)


def own_ports(environ: Mapping[str, str], free: Callable[[int], int] | None = None) -> dict[str, str]:
    """Variables that put the ports beside the one for requests where they are free on this host; what an operator has
    set stays."""
    free = free or free_port
    return {name: environ.get(name) or str(free(port)) for name, port in OWN_PORTS.items()}


def own_files(environ: Mapping[str, str], folder: str) -> dict[str, str]:
    """Variables that put HAProxy's files into `folder`; what an operator has set stays."""
    return {name: environ.get(name) or str(Path(folder, file)) for name, file in OWN_FILES.items()}


def private_folder() -> str:
    """A name that nobody can guess, for a folder on every node; short, since a socket's path has to be."""
    return f"/tmp/headtail-{secrets.token_hex(4)}"


def make_private(folder: str) -> None:
    """Make it on this node, for its user alone."""
    path = Path(folder)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)  # fails where it is another user's; the umask may have taken bits away


def free_port(port: int) -> int:
    """`port` if nothing listens there on this host, else one that the system chooses."""
    for candidate in (port, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError("no free port on this host; set http: {enabled: false}")


def wait_reachable(http_address: HttpAddress, name: str, address: str) -> None:
    """Wait until the application answers HTTP at this address. Where it does not in time, it is said and nothing more:
    devices try for themselves, and have the handle."""
    url = f"{http_address.of(name, address)}/health"
    until_s = time.monotonic() + _REACHABLE_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2.0) as response:
                if packet.SERVER_HEADER in response.headers:
                    return
                raise OSError("something else answers there")
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > until_s:
                logger.warning("%s does not answer (%s); devices use the Serve handle instead", url, error)
                return
        time.sleep(0.05)


def _at(config: ServerConfig, host: str, port: int, grpc_port: int) -> Settled:
    """HTTP on; where nobody asked for it, it is open to nobody who has not got the token."""
    if not config.token and config.http.enabled == "auto":
        config = config.model_copy(update={"token": secrets.token_urlsafe(24)})
    return Settled(config, HttpAddress(host, port, config.http.url, grpc_port))
