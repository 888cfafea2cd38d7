"""The one place that wires the application: configuration -> placement -> Serve deployment.

`build` is what `serve run deployments.app:build` and a Serve config YAML (`serve.yaml`, `serve deploy`) import; `run`
and `stop` are what `headtail serve` and the load job call, with a time-out that names what is missing instead of
hanging.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application

from deployments.config import HttpAddress, ServerConfig, load_config, parse_config
from deployments.placing import grpc_reachable, http_endpoint, placement
from deployments.placing.fronts import decide_fronts
from deployments.replica import preflight
from deployments.replica.core_replica import CoreReplica
from deployments.replica.front import Front
from deployments.replica.ingress import grpc_service
from deployments.replica.tail_server import TailServer
from slicer.common.ray_serve_env import environment, grpc_message_limit
from slicer.core.common.addresses import application_name
from slicer.core.common.error_text import last_line
from slicer.core.protocol.messages import ServedModel
from slicer.errors import ConfigError, PlacementError, ServerError

#: Name of the deployment of an application whose one process speaks to clients and owns the accelerator; and names of
#: the two where these are processes of their own.
DEPLOYMENT = "TailServer"
FRONT, CORE = "Front", "Core"

#: How often Serve looks whether a core lives, seconds: it is away that long when it was killed. Fronts know at once.
CORE_HEALTH_S = 1.0

#: Serve's controller: its actor's name and namespace (Ray 2.60).
_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")

#: Of a replica. A line per request was 6 % of its time, and metrics count; with the lines off, Serve still makes each
#: (3 %) and drops it, except for warnings only it does not. A replica has nothing else to say below a warning.
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}

#: How often a start that takes long says how far it is, seconds.
SAY_S = 10.0

#: Serve's words for a replica that raised while it started (Ray 2.60); with retries left it goes on trying.
FAILED = "failed to start with exception"


def build(args: dict[str, Any] | ServerConfig | None = None) -> Application:
    """A Serve application builder.

    Args:
        args: keys of `ServerConfig`, or ``{"config": PATH}``, or the shorthand ``model=...`` (with ``strategy=`` and
            ``num_slices=``) that `serve run deployments.app:build model=vit_tiny_patch16_224` can express.

    Raises:
        ConfigError: naming the wrong keys and values.
    """
    config = _from_args(args)
    nodes = placement.living(ray.nodes()) if ray.is_initialized() else []
    if config.http.enabled != "auto":
        return _application(http_endpoint.as_asked(config), nodes)
    running = running_serve() if ray.is_initialized() else None
    return _application(http_endpoint.settle(config, nodes, running or http_endpoint.Running()), nodes)


def _application(settled: http_endpoint.Settled, nodes: Sequence[placement.Node]) -> Application:
    config, http = settled.config, settled.http
    decision = placement.decide(config, nodes)
    fronts = decide_fronts(config, decision, nodes)
    env_vars = environment("replica", http=http is not None)
    if http is not None and http.grpc_port:
        env_vars |= grpc_message_limit(config.http.max_body_bytes)
    both: dict[str, Any] = {
        "logging_config": LOGGING,
        "graceful_shutdown_timeout_s": 10.0,
        "graceful_shutdown_wait_loop_s": 0.2,  # how often it looks whether requests still run; 2 s by default
    }
    # What was set, so that a replica can still tell it from a default; the token's default is this process's.
    values = {**config.model_dump(exclude_unset=True), "token": config.token}
    accelerators: dict[str, Any] = {
        "num_replicas": config.num_replicas,
        "max_surge_percent": config.max_surge_percent,
        **both,
    }
    if not fronts.per_node:
        deployment = serve.deployment(
            serve.ingress()(TailServer) if http else TailServer,
            name=DEPLOYMENT,
            max_ongoing_requests=config.ongoing,
            ray_actor_options={**fronts.core_options, "runtime_env": {"env_vars": env_vars}},
            **accelerators,
        )
        return deployment.bind(values, decision.device, decision.note, http)
    core = serve.deployment(
        CoreReplica,
        name=CORE,
        ray_actor_options=fronts.core_options,
        health_check_period_s=CORE_HEALTH_S,
        **accelerators,
    )
    front = serve.deployment(
        serve.ingress()(Front) if http else Front,
        name=FRONT,
        num_replicas=fronts.count,
        max_replicas_per_node=fronts.per_node,
        max_ongoing_requests=config.ongoing,
        ray_actor_options={**fronts.front_options, "runtime_env": {"env_vars": env_vars}},
        **both,
    )
    return front.bind(values, decision.note, http, None, core.bind(values, decision.device))


def __getattr__(name: str) -> Any:
    """`application`: the default configuration as a bound application. `serve build` takes no builder (Ray 2.60)."""
    if name == "application":
        return build()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _from_args(args: Mapping[str, Any] | ServerConfig | None) -> ServerConfig:
    if isinstance(args, ServerConfig):
        return args
    values = dict(args or {})
    if "config" in values:
        path = values.pop("config")
        if values:
            raise ConfigError(f"config={path} is the whole configuration; remove {', '.join(values)} or put it there")
        return load_config(path)
    if "model" in values and "models" in values:
        raise ConfigError(f"model={values['model']} and models are both given; leave out one of the two")
    if "model" in values:
        model: dict[str, Any] = {"name": values.pop("model")}
        for key in ("strategy", "num_slices", "max_batch", "shards", "checkpoint", "labels"):
            if key in values:
                model[key] = values.pop(key)
        values["models"] = [model]
    return parse_config(values)


def run(
    config: Mapping[str, Any] | ServerConfig, *, name: str = "headtail", say: Callable[[str], None] | None = None
) -> http_endpoint.Settled:
    """Start the application and return what was settled when it is RUNNING. Ray must be initialised.

    Args:
        say: told in one line how far the start is, when that changes and every `SAY_S` seconds.

    Raises:
        HeadTailError: the configuration cannot work on the only machine there is.
        PlacementError: no node can hold a replica within `start_timeout_s`; names demand, supply and remedy.
        ServerError: a replica failed to start; holds its message. In both cases the application is taken down.
    """
    try:
        settled = deploy(config, name=name)
    except BaseException:
        stop_quietly(name)  # a signal may have come after Serve was asked
        raise
    wait_running(name, settled, say)
    return settled


def deploy(config: Mapping[str, Any] | ServerConfig, *, name: str = "headtail") -> http_endpoint.Settled:
    """Ask Serve for the application and return at once what was settled; `wait_running` tells when it runs.

    Several start side by side. Not thread-safe, since Serve's own building of a deployment is not.

    Raises:
        ConfigError: the name is none for an application.
        ServerError: Serve runs without the HTTP port that is asked for, or that port is taken.
        HeadTailError: the configuration cannot work on the only machine there is.
    """
    application_name(name)
    asked = _from_args(config if isinstance(config, ServerConfig) else dict(config))
    nodes = placement.living(ray.nodes())
    if len(nodes) == 1 and nodes[0].address == ray.util.get_node_ip_address():
        preflight.check_here(asked)
    running = running_serve()
    settled = http_endpoint.settle(asked, nodes, running)
    if running is None:
        start_serve(settled.http)
    application = _application(settled, nodes)
    serve.run_many(
        [serve.RunTarget(target=application, name=name, route_prefix=f"/{name}" if settled.http else None)],
        wait_for_applications_running=False,
        wait_for_ingress_deployment_creation=False,
    )
    return settled


def running_serve() -> http_endpoint.Running | None:
    """The Serve of this cluster; None: none runs."""
    try:
        controller = ray.get_actor(*_CONTROLLER)
    except ValueError:
        return None
    options, grpc_options, location, proxies = ray.get(
        [
            controller.get_http_config.remote(),
            controller.get_grpc_config.remote(),
            controller.get_proxy_location.remote(),
            controller.get_proxies.remote(),
        ]
    )
    if str(location).endswith("Disabled"):
        return http_endpoint.Running()
    # Serve does not say which proxy it uses, but the actors' class does.
    haproxy = any("HAProxyManager" in repr(proxy) for proxy in proxies.values())
    ours = grpc_service.IMPORT_PATH in grpc_options.grpc_servicer_functions
    return http_endpoint.Running(options.host, options.port, haproxy, grpc_options.port if ours else 0)


def start_serve(http: HttpAddress | None) -> None:
    """Start Serve; its way in is fixed from then on."""
    if http is None:
        _serve_start(proxy_location="Disabled")
        return
    for key, port in (("http", http.port), ("grpc", http.grpc_port)):
        if port and http_endpoint.free_port(port) != port:
            raise ServerError(
                f"port {port} is taken on this machine: end what listens there, or set {key}: {{port: N}} to "
                "another one"
            )
    folder = http_endpoint.private_folder()
    make = ray.remote(num_cpus=0)(http_endpoint.make_private)
    ray.get(
        [
            make.options(label_selector={"ray.io/node-id": node.node_id}).remote(folder)
            for node in placement.living(ray.nodes())
        ]
    )
    variables = {
        **environment("controller", http=True),
        **http_endpoint.own_ports(os.environ),
        **http_endpoint.own_files(os.environ, folder),
    }
    _serve_start(
        proxy_location="EveryNode",
        http_options={"host": http.host, "port": http.port},
        **_grpc_options(http),
        controller_options={"runtime_env": {"env_vars": variables}},
    )


def _grpc_options(http: HttpAddress) -> dict[str, Any]:
    if not http.grpc_port:
        return {}
    # Its reflection knows only messages of protobuf's common pool, where ours are not.
    found = {"port": http.grpc_port, "grpc_servicer_functions": [grpc_service.IMPORT_PATH], "enable_reflection": False}
    return {"grpc_options": found}


def _serve_start(**options: Any) -> None:
    try:
        serve.start(**options)
    except (RayError, TimeoutError) as error:  # on a busy machine the controller ends a proxy that is not up in time
        raise ServerError(
            f"Ray Serve's own processes did not come up ({last_line(error)}); this happens on a machine with much else "
            "to do: try again when it has less"
        ) from error


def end_serve(timeout_s: float = 30.0) -> None:
    """Take down all of Serve on a Ray of our own; returns when its controller has ended, or after `timeout_s`.

    `serve.shutdown` waits in a call that only the controller's death ends, and Ray prints that as a task that failed
    and is to be retried. This asks for the same and looks whether it has happened.
    """
    try:
        controller = ray.get_actor(*_CONTROLLER)
    except ValueError:  # no Serve
        return
    end_s = time.monotonic() + timeout_s
    ray.get(controller.graceful_shutdown.remote(wait=False), timeout=timeout_s)
    while time.monotonic() < end_s:
        try:
            ray.get_actor(*_CONTROLLER)
        except ValueError:
            return
        time.sleep(0.05)


def wait_running(name: str, settled: http_endpoint.Settled, say: Callable[[str], None] | None = None) -> None:
    """Return when the application runs and, where it offers HTTP, answers it; raises as `run`, and takes it down then.

    Args:
        settled: as `deploy` returned it.
        say: as for `run`.
    """
    config = settled.config
    try:
        _wait_running(name, config, time.monotonic() + config.start_timeout_s, say or (lambda _: None))
        if settled.http is not None:
            http_endpoint.wait_reachable(settled.http, name, ray.util.get_node_ip_address())
            grpc_reachable.wait_reachable(settled.http, name, ray.util.get_node_ip_address())
    except BaseException:
        stop_quietly(name)
        raise


def _wait_running(name: str, config: ServerConfig, deadline_s: float, say: Callable[[str], None]) -> None:
    said, said_s = "", -SAY_S
    nodes = placement.living(ray.nodes())
    replicas = config.num_replicas + decide_fronts(config, placement.decide(config, nodes), nodes).count
    while True:
        status = serve.status().applications.get(name)
        if status is not None and status.status == "RUNNING":
            return
        message = "" if status is None else _message(status)
        # At the first failure: Serve would try twice more, which takes minutes and gives the same.
        if (status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY")) or FAILED in message:
            raise ServerError(f"application {name!r} did not start: {innermost(message)}")
        ready = 0
        for deployment in status.deployments.values() if status is not None else ():
            ready += deployment.replica_states.get("RUNNING", 0)
        progress = f"{ready} of {replicas} replicas of {name!r} ready"
        now_s = time.monotonic()
        if progress != said or now_s - said_s >= SAY_S:
            say(progress)
            said, said_s = progress, now_s
        if now_s > deadline_s:
            nodes = placement.living(ray.nodes())
            lacking = placement.missing(config, placement.decide(config, nodes), nodes)
            raise PlacementError(
                f"application {name!r} did not start within {config.start_timeout_s:g} s (start_timeout_s). "
                f"{lacking}\nServe says: {message or 'nothing'}"
            )
        time.sleep(0.1)


def _message(status: Any) -> str:
    parts = [status.message, *(deployment.message for deployment in status.deployments.values())]
    return "\n".join(part for part in parts if part).strip()


def innermost(message: str) -> str:
    """What a replica raised, of a traceback that Serve passes on: our own words alone, else kind and words."""
    # A traceback's last line is "module.Kind: words"; what follows without indentation belongs to the words.
    raised = list(re.finditer(r"^(?:ray::[^\n]*?: )?((?:\w+\.)*\w*(?:Error|Exception|NotSliceable)): ", message, re.M))
    if not raised:
        return message
    last = raised[-1]
    words = message[last.end() :].strip()
    return words if last[1].startswith("slicer.errors.") else f"{last[1]}: {words}"


def describe(name: str, models: Sequence[str], timeout_s: float = 10.0) -> list[ServedModel]:
    """What a running application says of its models, in order; one that it does not describe in time is left out."""
    handle, until_s = serve.get_app_handle(name), time.monotonic() + timeout_s
    found = []
    for model in models:
        while True:
            left_s = until_s - time.monotonic()
            served = None
            with contextlib.suppress(Exception):  # Serve's own kinds, while replicas come and go
                served = handle.describe.remote(model).result(timeout_s=max(left_s, 0.1))
            if isinstance(served, ServedModel):
                found.append(served)
            elif left_s > 0:  # a front may not have found its core yet
                time.sleep(0.05)
                continue
            break
    return found


def url(http: HttpAddress | None, name: str, address: str) -> str:
    """Where the application answers HTTP, for people; empty where it does not.

    Args:
        http: as `deploy` returned it.
        address: of this node.
    """
    if http is None:
        return ""
    return http.url or http.of(name, address)


def grpc_address(http: HttpAddress | None, address: str) -> str:
    """``host:port`` of gRPC, for people; empty where there is none. Arguments as of `url`."""
    return "" if http is None else http.grpc_of(address)


def stop_quietly(name: str) -> None:
    """Take an application down whose start failed; the failure counts, not what this may raise."""
    with contextlib.suppress(Exception):
        serve.delete(name)


def stop(name: str = "headtail", *others: str) -> None:
    """Take applications down, all at once; returns when they are gone. A name that is not there is passed over."""
    running = serve.status().applications
    there = [name for name in (name, *others) if name in running]
    for name in there:
        serve.delete(name, _blocking=False)
    while any(name in serve.status().applications for name in there):
        time.sleep(0.05)
