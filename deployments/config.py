"""The application's configuration: typed, frozen, checked on construction, unknown keys refused.

One `ServerConfig` holds everything: which models with which strategy, on which accelerator, with what limits. It is
what `headtail serve FILE`, `serve run deployments.app:build` and a Serve config YAML (under `args`) take.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from deployments.executors.registry import EXECUTORS
from deployments.scheduling.registry import SHIPPED, current_name
from slicer.common.validation import Strict, explain, nearest
from slicer.common.yaml_files import read_yaml
from slicer.core.common.addresses import application_url, bearer_token, browser_origin
from slicer.core.common.error_text import shown
from slicer.core.protocol.outputs import FURTHER, in_order
from slicer.errors import ConfigError
from slicer.models.labels import given_labels

#: Keys that an exported directory has answered already; beside `shards` they would do nothing.
_SHARDS_DECIDE = (
    *("model", "kwargs", "checkpoint", "checkpoint_key", "pretrained", "seed", "dtype", "num_slices", "at"),
    "outputs",
)

#: Keys of `ServerConfig` that had another name before, and have this one now.
RENAMED_KEYS = {
    "naive_batch_wait_timeout_s": "serve_batch_wait_timeout_s",
    "naive_concurrency": "serve_batch_concurrency",
}


class ModelConfig(Strict):
    """One served model.

    Attributes:
        name: what devices ask for.
        model: a timm name, ``package.module:callable``, ``hf:ORG/NAME`` or a folder of Hugging Face's, a shipped demo
            model or a model file; the default is `name`.
        kwargs: keyword arguments of the call that builds the model.
        checkpoint: a file with the weights.
        checkpoint_key: where in that file they lie, or what their names begin with: ``model_ema``,
            ``state_dict.teacher``. Default: the only ones that fit; of a model and its average the average.
        pretrained: download the weights that timm names for this model; needs the internet.
        seed: of random weights, where neither `checkpoint` nor `pretrained` is given.
        dtype: of weights and activations.
        shards: serve from this exported directory instead of building `model`.
        num_slices: into how many slices the model is cut, balanced by FLOPs.
        at: cut at these places instead: names of boundaries, or numbers of blocks.
        strategy: how rows are batched; a shipped name, or ``package.module:Class``.
        options: the strategy's own.
        max_batch: most rows in one step.
        entries: cuts at which requests may enter; default: every cut but n.
        profile: what its steps cost, a file that `profile_dir` or headtail slice wrote; default: measured at the start.
        labels: what its classes are called: a list, or a file with a label on each line or JSON; it is read where the
            configuration is, so no other machine needs it. ``auto``: what the model, its checkpoint or timm say;
            ``none``: no labels.
        outputs: what a request may ask for beside classes and logits: ``features``, the pooled embedding; ``tokens``,
            what it is pooled from. They are computed and kept for every row, and sent to who asks.
        onnx: hand out its slices as ONNX files as well, for devices without torch; they are made and checked at the
            start, which takes the extra ``onnx`` and some seconds per slice, unless `shards` holds them.
        trunk: the name of another model of the application that differs from this one in the last slice only: both run
            as one up to there, and share batches, strategy and queue.
        max_answer_bytes: most bytes of the outputs of one request, all its rows together; more is refused.
    """

    name: str = Field(min_length=1)
    model: str = ""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    pretrained: bool = False
    seed: int = 0
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    shards: str | None = None
    num_slices: int = Field(default=4, ge=1)
    at: tuple[str | int, ...] | None = None
    strategy: str = "per_tail_shared"
    options: dict[str, Any] = Field(default_factory=dict)
    max_batch: int = Field(default=32, ge=1)
    entries: tuple[int, ...] | None = None
    profile: str | None = None
    labels: tuple[str, ...] | Literal["auto"] = "auto"
    outputs: tuple[str, ...] = ()
    onnx: bool = False
    trunk: str | None = None
    max_answer_bytes: int = Field(default=16 << 20, ge=1)

    @field_validator("labels", mode="before")
    @classmethod
    def _read_labels(cls, labels: Any) -> tuple[str, ...] | Literal["auto"]:
        return given_labels(labels)

    @field_validator("outputs")
    @classmethod
    def _known_outputs(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        return in_order(outputs, FURTHER)

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, strategy: str) -> str:
        strategy = current_name(strategy)
        if strategy not in SHIPPED and ":" not in strategy:
            raise ValueError(
                f"unknown strategy {shown(repr(strategy))}{nearest(strategy, list(SHIPPED))}; "
                f"this build has {', '.join(SHIPPED)}; "
                "an own one is written package.module:Class"
            )
        return strategy

    @model_validator(mode="after")
    def _no_contradiction(self) -> ModelConfig:
        decided = [
            key for key in _SHARDS_DECIDE if key in self.model_fields_set and getattr(self, key) not in (None, ())
        ]
        if self.shards and decided:
            raise ValueError(
                f"model {self.name!r}: shards={self.shards!r} already holds weights and cuts; "
                f"leave out {', '.join(decided)}"
            )
        if self.at is not None and "num_slices" in self.model_fields_set and self.num_slices != len(self.at) + 1:
            raise ValueError(
                f"model {self.name!r}: at has {len(self.at)} places, which makes {len(self.at) + 1} slices, not "
                f"num_slices={self.num_slices}; leave out one of the two"
            )
        if self.checkpoint and self.pretrained:
            raise ValueError(f"model {self.name!r}: checkpoint and pretrained both name weights; give one")
        if self.entries is not None and not self.entries:
            raise ValueError(f"model {self.name!r}: entries is empty, so no request could enter; leave it out")
        return self

    @property
    def source(self) -> str:
        """What `slicer.models.zoo.resolve` is asked for."""
        return self.model or self.name


class HttpConfig(Strict):
    """The HTTP way in, through HAProxy straight into the replicas. Serve binds its ports when it starts.

    Attributes:
        enabled: ``auto``: wherever it works by itself (`deployments.placing.http_endpoint`), with a token that devices
            inside Ray are told; true: else the start fails; false: no port is opened.
        host: the interface of the port, and of the replicas' own ports (30000 to 31000) behind it: ``127.0.0.1`` for
            devices on the only node, or ``0.0.0.0``; empty: the first where there is one node, else the second. No
            other address works: Ray lets HAProxy reach a replica on its own node at the loopback address, and binds
            both to the same one. HAProxy's statistics and metrics ports (8404 and 9101, others where these are taken)
            always listen on all interfaces: Ray has no setting for that, so a firewall has to close them.
        port: the same on every node with a replica, and on the head node; 0: 8000, with ``auto`` another one where
            that is taken.
        max_body_bytes: longer bodies are refused with 413.
        url: what devices are told; empty: the node's address, the port and the application's name as the path.
        web: hand out the page that makes a browser a device, at ``/<app>/device/``. It needs no token itself; what it
            asks does. The files are those of ``clients/web`` in a checkout, and ``make web`` adds what slices in the
            browser need.
        cors_origins: other origins whose pages may ask from a browser, each exactly as browsers write it:
            ``https://host[:port]``. The server's own page needs none.
    """

    enabled: bool | Literal["auto"] = "auto"
    host: str = ""
    port: int = Field(default=0, ge=0, le=65535)
    max_body_bytes: int = Field(default=64 << 20, ge=1024)
    url: str = ""
    web: bool = False
    cors_origins: tuple[str, ...] = ()

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(browser_origin(origin) for origin in origins)

    @model_validator(mode="after")
    def _no_contradiction(self) -> HttpConfig:
        if self.enabled is False and (self.web or self.cors_origins):
            raise ValueError(f"{'web' if self.web else 'cors_origins'} with enabled: false; browsers come by HTTP")
        return self

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        return application_url(url) if url else url

    @field_validator("host")
    @classmethod
    def _reachable(cls, host: str) -> str:
        if host not in ("", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost"):
            raise ValueError(
                f"host {host!r}: Ray's HAProxy could not reach the replicas there; set 0.0.0.0 and close the other "
                "interfaces by a firewall, or 127.0.0.1 where all devices are on the only node"
            )
        return host


class GrpcConfig(Strict):
    """The gRPC way in, beside HTTP's and on the same interface: the same protocol, models and token. Longer messages
    than ``http.max_body_bytes`` are refused.

    Attributes:
        enabled: ``auto``: wherever HTTP is; true: else the start fails; false: no port is opened. The replicas' own
            ports (40000 to 41000) listen on all interfaces, for which Ray has no setting: with ``http.host`` 127.0.0.1
            they refuse calls from other machines.
        port: the same on every node with a replica, and on the head node; 0: 9000, with ``auto`` another one where that
            is taken.
    """

    enabled: bool | Literal["auto"] = "auto"
    port: int = Field(default=0, ge=0, le=65535)


class IngressConfig(Strict):
    """The processes that speak to clients: fronts, beside the core that owns the accelerator.

    Attributes:
        replicas: of fronts on each node with a core. ``auto``: one per four processors of the node, at most eight, and
            none on a node of one or two. 0: the core's process speaks to clients itself, which is the cheapest where
            few processors are.
        cpus: what one of them asks of Ray; small, since they share what the core and devices leave.
        shared_memory_bytes: for rows of one front, until they are answered. A container's limit of memory must allow
            for it; pages that were never used take none.
    """

    replicas: int | Literal["auto"] = Field(default="auto")
    cpus: float = Field(default=0.01, ge=0)
    shared_memory_bytes: int = Field(default=256 << 20, ge=1)

    @field_validator("replicas")
    @classmethod
    def _not_negative(cls, replicas: int | str) -> int | str:
        if isinstance(replicas, int) and replicas < 0:
            raise ValueError(f"replicas {replicas}: give 0 or more, or auto")
        return replicas


@dataclass(frozen=True)
class HttpAddress:
    """Where an application's ports are, once that is settled (`deployments.placing.http_endpoint`).

    Attributes:
        host: the interface, ``0.0.0.0`` or ``::`` for all of them.
        port: the same on every node with a replica.
        url: what devices are told instead of the node's address; empty: nothing else.
        grpc_port: of gRPC, on the same interface; 0: there is none.
    """

    host: str
    port: int
    url: str = ""
    grpc_port: int = 0

    def of(self, name: str, address: str) -> str:
        """URL of the application `name` on the node with this address."""
        return f"http://{self._reached(address)}:{self.port}/{name}"

    def grpc_of(self, address: str) -> str:
        """``host:port`` of gRPC on the node with this address; empty: there is none."""
        return f"{self._reached(address)}:{self.grpc_port}" if self.grpc_port else ""

    @property
    def local(self) -> bool:
        """Whether only processes on the same machine reach it."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    def _reached(self, address: str) -> str:
        host = address if self.host in ("0.0.0.0", "::") else self.host
        return f"[{host}]" if ":" in host else host


def _token_of_environment() -> str:
    return bearer_token(os.environ.get("HEADTAIL_TOKEN", ""), "HEADTAIL_TOKEN")


class ServerConfig(Strict):
    """The whole application.

    Attributes:
        models: at least one; they share the accelerator of a replica.
        accelerator: ``cuda`` asks for a GPU (an autoscaler adds one), ``cpu`` does not, ``auto`` decides from the
            living nodes when the application starts.
        executor: ``torch``, ``emulated`` or an own ``package.module:Class``.
        executor_options: the executor's own.
        num_replicas: replicas of the server, an engine and an accelerator (share) each.
        max_surge_percent: Serve's own: so many more replicas, in percent, may run while a redeploy replaces them. 100:
            the new one is there before the old one stops, and no request meets a gap; the cluster needs room for both,
            else the redeploy waits for it. 0: the old one stops first.
        gpus, cpus: what one replica asks of Ray.
        torch_threads: intra-op threads on a CPU; None leaves torch's default.
        max_queue_rows: rows one replica holds before it refuses with `overloaded`, images that wait to be decoded among
            them.
        max_queue_bytes: of images and very large payloads that wait to be decoded, before it refuses likewise.
        max_ongoing_requests: Serve's limit per replica; None derives it from the queue.
        admission_batch: rows that are decoded and handed to the engine at once, at most.
        admission_concurrency: such decodings on threads at a time (images, very large payloads).
        serve_batch_wait_timeout_s, serve_batch_concurrency: of the ``@serve.batch`` handlers of strategy `serve_batch`.
        start_timeout_s: how long a start may take before it is given up with the name of what is missing.
        shard_dir: where replicas keep the shards that devices fetch.
        profile_dir: where a replica writes the cost tables of its models (``MODEL.yaml``): as measured, once it is up,
            and as kept up to date, when it stops. Only strategies that decide by costs have them.
        http: the HTTP way in; the Serve handle is always there.
        grpc: the gRPC way in.
        ingress: the processes that speak to clients.
        token: what HTTP requests and gRPC calls must bring; default: HEADTAIL_TOKEN of the process that starts the
            application; where HTTP is on by itself, one that is made at the start.
    """

    models: tuple[ModelConfig, ...] = (ModelConfig(name="digits_vit"),)
    accelerator: Literal["auto", "cuda", "cpu"] = "auto"
    executor: str = "torch"
    executor_options: dict[str, Any] = Field(default_factory=dict)
    num_replicas: int = Field(default=1, ge=1)
    max_surge_percent: int = Field(default=0, ge=0, le=100)
    gpus: float = Field(default=1.0, gt=0)
    cpus: float = Field(default=1.0, ge=0)
    torch_threads: int | None = Field(default=None, ge=1)
    max_queue_rows: int = Field(default=2048, ge=1)
    max_queue_bytes: int = Field(default=256 << 20, ge=1)
    max_ongoing_requests: int | None = Field(default=None, ge=1)
    admission_batch: int = Field(default=32, ge=1)
    admission_concurrency: int = Field(default=2, ge=1)
    serve_batch_wait_timeout_s: float = Field(default=0.01, ge=0)
    serve_batch_concurrency: int = Field(default=1, ge=1)
    start_timeout_s: float = Field(default=300.0, gt=0)
    shard_dir: str = "~/.cache/headtail/served"
    profile_dir: str | None = None
    http: HttpConfig = HttpConfig()
    grpc: GrpcConfig = GrpcConfig()
    ingress: IngressConfig = IngressConfig()
    token: str = Field(default_factory=_token_of_environment, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _current_keys(cls, data: Any) -> Any:
        """Keys that had another name before are taken, with a warning."""
        for old in [key for key in RENAMED_KEYS if isinstance(data, dict) and key in data]:
            new = RENAMED_KEYS[old]
            if new in data:
                raise ValueError(f"{old} is now {new}, and both are given; leave out {old}")
            warnings.warn(f"{old} is now {new}; the old name goes with 0.3", FutureWarning, stacklevel=1)
            data = {new if key == old else key: value for key, value in data.items()}
        return data

    @field_validator("token", mode="before")
    @classmethod
    def _sendable(cls, token: Any) -> str:
        return bearer_token(token, "token")

    @field_validator("executor")
    @classmethod
    def _known_executor(cls, executor: str) -> str:
        if executor not in EXECUTORS and ":" not in executor:
            raise ValueError(
                f"unknown executor {shown(repr(executor))}{nearest(executor, EXECUTORS)}; "
                f"this build has {', '.join(EXECUTORS)}; an own one is written package.module:Class"
            )
        return executor

    @model_validator(mode="after")
    def _no_contradiction(self) -> ServerConfig:
        names = [model.name for model in self.models]
        if not names:
            raise ValueError("models is empty; name at least one, such as {name: digits_vit}")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two models are named {doubled[0]!r}; give each a name of its own")
        self._check_trunks()
        alone = [m for m in self.models if m.strategy in SHIPPED and not SHIPPED[m.strategy].in_engine]
        if alone and any(model.strategy != alone[0].strategy for model in self.models):
            raise ValueError(
                f"model {alone[0].name!r} has strategy {alone[0].strategy}, which drives the accelerator past the "
                "engine; the models beside it need an application of their own"
            )
        if alone and self.ingress.replicas not in ("auto", 0):
            raise ValueError(
                f"ingress.replicas={self.ingress.replicas}: strategy {alone[0].strategy} answers in the process that "
                "speaks to clients; leave ingress.replicas out, or set 0"
            )
        if self.grpc.enabled is True and self.http.enabled is False:
            raise ValueError("grpc: {enabled: true} with http: {enabled: false}; gRPC comes with HTTP")
        if self.grpc.port and self.grpc.port == self.http.port:
            raise ValueError(f"http.port and grpc.port are both {self.http.port}; give gRPC one of its own")
        least = self.admission_batch * self.admission_concurrency
        if self.max_ongoing_requests is not None and self.max_ongoing_requests < least:
            raise ValueError(
                f"max_ongoing_requests={self.max_ongoing_requests} is less than admission_batch * "
                f"admission_concurrency = {least}, so batches could never fill; raise it or lower those"
            )
        return self

    def _check_trunks(self) -> None:
        known = {model.name: model for model in self.models}
        for model in self.models:
            if model.trunk is None:
                continue
            trunk = known.get(model.trunk)
            others = [name for name, other in known.items() if other is not model and other.trunk is None]
            if trunk is None or trunk is model or trunk.trunk is not None:
                raise ValueError(
                    f"model {model.name!r}: trunk {shown(repr(model.trunk))} must be another model of the application "
                    f"that has no trunk itself; there are {', '.join(others) or 'none'}"
                )
            if trunk.strategy in SHIPPED and not SHIPPED[trunk.strategy].in_engine:
                raise ValueError(
                    f"model {model.name!r}: strategy {trunk.strategy} of its trunk has no engine; leave out trunk"
                )
            for key in ("strategy", "options", "max_batch", "profile"):
                if key in model.model_fields_set and getattr(model, key) != getattr(trunk, key):
                    raise ValueError(f"model {model.name!r}: {key} is that of its trunk {trunk.name!r}; leave it out")
            taken = {"strategy": trunk.strategy, "options": trunk.options, "max_batch": trunk.max_batch}
            known[model.name] = model.model_copy(update=taken)
        object.__setattr__(self, "models", tuple(known.values()))  # frozen for everybody else

    @property
    def ongoing(self) -> int:
        """Serve's max_ongoing_requests: above the engine's own limit, so that the engine says `overloaded`."""
        return self.max_ongoing_requests or self.max_queue_rows + 2 * self.admission_batch * self.admission_concurrency


def parse_config(data: Any) -> ServerConfig:
    """Check a mapping (or take a ServerConfig as it is).

    Raises:
        ConfigError: naming every wrong key.
    """
    if isinstance(data, ServerConfig):
        return data
    if not isinstance(data, dict):
        raise ConfigError(f"a configuration is a mapping of keys, got {type(data).__name__}")  # it may hold the token
    try:
        return ServerConfig(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(explain(error, "", ServerConfig)) from None


def load_config(path: str | Path) -> ServerConfig:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read or a key is wrong; the message names the file.
    """
    data = read_yaml(path)
    try:
        return parse_config(data if data is not None else {})
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
