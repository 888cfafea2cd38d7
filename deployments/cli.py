"""`headtail serve`: start the application on this machine or on a running cluster, and say where it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from deployments.config import ModelConfig, ServerConfig, load_config, parse_config
from deployments.placing.access import Access, access, remove_token
from deployments.placing.http_endpoint import Settled
from deployments.scheduling.registry import STRATEGIES
from slicer.common import command_line
from slicer.common.command_line import Command, Parsed, option, say
from slicer.core.common.addresses import application_name
from slicer.core.protocol.messages import ServedModel
from slicer.core.protocol.outputs import FURTHER
from slicer.core.shards.spec import HF
from slicer.errors import ConfigError

#: Flag -> the key of a model that it sets.
OF_A_MODEL: dict[str, str] = {
    "model": "name",
    "slices": "num_slices",
    "shards": "shards",
    "checkpoint": "checkpoint",
    "checkpoint_key": "checkpoint_key",
    "labels": "labels",
    "outputs": "outputs",
    "onnx": "onnx",
    "strategy": "strategy",
    "max_batch": "max_batch",
}

#: Those of these keys that name a file or a folder.
FILES = {"checkpoint", "shards"}

#: Flag -> the key of the application that it sets; ``a.b`` is key b of a.
OF_THE_APPLICATION: dict[str, str] = {
    "accelerator": "accelerator",
    "replicas": "num_replicas",
    "start_timeout": "start_timeout_s",
    "http": "http.enabled",
    "web": "http.web",
}


@dataclass(frozen=True)
class ServeFlags:
    """The flags of `headtail serve`; None: not given, so that a flag is told from a default and wins over a file."""

    config: str | None = None
    model: str | None = None
    slices: int | None = None
    shards: str | None = None
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    labels: str | None = None
    outputs: list[str] | None = None
    onnx: bool | None = None
    strategy: str | None = None
    max_batch: int | None = None
    accelerator: str | None = None
    replicas: int | None = None
    start_timeout: float | None = None
    name: str | None = None
    address: str | None = None
    http: bool | None = None
    web: bool | None = None
    detach: bool | None = None
    json: bool | None = None


def _default(config: type[BaseModel], key: str) -> str:
    default = config.model_fields[key].default
    return f"(default {default:g})" if isinstance(default, float) else f"(default {default})"


def config_of(flags: ServeFlags) -> ServerConfig:
    """The configuration that the flags mean: a flag wins over the environment, that over the file, that over a default.

    Raises:
        ConfigError: a flag that has no place in the file, or a wrong value.
    """
    file = load_config(flags.config) if flags.config else ServerConfig()
    values = file.model_dump(exclude_unset=True)
    models = [model.model_dump(exclude_unset=True) for model in file.models]
    of_model = {key: getattr(flags, flag) for flag, key in OF_A_MODEL.items() if getattr(flags, flag) is not None}
    for key in FILES & of_model.keys():  # a replica on a cluster that runs already has another current folder
        if Path(of_model[key]).exists():
            of_model[key] = str(Path(of_model[key]).resolve())
    if flags.model is not None and flags.shards is None:
        of_model |= _of_folder(flags.model)
    if flags.config and flags.model is not None:
        names = ", ".join(model.name for model in file.models)
        raise ConfigError(f"--model {flags.model}: {flags.config} names its models ({names}); leave out one of the two")
    if of_model and len(models) > 1:
        given = [f"--{flag.replace('_', '-')}" for flag in OF_A_MODEL if getattr(flags, flag) is not None]
        raise ConfigError(
            f"{', '.join(given)}: {flags.config} has {len(models)} models, and a flag could mean any of them; "
            "set it in the file, under the model"
        )
    if of_model:
        values["models"] = [{**models[0], **of_model}]
    for flag, key in OF_THE_APPLICATION.items():
        given, (head, _, inner) = getattr(flags, flag), key.partition(".")
        if given is not None:
            values[head] = {**values.get(head, {}), inner: given} if inner else given
    return parse_config(values)


def _of_folder(model: str) -> dict[str, str]:
    """Name and place of a model whose flag names a folder, which a URL and another machine can use; else nothing."""
    found = re.fullmatch(r"(hf:|local-dir:|)(.+)", model)
    if found is None or (not found[1] and os.sep not in model) or not Path(found[2]).expanduser().is_dir():
        return {}
    folder = Path(found[2]).expanduser().resolve()
    return {"name": folder.name, "model": f"{found[1]}{folder}"} if folder.name else {}


class _Ended(BaseException):
    """A signal that ends the command; raised in the main thread, so that what was started is taken back."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end(number: int, _: object) -> None:
    for again in _SIGNALS:  # a second one must not leave behind what the first is taking back
        signal.signal(again, signal.SIG_IGN)
    raise _Ended(number)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(
    "serve",
    cls=Command,
    examples=(
        ("headtail serve", "the shipped digits_vit with the default strategy, on this machine until Ctrl-C"),
        ("headtail serve --model vit_tiny_patch16_224 --strategy continuous", "one model by flags"),
        ("headtail serve --model vit_tiny_patch16_224 --checkpoint pets.pth --labels pets.txt", "weights of your own"),
        ("headtail serve server.yaml --name cameras --address auto --detach", "a file, on a running cluster"),
    ),
    notes="Exit status: 0 served and stopped; 2 wrong input, or it did not start; 130 interrupted at the start.",
)
@click.argument("config", required=False, metavar="[FILE]", shell_complete=command_line.files)
@option(
    "--model",
    metavar="M",
    help="A timm name, package.module:callable, hf:ORG/NAME or ./FOLDER of such a one, a model file or a shipped demo.",
)
@option(
    "--slices", type=click.IntRange(min=1), metavar="N", help=f"Number of slices {_default(ModelConfig, 'num_slices')}."
)
@option("--shards", metavar="DIR", help="Serve from this directory that `headtail slice --export` wrote.")
@option("--checkpoint", metavar="FILE", help="Weights (.safetensors, .pth, .ckpt, ...).")
@option("--checkpoint-key", metavar="KEY", help="Where in that file they lie, such as model_ema or state_dict.teacher.")
@option(
    "--labels", metavar="FILE", help="Names of the classes, one a line, or JSON; default: what the checkpoint says."
)
@option(
    "--outputs",
    type=Parsed("A,B", command_line.names),
    help=f"What may be asked for beside classes and logits: {', '.join(FURTHER)} (default: nothing).",
)
@option(
    "--onnx",
    is_flag=True,
    default=None,
    help="Hand out ONNX files too, for devices without torch; made at the start (extra onnx).",
)
@option(
    "--strategy",
    metavar="S",
    shell_complete=command_line.among(tuple(STRATEGIES)),
    help=f"{', '.join(STRATEGIES)} or package.module:Class {_default(ModelConfig, 'strategy')}.",
)
@option(
    "--max-batch",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Most rows in one step {_default(ModelConfig, 'max_batch')}.",
)
@option(
    "--accelerator",
    type=click.Choice(["auto", "cuda", "cpu"]),
    help=f"Where {_default(ServerConfig, 'accelerator')}.",
)
@option(
    "--replicas",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Replicas of the server {_default(ServerConfig, 'num_replicas')}.",
)
@option(
    "--start-timeout",
    type=float,
    metavar="S",
    help=f"Give up a start after S seconds {_default(ServerConfig, 'start_timeout_s')}.",
)
@option("--name", help="Name of the application (default headtail).")
@option("--address", help="Ray cluster to join, such as auto; default: a running one, else start one here.")
@option(
    "--http/--no-http",
    default=None,
    help="Open an HTTP port or fail, or open none; default: as the file says, which is: where it works by itself.",
)
@option("--web", is_flag=True, default=None, help="Hand out the page that makes a browser a device, at URL/device/.")
@option("--detach", is_flag=True, default=None, help="Leave it running on the cluster and return.")
@option("--json", is_flag=True, default=None, help="Say where it is as one JSON document.")
def command(**given: Any) -> int:
    """Serve the tails of sliced models on this machine or a Ray cluster.

    Give a configuration FILE (YAML, docs/configuration.md), or one model by flags. A flag wins over the file.
    """
    flags = ServeFlags(**given)
    before = {number: signal.signal(number, _end) for number in _SIGNALS}
    try:
        application_name(name_of(flags))
        return _serve(flags, config_of(flags))
    except _Ended as ended:
        print("headtail serve: interrupted; everything it started is taken back", file=sys.stderr)
        return 128 + ended.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was set outside Python


def main(argv: Sequence[str] | None = None) -> int:
    """`headtail serve`, and its old name headtail-serve. 0: served and stopped; 2: wrong input; 128 + signal: ended at
    the start. Nothing is left running."""
    return command_line.main(command, argv)


def name_of(flags: ServeFlags) -> str:
    """The application's name."""
    return "headtail" if flags.name is None else flags.name


def _serve(flags: ServeFlags, config: ServerConfig) -> int:
    say("importing Ray and torch")
    import ray

    from deployments import app
    from deployments.doctor.connection import connect
    from deployments.replica.preflight import check_here

    def check() -> None:
        """What is known to fail on a Ray of our own, before the seconds that it takes to start."""
        if flags.detach:
            raise ConfigError("--detach needs a Ray cluster that goes on; start one: ray start --head")
        check_here(config)

    embedded, name = False, name_of(flags)
    try:
        say("connecting to Ray, or starting one")
        # Without an address: RAY_ADDRESS, or what `ray start` started here, else a Ray of our own. Never "auto",
        # which would also find the Ray of somebody's script on this machine.
        connect(flags.address, before_own=check, include_dashboard=False, log_to_driver=False)
        for number in _SIGNALS:
            signal.signal(number, _end)  # Ray has set its own
        node = ray._private.worker._global_node
        embedded = node is not None and node.is_head()
        say("starting the application")
        settled = app.run(config, name=name, say=say)
        try:
            cluster = ray.get_runtime_context().gcs_address
            served = app.describe(name, [model.name for model in config.models])
            url, token = app.url(settled.http, name, cluster.rpartition(":")[0].strip("[]")), settled.config.token
            way_in = access(url, name, token, made=not config.token, served=served)
            try:
                if flags.json:
                    print(json.dumps(document(settled, name, cluster, way_in)), flush=True)
                else:
                    print(running(settled, name, cluster, way_in, served), flush=True)
                if not flags.detach:
                    threading.Event().wait()
            finally:
                if not flags.detach:
                    remove_token(way_in.token_file, token)
        except _Ended:  # at any moment from here on, also before the wait
            say("stopping")
            app.stop(name)
            if flags.detach:
                raise
        return 0
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if embedded:
            with contextlib.suppress(Exception):
                app.end_serve()
        ray.shutdown()


def document(settled: Settled, name: str, cluster: str, way_in: Access) -> dict[str, Any]:
    """What --json prints: the same as `running` says; no secret."""
    from deployments import app

    host = cluster.rpartition(":")[0].strip("[]")
    return {
        "application": name,
        "cluster": cluster,
        "url": way_in.url or None,
        "predict_url": way_in.predict_url or None,
        "page_url": f"{way_in.url}/device/" if way_in.url and settled.config.http.web else None,
        "grpc": app.grpc_address(settled.http, host) or None,
        "token": bool(settled.config.token),
        "token_file": None if way_in.token_file is None else str(way_in.token_file),
        "models": {model.name: model.strategy for model in settled.config.models},
    }


def running(settled: Settled, name: str, cluster: str, way_in: Access, served: Sequence[ServedModel]) -> str:
    """What a person needs to know of an application that runs: where it is, and how to ask it; no secret.

    Args:
        settled: as `deployments.app.run` returned it.
        cluster: ``host:port`` of its Ray.
        way_in: its HTTP.
        served: what it says of its models.
    """
    from deployments import app

    config = settled.config
    names = ", ".join(f"{model.name} ({model.strategy})" for model in config.models)
    lines = [f"application {name!r} is running on the Ray cluster {cluster}: {names}"]
    asked = {model.name: model for model in config.models}
    lines += [f"  {about(model, asked[model.name])}" for model in served]
    if way_in.url:
        lines.append(f"HTTP: {way_in.url}; token: {way_in.about_token()}")
        lines.append(f"  try it: {way_in.curl() or f'curl {way_in.url}/health'}")
    if way_in.url and config.http.web:
        lines.append(f"  in a browser: {way_in.url}/device/{'#token=TOKEN' if config.token else ''}")
    if grpc := app.grpc_address(settled.http, cluster.rpartition(":")[0].strip("[]")):
        lines.append(f"gRPC: {grpc}, metadata application: {name}; the same token")
    # Ray turns this on by itself where it starts; other processes have to be told.
    mode = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    lines.append(f"  load it: {mode}headtail load --address {cluster} --server {name} --rate 10 --duration 10")
    return "\n".join(lines)


def about(served: ServedModel, config: ModelConfig) -> str:
    """What a model answers, in one line, so that a person sees whether its classes are the ones that were meant."""
    from deployments.core.hosting import spec_of

    manifest = json.loads(served.manifest_json)
    own, *others = manifest.get("outputs") or [["", manifest["shapes"][-1]]]
    output, further = own[1], f"; also {', '.join(name for name, _ in others)}" if others else ""
    if len(output) != 1:
        return f"{served.name}: answers {output}{further}"
    spec = manifest["spec"]
    kwargs = spec["kwargs"]
    if spec.get("architecture", "").startswith(HF) and kwargs["output"] != "logits":
        return f"{served.name}: answers {output[0]} numbers ({kwargs['output']}), which are no classes{further}"
    if not served.classifies:
        return f"{served.name}: answers {output[0]} numbers, which are no classes{further}"
    line = f"{served.name}: {output[0]} classes"
    if config.checkpoint and not config.shards and "num_classes" in kwargs:
        line += ", as the checkpoint has" if "num_classes" not in spec_of(config).kwargs else ""
    if not served.labels:
        return f"{line}, without names (--labels FILE){further}"
    return f"{line}: {', '.join(served.labels[:4])}{', ...' if len(served.labels) > 4 else ''}{further}"


if __name__ == "__main__":
    sys.exit(main())
