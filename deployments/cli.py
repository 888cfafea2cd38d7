"""`headtail-serve`: start the application on this machine or on a running cluster, and say where it is."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from deployments.config import STRATEGIES, ServerConfig, load_config, parse_config
from slicer.addresses import application_name
from slicer.errors import HeadTailError


def parser() -> argparse.ArgumentParser:
    """The command line; also what the README's test reads."""
    p = argparse.ArgumentParser(
        prog="headtail-serve",
        description="Serve the tails of sliced models. Give a configuration file, or one model by flags.",
    )
    p.add_argument("config", nargs="?", help="YAML file with the keys of deployments.config.ServerConfig")
    p.add_argument("--model", help="a timm name, package.module:callable, a model file or a shipped demo model")
    p.add_argument("--slices", type=int, default=4, help="number of slices (default 4)")
    p.add_argument("--shards", help="serve from this directory that headtail-slice --export wrote")
    p.add_argument("--checkpoint", help="weights file (.safetensors or .pth)")
    p.add_argument("--strategy", default="per_tail_shared", help=f"{', '.join(STRATEGIES)} or package.module:Class")
    p.add_argument("--max-batch", type=int, default=32, help="most rows in one step (default 32)")
    p.add_argument("--accelerator", choices=("auto", "cuda", "cpu"), default="auto")
    p.add_argument("--replicas", type=int, default=1)
    p.add_argument("--start-timeout", type=float, default=300.0, metavar="S", help="give up a start after S seconds")
    p.add_argument("--name", default="headtail", help="name of the application (default headtail)")
    p.add_argument("--address", help="Ray cluster to join, such as auto; default: a running one, else start one here")
    p.add_argument(
        "--http",
        action=argparse.BooleanOptionalAction,
        help="open an HTTP port or fail, or open none; default: as the file says, which is: where it works by itself",
    )
    p.add_argument("--detach", action="store_true", help="leave it running on the cluster and return")
    return p


def config_of(args: argparse.Namespace) -> ServerConfig:
    """The configuration that the flags mean."""
    if args.config:
        if args.model or args.shards or args.checkpoint or args.http is not None:
            raise HeadTailError(
                f"{args.config} is the whole configuration; leave out --model, --shards, --checkpoint, --http"
            )
        return load_config(args.config)
    model = {
        "name": args.model or "digits_vit",
        "num_slices": args.slices,
        "strategy": args.strategy,
        "max_batch": args.max_batch,
        "shards": args.shards,
        "checkpoint": args.checkpoint,
    }
    return parse_config(
        {
            "models": [model],
            "accelerator": args.accelerator,
            "num_replicas": args.replicas,
            "start_timeout_s": args.start_timeout,
            "http": {} if args.http is None else {"enabled": args.http},
        }
    )


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
