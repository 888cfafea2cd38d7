"""Makes docs/configuration.md from the models that check the files: ``python docs/tools/make_configuration.py``.

Types, bounds and defaults are those of the pydantic models or of a signature. Meanings are the lines of the docstrings'
``Attributes:`` or ``Args:``. A key without a meaning is an error, so the page holds every key.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from actors.device.config import DeviceKeys, PlanConfig, Retry
from actors.fleet.config import CacheConfig, FleetConfig, GroupConfig
from actors.network.emulated_link import EmulatedLink
from deployments.config import GrpcConfig, HttpConfig, IngressConfig, ModelConfig, ServerConfig
from deployments.executors.cuda.executor import CudaExecutor
from deployments.executors.emulated import EmulatedExecutor
from deployments.scheduling.registry import POLICIES, make_policy
from slicer.core.planning.link_presets import PRESETS
from slicer.core.planning.settings import PlanSettings
from slicer.core.settings import RetrySettings
from slicer.profiles.device_profile import Profile, Spread

PAGE = Path(__file__).resolve().parents[1] / "configuration.md"

#: A key's unit, by how its name ends.
UNITS = {
    "_mbit_per_s": "Mbit/s",
    "mbit_per_s": "Mbit/s",
    "_joules_per_mb": "J/MB",
    "joules_per_mb": "J/MB",
    "joule_ms": "ms per J",
    "server_ms": "ms per ms",
    "_percent": "%",
    "_bytes": "bytes",
    "_rows": "rows",
    "_ms": "ms",
    "_s": "s",
    "watts": "W",
    "mean": "ms",
    "std": "ms",
    "quantiles": "ms",
    "cpus": "CPUs",
    "gpus": "GPUs",
    "threads": "threads",
    "max_batch": "rows",
    "admission_batch": "rows",
    **dict.fromkeys(("agreement", "margin", "gain", "doubt", "loss", "gate"), "share"),
}

#: The same where a name's ending would mislead.
NO_UNIT = {
    "slice_bytes": "bytes each",
    "activation_bytes": "bytes each",
    "slices_ms": "ms each",
    "batches_ms": "ms each",
}

#: What a strategy is given by the server, not by its `options`.
_GIVEN = ("model", "num_slices", "max_batch", "max_wait_s", "costs")

#: Arguments of a class that stand in no file.
_INNER = ("clock", "sleep", "gpu", "device", "threads")

#: Types that no annotation says in a reader's words.
TYPES = {
    "phases": "list of `[seconds, mbit_per_s, delay_ms, loss]`, the last two optional",
    "labels": "`auto`, `none`, a path or a list of text",
}

HEAD = """# Configuration
Every key of the server's file and of the fleet's file. This page is generated: `make docs` runs
`docs/tools/make_configuration.py`, which reads the models that check the files. Unknown keys and contradictions are
refused, with the remedy in the message.

*Required* keys have no default. A unit belongs to the number in the file. `package.module:Class` names a class of your
own ([extending](guide/extending.md)).
"""


def meanings(doc: str) -> dict[str, str]:
    """The lines of a docstring's ``Attributes:`` or ``Args:``, by name; a line for several names counts for each."""
    found: dict[str, str] = {}
    inside = False
    names: list[str] = []
    for line in inspect.cleandoc(doc).splitlines():
        if not line.startswith(" "):
            inside = line in ("Attributes:", "Args:")
        elif inside:
            match = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
            if match:
                names = match[1].split(", ")
                found |= dict.fromkeys(names, match[2])
            else:
                for name in names:
                    found[name] += " " + line.strip()
    # "delay_ms: one way. jitter_ms: mean of what is added": a second name within a line.
    for name, text in list(found.items()):
        parts = re.split(r"\. ([a-z]+_[a-z_]+): ", text)
        found[name] = parts[0]
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return {name: markdown(text if text.endswith("...") else text.removesuffix(".")) for name, text in found.items()}


def markdown(text: str) -> str:
    """A docstring's text in a cell of a table."""
    return re.sub(r"\bNone\b", "none", text.replace("``", "`").replace("|", "\\|"))


def unit(name: str) -> str:
    """Of a key, by its name; empty if it has none."""
    if name in NO_UNIT:
        return NO_UNIT[name]
    return next((word for end, word in UNITS.items() if name == end or (end[0] == "_" and name.endswith(end))), "")


def kind(annotation: Any, bounds: str = "") -> str:
    """A type in words; `bounds` follow the number that they belong to."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        words = [kind(part, bounds) for part in inner if part is not type(None)]
        return " or ".join(words)
    if origin in (tuple, list):
        return f"list of {kind(inner[0])}" if inner else "list"
    if origin is dict:
        return "mapping" if not inner or inner[1] is Any else f"mapping to {kind(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[mapping](#{anchor(annotation)})"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "anything"}
    word = plain.get(annotation) or str(getattr(annotation, "__name__", "anything"))
    return word + (bounds if annotation in (int, float) else "")


def bounds(field: FieldInfo) -> str:
    """``, 0 or more`` and the like."""
    words = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    found = [
        word.format(f"{getattr(item, key):g}")
        for key, word in words.items()
        for item in field.metadata
        if getattr(item, key, None) is not None
    ]
    return f", {', '.join(found)}" if found else ""


def default(value: Any) -> str:
    """A default as YAML would have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple | list):
        return (
            "`["
            + ", ".join(f"{{name: {item.name}}}" if isinstance(item, ModelConfig) else str(item) for item in value)
            + "]`"
        )
    if isinstance(value, float) and value.is_integer():
        return f"`{value:.0f}`"
    return f"`{value}`" if value != "" else "empty"


def table(rows: Iterable[tuple[str, str, str, str, str]]) -> str:
    """The table of one mapping."""
    lines = ["| key | type | unit | default | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def of_model(model: type[BaseModel], leave_out: tuple[str, ...] = ()) -> str:
    """The table of a pydantic model.

    Raises:
        KeyError: a key has no meaning in its class's docstring, or in one that the class is derived from.
    """
    known: dict[str, str] = {}
    if model in MEANT_BY:
        known |= meanings(MEANT_BY[model].__doc__ or "")
    for base in reversed(model.__mro__):
        known |= meanings(base.__doc__ or "") if issubclass(base, BaseModel) else {}
    rows = []
    own = [name for name in model.model_fields if name in model.__annotations__]
    for name in dict.fromkeys([*own, *model.model_fields]):
        field = model.model_fields[name]
        if name in leave_out:
            continue
        if field.default_factory is not None:
            made = "see there" if name == "token" else "`{}`"
        else:
            made = "required" if field.default is PydanticUndefined else default(field.default)
        said = TYPES.get(name) or kind(field.annotation, bounds(field))
        rows.append((f"`{name}`", said, unit(name), made, known[name]))
    return table(rows)


def of_call(function: Any, leave_out: tuple[str, ...]) -> str:
    """The table of the arguments that a class takes from a file, or nothing if there are none."""
    known: dict[str, str] = {}
    for base in reversed(inspect.getmro(function)):
        known |= meanings(base.__doc__ or "")
    hints = typing.get_type_hints(function.__init__)
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in leave_out:
            empty = parameter.default is inspect.Parameter.empty
            made = "required" if empty else default(parameter.default)
            rows.append((f"`{name}`", TYPES.get(name) or kind(hints[name]), unit(name), made, known[name]))
    return table(rows) if rows else ""


#: Title and class of every mapping, in the order of the page.
MODELS: dict[type[BaseModel], str] = {
    ServerConfig: "The server's file",
    ModelConfig: "A model",
    HttpConfig: "HTTP",
    GrpcConfig: "gRPC",
    IngressConfig: "Fronts",
    FleetConfig: "The fleet's file",
    GroupConfig: "A group of devices",
    PlanConfig: "Planning",
    Retry: "Retries",
    CacheConfig: "The cache of shards",
    Profile: "A device's profile",
    Spread: "A duration",
}

#: Where the keys of a class are explained that checks what another one holds.
MEANT_BY: dict[type[BaseModel], type] = {PlanConfig: PlanSettings, Retry: RetrySettings}

#: A sentence above a table.
INTRODUCTIONS: dict[type[BaseModel], str] = {
    ServerConfig: "For `headtail serve FILE`, `serve run deployments.app:build`, and the `args` of `serve.yaml`.",
    ModelConfig: "An item of `models`.",
    HttpConfig: "The key `http`. `web` and `cors_origins` are for [browsers](guide/browser.md).",
    GrpcConfig: "The key `grpc` ([guide](guide/grpc.md)).",
    IngressConfig: "The key `ingress`: the processes that speak to clients.",
    FleetConfig: "For `headtail load --fleet FILE`.",
    GroupConfig: "An item of `groups`.",
    PlanConfig: "The key `plan` of a group; `plan: {}` takes the defaults.",
    Retry: "The key `retry` of the fleet's file.",
    CacheConfig: "The key `cache` of the fleet's file.",
    Profile: "A file that `headtail slice --profile` writes. The key `profile` of a group names it.",
    Spread: "A time in a profile: mean and standard deviation, or quantiles.",
}


def anchor(model: type[BaseModel]) -> str:
    """Of a table's title, as Markdown makes it."""
    return re.sub(r"[^\w-]", "", MODELS[model].lower().replace(" ", "-"))


def section(model: type[BaseModel]) -> str:
    """One title with its table."""
    leave_out = ("directory",) if model is FleetConfig else ()
    return f"## {MODELS[model]}\n{INTRODUCTIONS[model]}\n\n{of_model(model, leave_out)}"


def links() -> str:
    """Options and presets of emulated links."""
    rows = "\n".join(
        f"| `{name}` | {p.mbit_per_s:g} / {p.down_mbit_per_s:g} | {p.delay_ms:g} | {p.jitter_ms:g} | {p.loss:g} "
        f"| {p.source} |"
        for name, p in PRESETS.items()
    )
    trace = "a CSV file instead of `phases`: seconds, mbit_per_s, and if wanted delay_ms, loss"
    return (
        "## An emulated link\n`link_options` of a group whose `link` is `emulated` or a preset.\n\n"
        f"{of_call(EmulatedLink, (*_INNER, 'seed'))}| `trace` | path |  | none | {trace} |\n\n"
        "Presets stand for links of a kind, not for yours.\n\n"
        "| preset | Mbit/s up / down | delay one way, ms | jitter, ms | loss | source |\n|---|---|---|---|---|---|\n"
        f"{rows}\n"
    )


def strategies() -> str:
    """Options of the shipped strategies."""
    found = [(name, of_call(type(make_policy(name, model="m", num_slices=1)), _GIVEN)) for name in POLICIES]
    tables = [f"### {name}\n{text}" for name, text in found if text]
    return (
        "## Options of strategies\n`options` of a model. Strategies that are not named here have none.\n\n"
        + "\n".join(tables)
    )


def executors() -> str:
    """Options of the shipped executors."""
    return (
        "## Options of executors\n`executor_options` of the server's file.\n\n"
        f"### emulated\n{of_call(EmulatedExecutor, _INNER)}\n"
        f"### torch, on CUDA\n{of_call(CudaExecutor, _INNER)}"
    )


def page() -> str:
    """The whole page."""
    parts = [section(model) for model in MODELS]
    server, fleet = parts[:3], parts[3:]
    return "\n".join([HEAD, *server, strategies(), executors(), *fleet, links()])


def main() -> int:
    """Write the page."""
    assert issubclass(GroupConfig, DeviceKeys)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
