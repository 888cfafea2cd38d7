"""`headtail-serve`: start the application on this machine or on a running cluster, and say where it is."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from pydantic import BaseModel

from deployments.config import STRATEGIES, ModelConfig, ServerConfig, load_config, parse_config
from slicer.addresses import application_name
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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0: served and stopped; 2: wrong input, nothing was left running."""
    args = parser().parse_args(argv)
    try:
        application_name(args.name)
        config = config_of(args)
    except HeadTailError as error:
        print(f"headtail-serve: {error}", file=sys.stderr)
        return 2

    import ray

    from deployments import app

    embedded = False
    try:
        try:
            # Without an address: RAY_ADDRESS, or what `ray start` started here, else a Ray of our own. Never "auto",
            # which would also find the Ray of somebody's script on this machine.
            ray.init(address=args.address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError):
            print(f"headtail-serve: no Ray cluster at {args.address}; start one: ray start --head", file=sys.stderr)
            return 2
        node = ray._private.worker._global_node
        embedded = node is not None and node.is_head()
        if embedded and args.detach:
            print(
                "headtail-serve: --detach needs a Ray cluster that goes on; start one: ray start --head",
                file=sys.stderr,
            )
            return 2
        app.run(config, name=args.name)
        names = ", ".join(f"{model.name} ({model.strategy})" for model in config.models)
        address = ray.get_runtime_context().gcs_address
        print(f"application {args.name!r} is running on the Ray cluster {address}: {names}", flush=True)
        if args.detach:
            return 0
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
        app.stop(args.name)
        return 0
    except HeadTailError as error:
        print(f"headtail-serve: {error}", file=sys.stderr)
        return 2
    finally:
        if embedded:
            from ray import serve

            serve.shutdown()
        if ray.is_initialized():
            ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
