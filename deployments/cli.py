"""`headtail-serve`: start the application on this machine or on a running cluster, and say where it is."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from pydantic import BaseModel

from deployments.config import ModelConfig, ServerConfig, load_config, parse_config
from deployments.placing.http_endpoint import Settled
from deployments.scheduling.registry import STRATEGIES
from slicer.common.addresses import application_name
from slicer.errors import ConfigError, HeadTailError

#: Flag -> the key of a model that it sets.
OF_A_MODEL: dict[str, str] = {
    "model": "name",
    "slices": "num_slices",
    "shards": "shards",
    "checkpoint": "checkpoint",
    "strategy": "strategy",
    "max_batch": "max_batch",
}

#: Flag -> the key of the application that it sets; ``a.b`` is key b of a.
OF_THE_APPLICATION: dict[str, str] = {
    "accelerator": "accelerator",
    "replicas": "num_replicas",
    "start_timeout": "start_timeout_s",
    "http": "http.enabled",
}


def parser() -> argparse.ArgumentParser:
    """The command line; also what the README's test reads. A flag that is not given is None: defaults are the models'
    of `deployments.config`, so that a flag can be told from a default and wins over a file."""
    p = argparse.ArgumentParser(
        prog="headtail-serve",
        description="Serve the tails of sliced models. Give a configuration file, or one model by flags. A flag wins "
        "over the file.",
        epilog="Exit status: 0 served and stopped; 2 wrong input, or it did not start; 130 interrupted at the start.",
    )
    p.add_argument("config", nargs="?", help="YAML file with the keys of deployments.config.ServerConfig")
    p.add_argument("--model", help="a timm name, package.module:callable, a model file or a shipped demo model")
    p.add_argument("--slices", type=int, help=f"number of slices {_default(ModelConfig, 'num_slices')}")
    p.add_argument("--shards", help="serve from this directory that headtail-slice --export wrote")
    p.add_argument("--checkpoint", help="weights file (.safetensors or .pth)")
    p.add_argument(
        "--strategy", help=f"{', '.join(STRATEGIES)} or package.module:Class {_default(ModelConfig, 'strategy')}"
    )
    p.add_argument("--max-batch", type=int, help=f"most rows in one step {_default(ModelConfig, 'max_batch')}")
    p.add_argument(
        "--accelerator", choices=("auto", "cuda", "cpu"), help=f"where {_default(ServerConfig, 'accelerator')}"
    )
    p.add_argument("--replicas", type=int, help=f"replicas of the server {_default(ServerConfig, 'num_replicas')}")
    p.add_argument(
        "--start-timeout",
        type=float,
        metavar="S",
        help=f"give up a start after S seconds {_default(ServerConfig, 'start_timeout_s')}",
    )
    p.add_argument("--name", default="headtail", help="name of the application (default headtail)")
    p.add_argument("--address", help="Ray cluster to join, such as auto; default: a running one, else start one here")
    p.add_argument(
        "--http",
        action=argparse.BooleanOptionalAction,
        help="open an HTTP port or fail, or open none; default: as the file says, which is: where it works by itself",
    )
    p.add_argument("--detach", action="store_true", help="leave it running on the cluster and return")
    return p


def _default(config: type[BaseModel], key: str) -> str:
    default = config.model_fields[key].default
    return f"(default {default:g})" if isinstance(default, float) else f"(default {default})"


def config_of(args: argparse.Namespace) -> ServerConfig:
    """The configuration that the flags mean: a flag wins over the environment, that over the file, that over a default.

    Raises:
        ConfigError: a flag that has no place in the file, or a wrong value.
    """
    file = load_config(args.config) if args.config else ServerConfig()
    values = file.model_dump(exclude_unset=True)
    models = [model.model_dump(exclude_unset=True) for model in file.models]
    of_model = {key: getattr(args, flag) for flag, key in OF_A_MODEL.items() if getattr(args, flag) is not None}
    if args.config and args.model is not None:
        names = ", ".join(model.name for model in file.models)
        raise ConfigError(f"--model {args.model}: {args.config} names its models ({names}); leave out one of the two")
    if of_model and len(models) > 1:
        flags = [f"--{flag.replace('_', '-')}" for flag in OF_A_MODEL if getattr(args, flag) is not None]
        raise ConfigError(
            f"{', '.join(flags)}: {args.config} has {len(models)} models, and a flag could mean any of them; set it in "
            "the file, under the model"
        )
    if of_model:
        values["models"] = [{**models[0], **of_model}]
    for flag, key in OF_THE_APPLICATION.items():
        given, (head, _, inner) = getattr(args, flag), key.partition(".")
        if given is not None:
            values[head] = {**values.get(head, {}), inner: given} if inner else given
    return parse_config(values)


class _Ended(BaseException):
    """A signal that ends the command; raised in the main thread, so that what was started is taken back."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end(number: int, _: object) -> None:
    for again in _SIGNALS:  # a second one must not leave behind what the first is taking back
        signal.signal(again, signal.SIG_IGN)
    raise _Ended(number)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0: served and stopped; 2: wrong input; 128 + signal: ended at the start. Nothing is left running."""
    args = parser().parse_args(argv)
    before = {number: signal.signal(number, _end) for number in _SIGNALS}
    try:
        application_name(args.name)
        return _serve(args, config_of(args))
    except HeadTailError as error:
        print(f"headtail-serve: {error}", file=sys.stderr)
        return 2
    except _Ended as ended:
        print("headtail-serve: interrupted; everything it started is taken back", file=sys.stderr)
        return 128 + ended.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was set outside Python


def _serve(args: argparse.Namespace, config: ServerConfig) -> int:
    say("importing Ray and torch")
    import ray

    from deployments import app
    from deployments.doctor.connection import connect

    embedded = False
    try:
        say("connecting to Ray, or starting one")
        # Without an address: RAY_ADDRESS, or what `ray start` started here, else a Ray of our own. Never "auto",
        # which would also find the Ray of somebody's script on this machine.
        connect(args.address, include_dashboard=False, log_to_driver=False)
        for number in _SIGNALS:
            signal.signal(number, _end)  # Ray has set its own
        node = ray._private.worker._global_node
        embedded = node is not None and node.is_head()
        if embedded and args.detach:
            raise ConfigError("--detach needs a Ray cluster that goes on; start one: ray start --head")
        say("starting the application")
        settled = app.run(config, name=args.name, say=say)
        print(running(settled, args.name, ray.get_runtime_context().gcs_address, bool(config.token)), flush=True)
        if not args.detach:
            try:
                threading.Event().wait()
            except _Ended:
                say("stopping")
                app.stop(args.name)
        return 0
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if embedded:
            from ray import serve

            with contextlib.suppress(Exception):
                serve.shutdown()
        ray.shutdown()


def running(settled: Settled, name: str, cluster: str, own_token: bool) -> str:
    """What a person needs to know of an application that runs: where it is, and how to ask it; no secret.

    Args:
        settled: as `deployments.app.run` returned it.
        cluster: ``host:port`` of its Ray.
        own_token: whether the token is one that was given, not made at the start.
    """
    from deployments import app

    config = settled.config
    names = ", ".join(f"{model.name} ({model.strategy})" for model in config.models)
    lines = [f"application {name!r} is running on the Ray cluster {cluster}: {names}"]
    if url := app.url(settled.http, name, cluster.rpartition(":")[0].strip("[]")):
        token = "none is asked for"
        if config.token and own_token:
            token = "as set by the file or HEADTAIL_TOKEN"
        elif config.token:
            token = "made at the start, for devices inside Ray only; for others set HEADTAIL_TOKEN before the start"
        lines += [f"HTTP: {url}; token: {token}", f"  try it: curl {url}/health"]
    # Ray turns this on by itself where it starts; other processes have to be told.
    mode = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    lines.append(f"  load it: {mode}headtail-load --address {cluster} --server {name} --rate 10 --duration 10")
    return "\n".join(lines)


def say(line: str, since_s: float = time.monotonic()) -> None:
    """One line for the person who waits; never on stdout."""
    print(f"[{time.monotonic() - since_s:5.1f} s] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
