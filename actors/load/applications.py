"""The application that a load job measures: a running one that is only looked at, or own ones that come and go.

The only module of `actors` that knows `deployments`. An application that the job did not start is never redeployed,
reconfigured or deleted; its own have names of their own, so that they cannot meet another's.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from actors.load.config import LoadConfig
from actors.network.serve_transport import running_applications
from actors.records.step import StepSeen
from deployments.scheduling import registry
from slicer.common.command_line import progress
from slicer.core.common.error_text import first_line
from slicer.core.protocol.messages import ServedModel
from slicer.core.protocol.outputs import LOGITS
from slicer.errors import ConfigError, ServerError

if TYPE_CHECKING:
    from actors.fleet.placement import Beside

#: How long a replica may take to say what it is.
STATUS_TIMEOUT_S = 20.0


#: The strategies that this build brings, and those that the demo compares.
ALL_STRATEGIES, DEMO_STRATEGIES = registry.STRATEGIES, registry.DEMO

#: The name that a strategy has now.
current_name = registry.current_name


def own_config(
    load: LoadConfig, models: Sequence[str], strategy: str, outputs: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> dict[str, Any]:
    """Configuration of the application that the job starts for one strategy.

    Args:
        outputs: that the fleet asks for, by model.

    Raises:
        ConfigError: the strategy is unknown, or goes not with these models.
    """
    from deployments.config import parse_config

    described = [
        {"name": model, "num_slices": load.slices, "strategy": strategy, "max_batch": load.max_batch}
        | ({"outputs": further} if (further := [one for one in outputs.get(model, ()) if one != LOGITS]) else {})
        for model in models
    ]
    # One thread: the devices of an emulated fleet share this host, and torch's default would take all of it.
    config: dict[str, Any] = {"models": described, "accelerator": load.accelerator, "torch_threads": 1}
    if load.accelerator_profile is not None:
        config.update(_emulated(load.accelerator_profile, load.slices))
    if load.resident == "all":  # shares of one CPU and one GPU, so that all of them can be placed; one works at a time
        share = math.floor(100 / len(load.strategies)) / 100
        config.update(cpus=share, gpus=share)
    parse_config(config)
    return config


def _emulated(profile: str, slices: int) -> dict[str, Any]:
    """The keys of an application whose accelerator takes the times of a cost profile, and computes true answers.

    Raises:
        ConfigError: there is no such profile, or its slices do not divide evenly.
    """
    from deployments.costs.profile_files import load_cost_profile, shipped

    blocks = load_cost_profile(profile).num_slices
    if blocks % slices:
        raise ConfigError(
            f"--accelerator-profile {profile} has times of {blocks} slices, which cannot be spread over "
            f"--slices {slices}; give a divisor of {blocks}"
        )
    where = profile if profile in shipped() else str(Path(profile).expanduser().resolve())
    return {
        "accelerator": "cpu",
        "executor": "emulated",
        "executor_options": {"profile": where, "answers": "true"},
    }


def beside(configs: Sequence[Mapping[str, Any]]) -> list[Beside]:
    """The replicas that share the cluster with a fleet: those that run now, and those that `configs` will start."""
    import ray

    from actors.fleet.placement import Beside
    from deployments.config import parse_config
    from deployments.placing import placement

    nodes = placement.living(ray.nodes())
    found = running_replicas()
    for config in map(parse_config, configs):
        options = placement.decide(config, nodes).actor_options
        amounts = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0.0), **options.get("resources", {})}
        selector = options.get("label_selector", {}).get("ray.io/node-id", "")
        allowed = tuple(node.node_id for node in nodes if not selector or node.node_id in selector)
        found += [Beside("the server of this job", amounts, allowed)] * config.num_replicas
    return found


def running_replicas() -> list[Beside]:
    """Of all applications of the Serve that runs here, ours or not; none where no Serve runs."""
    import ray

    from actors.fleet.placement import Beside

    try:
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        details = ray.get(controller.get_serve_instance_details.remote(), timeout=STATUS_TIMEOUT_S)
        found = []
        for name, app in details["applications"].items():
            for deployment in app["deployments"].values():
                options = deployment["deployment_config"].get("ray_actor_options") or {}
                amounts = {"CPU": options.get("num_cpus", 1.0), "GPU": options.get("num_gpus", 0.0)}
                amounts.update(options.get("resources") or {})
                found += [
                    Beside(f"the running application {name!r}", amounts, (replica["node_id"],))
                    for replica in deployment["replicas"]
                    if replica["node_id"]
                ]
        return found
    except Exception:  # no Serve; or one that says it otherwise, and then Ray finds out when it places the devices
        return []


def status(name: str) -> dict[str, Any]:
    """What the application `name` says of itself; it answers for one replica.

    Raises:
        ServerError: there is no such application, it is not one of ours, or it does not answer.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        handle = serve.get_app_handle(name)
    except RayServeException as error:
        raise ServerError(
            f"no application {name!r} is running (running: {_running()}); start it with headtail serve --name {name}, "
            "or leave out --server so that the job starts its own"
        ) from error
    try:
        said = handle.status.remote().result(timeout_s=STATUS_TIMEOUT_S)
    except TimeoutError as error:
        raise ServerError(
            f"the application {name!r} did not answer within {STATUS_TIMEOUT_S:g} s; look at it with `serve status`"
        ) from error
    except Exception as error:  # what a foreign application raises is its own affair
        raise ServerError(_foreign(name, first_line(error))) from error
    if not isinstance(said, dict) or "headtail" not in said:
        raise ServerError(_foreign(name, f"status() gave {type(said).__name__}"))
    return said


def steps(name: str, since: Mapping[str, Any]) -> list[StepSeen]:
    """The last steps of the application's accelerator since its status report `since`, as many as it keeps.

    Times are seconds of the replica's uptime. None where it does not answer, is another replica, or keeps no steps: a
    picture is not worth a run.
    """
    from ray import serve

    try:
        handle = serve.get_app_handle(name)
        said = handle.steps.remote(since.get("uptime_s", 0.0)).result(timeout_s=STATUS_TIMEOUT_S)
        return [StepSeen(**step) for step in said["steps"]] if said["replica"] == since.get("replica") else []
    except Exception:
        return []


def weights(name: str, model: str) -> tuple[ServedModel, Callable[[str, int, int], bytes]]:
    """What a running application says of a model, and how to read its shards.

    Raises:
        ServerError: it is not served there, or the application does not answer.
    """
    from ray import serve

    handle = serve.get_app_handle(name)
    served = handle.describe.remote(model).result(timeout_s=STATUS_TIMEOUT_S)
    if not isinstance(served, ServedModel):
        raise ServerError(
            f"the application {name!r} serves no model {model!r}; it has {', '.join(status(name)['models'])}"
        )

    def read(sha256: str, offset: int, length: int) -> bytes:
        piece: bytes = handle.shard.remote(sha256, offset, length).result(timeout_s=STATUS_TIMEOUT_S)
        return piece

    return served, read


def _foreign(name: str, why: str) -> str:
    return (
        f"the application {name!r} is not a HeadTail server ({why}), so it is left alone; give --server another name "
        f"(running: {_running()}), or leave it out"
    )


def _running() -> str:
    return running_applications() or "none"


def check_running(name: str, models: Sequence[str], strategies: Sequence[str]) -> str:
    """The strategy of a running application, checked against what was asked; nothing is changed.

    Raises:
        ServerError: not running, foreign, without one of the models, or with another strategy.
    """
    served: Mapping[str, Mapping[str, Any]] = status(name)["models"]
    missing = [model for model in models if model not in served]
    if missing:
        raise ServerError(
            f"the application {name!r} serves no model {missing[0]!r} (it serves {', '.join(served)}); give --model or "
            "a fleet that asks for one of these"
        )
    found = sorted({str(served[model]["strategy"]) for model in models})
    if len(found) > 1:
        raise ServerError(
            f"the models of {name!r} have different strategies ({', '.join(found)}), which one row of a table cannot "
            "say; load them one by one with --model"
        )
    if strategies and list(strategies) != found:
        raise ServerError(
            f"the application {name!r} runs strategy {found[0]!r}, not {strategies[0]!r}; a running server is never "
            f"changed: give --strategy {found[0]}, or leave out --server"
        )
    return found[0]


def start(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Start applications by name, all at once; returns when all are running. On any failure none is left.

    Raises:
        PlacementError, ServerError: one of them cannot be placed, or failed.
    """
    from deployments import app

    try:
        with progress("servers ready", len(configs)) as bar:
            asked = {name: app.deploy(dict(config), name=name) for name, config in configs.items()}
            for ready, (name, config) in enumerate(asked.items(), start=1):
                app.wait_running(name, config)
                bar.to(ready)
    except BaseException:
        stop(*configs)
        raise


def stop(*names: str) -> None:
    """Take down applications that this job started; quiet if they are gone, or if Ray is."""
    from deployments import app

    with contextlib.suppress(Exception):
        if names:
            app.stop(*names)


@contextlib.contextmanager
def ray_session(address: str | None, quiet: bool = True, *, running: bool = False) -> Iterator[None]:
    """Ray for one job: a cluster that runs (RAY_ADDRESS, or one started here by `ray start`), else one of its own.

    An own one is shut down at the end, whatever happens, and leaves no process behind.

    Args:
        running: only one that runs will do, also that of a headtail serve here, which Ray finds only when it is asked.

    Raises:
        ServerError: the cluster at `address` cannot be reached.
    """
    import ray
    from ray import serve

    from deployments.doctor.connection import connect

    del serve  # imported for its logger, whose INFO lines would bury what the job says; replicas log to files
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Workers of an own cluster get this process's priority; at Ray's default, nice 15, one measures what else runs.
    os.environ.setdefault("RAY_worker_niceness", "0")
    connect(
        address,
        own=not running,
        include_dashboard=False,  # of an own cluster; a running one keeps what it has
        log_to_driver=not quiet,
        configure_logging=True,
        logging_level="WARNING",
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # after ray.init, which sets its own
    try:
        yield
    finally:
        ray.shutdown()


def _terminate(*_: object) -> NoReturn:
    """SIGTERM ends the job as Ctrl-C does: servers and devices are taken down."""
    raise KeyboardInterrupt


def usage(before: Mapping[str, Any], after: Mapping[str, Any], answered: int) -> dict[str, Any]:
    """What the server did between two of its status reports, on its own clock; what it did not say is None.

    Utilisation counts the time between the reports, warm-up and drain included. A replica that restarted in between
    gives its memory only.
    """
    used: dict[str, Any] = {"memory_bytes": dict(after.get("memory", {})), "nvml": dict(after.get("nvml", {}))}
    if before.get("replica") != after.get("replica"):
        return {**used, "busy_share": None, "steps": None, "rows_per_step": None, "joules_per_answer": None}
    wall_s = after["uptime_s"] - before["uptime_s"]
    steps, rows = after["steps"] - before["steps"], after["rows"] - before["rows"]
    joules = [report.get("nvml", {}).get("energy_joules") for report in (before, after)]
    return {
        **used,
        "busy_share": (after["busy_s"] - before["busy_s"]) / wall_s if wall_s > 0 else None,
        "steps": steps,
        "rows_per_step": rows / steps if steps else None,
        "joules_per_answer": (joules[1] - joules[0]) / answered if None not in joules and answered else None,
    }
