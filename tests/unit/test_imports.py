"""Who may import whom, as docs/architecture.md says; read from the sources, nothing is imported.

Every import counts, wherever it stands. A module of `deployments` that is missing from ARROWS fails here on purpose:
give it a line, and with it a place in the order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("slicer", "actors", "deployments")

#: The one module that may know both sides: it starts an application for the load job when no server was given.
EXCEPTION = "actors.load.applications"

#: module of deployments -> the modules of deployments it may import, beside config.
ARROWS: dict[str, set[str]] = {
    "config": set(),
    "scheduler": set(),
    "telemetry": set(),
    "executors": {"scheduler"},
    "queues": {"scheduler"},
    "costs": set(),
    "cost_profiles": {"costs"},
    "continuous": {"costs", "scheduler"},
    "lazy": {"costs", "queues", "scheduler"},
    "policies": {"continuous", "costs", "lazy", "queues", "scheduler"},
    "simulator": {"costs", "policies", "scheduler"},
    "workloads": {"costs", "simulator"},
    "enqueuing": {"scheduler"},
    "calibrate": {"costs", "enqueuing", "executors", "scheduler"},
    "ledger": {"scheduler"},
    "models": set(),
    "connections": set(),
    "ingress": {"connections"},
    "placement": set(),
    "slab": set(),
    "streams": {"executors"},
    "graphs": {"streams"},
    "activations": {"executors", "scheduler", "slab", "streams"},
    "cuda": {"activations", "costs", "executors", "graphs", "scheduler", "slab", "streams"},
    "fitting": {"scheduler"},
    "engine": {"scheduler", "executors", "fitting", "ledger"},
    "pipelined": {"engine", "enqueuing", "scheduler", "executors", "ledger"},
    "warm_up": {"engine", "executors", "scheduler"},
    "replica": set(),
    "fakes": {"scheduler", "executors"},
    "decoding": {"models"},
    "load_report": set(),
    "answered": set(),
    "calls": {"ledger", "models"},
    "decode_queue": {"calls", "decoding", "executors"},
    "admission": {"calls", "decode_queue", "decoding", "engine", "executors", "models"},
    "emulated": {"cost_profiles", "costs", "executors", "scheduler"},
    "naive": {"calls", "decoding", "engine", "executors", "models", "scheduler"},
    "tail": {
        "admission",
        "answered",
        "calibrate",
        "calls",
        "cost_profiles",
        "costs",
        "engine",
        "enqueuing",
        "executors",
        "ingress",
        "load_report",
        "models",
        "naive",
        "pipelined",
        "policies",
        "replica",
        "scheduler",
        "telemetry",
        "warm_up",
    },
    "way_in": {"placement", "config"},
    "checks": {"models", "cost_profiles", "policies"},
    "app": {"checks", "tail", "placement", "way_in"},
    "doctor_facts": set(),
    "connecting": {"doctor_facts"},
    "cli": {"app", "connecting", "placement"},
    "doctor_checks": {"doctor_facts"},
    "doctor": {"connecting", "doctor_facts", "doctor_checks"},
}

#: Pure state and arithmetic: the simulator runs them in virtual time, on hosts that have neither library.
PURE = tuple(
    f"deployments.{name}"
    for name in (
        "scheduler",
        "queues",
        "policies",
        "costs",
        "cost_profiles",
        "continuous",
        "lazy",
        "simulator",
        "workloads",
    )
)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Dotted names that `source` imports, relative ones resolved against `module`.

    `from a import b` gives ``a.b``, since b may be a module; `importlib.import_module("a.b")` counts too.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            literal = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            if name in ("import_module", "__import__") and isinstance(literal, str):
                yield literal


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module of ours; empty if all is well."""
    package, _, rest = module.partition(".")
    found = []
    if module == "deployments" and is_package and source.strip():
        return ["deployments/__init__ is not empty"]
    own = rest.split(".")[0]
    if package == "deployments" and rest and own not in ARROWS:
        found.append(f"{module} has no line in ARROWS")
    for name in imports(source, module, is_package):
        top, _, inner = name.partition(".")
        arrow = f"{module} imports {name}"
        if package == "slicer" and top in ("ray", "actors", "deployments"):
            found.append(arrow)
        if package == "actors" and top == "deployments" and module != EXCEPTION:
            found.append(arrow)
        if package == "deployments" and top == "actors":
            found.append(arrow)
        if package == top == "deployments" and inner:
            target = inner.split(".")[0]
            if target not in (own, "config") and target not in ARROWS.get(own, set()):
                found.append(arrow)
        if module in PURE and top in ("ray", "torch", "timm", "torchvision"):
            found.append(arrow)
    return found


def modules() -> list[tuple[str, Path]]:
    """All modules of our packages, by dotted name."""
    found = []
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(module: str, path: Path) -> None:
    assert violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


def test_the_arrows_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(ARROWS):
        ready = {module for module, targets in ARROWS.items() if module not in done and targets <= done}
        assert ready, f"a cycle among {sorted(set(ARROWS) - done)}"
        done |= ready


def test_the_packages_were_found() -> None:
    found = {module for module, _ in modules()}
    assert {
        "slicer.protocol.messages",
        "actors.records.record",
        "deployments.scheduling.scheduler",
        "deployments",
    } <= found


# The checker itself: each source below breaks one rule, and is found.
@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("slicer.codecs.activations", "import ray", "slicer.codecs.activations imports ray"),
        (
            "slicer.codecs.activations",
            "def f():\n    from ray import serve",
            "slicer.codecs.activations imports ray.serve",
        ),
        (
            "slicer.codecs.activations",
            "import importlib\nimportlib.import_module('actors.fleet.fleet')",
            "slicer.codecs.activations imports actors.fleet.fleet",
        ),
        ("actors.fleet.fleet", "from deployments import app", "actors.fleet.fleet imports deployments.app"),
        (
            "deployments.replica.tail_server",
            "import actors.device.device as d",
            "deployments.replica.tail_server imports actors.device.device",
        ),
        (
            "deployments.scheduling.scheduler",
            "import torch.nn as nn",
            "deployments.scheduling.scheduler imports torch.nn",
        ),
        (
            "deployments.scheduling.scheduler",
            "from .engine import Engine",
            "deployments.scheduling.scheduler imports deployments.engine.engine.Engine",
        ),
        (
            "deployments.engine.engine",
            "from deployments import tail",
            "deployments.engine.engine imports deployments.replica.tail_server",
        ),
        ("deployments.stray", "", "deployments.stray has no line in ARROWS"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, complaint: str) -> None:
    assert violations(module, source) == [complaint]


def test_code_in_the_packages_init_is_found() -> None:
    assert violations("deployments", "from deployments.app import build", is_package=True) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("actors.load.applications", "from deployments.app import build"),
        ("actors.device.device", "import ray\nfrom slicer import load_span"),
        (
            "deployments.engine.engine",
            "import torch\nfrom deployments.config import ServerConfig\nfrom .scheduler import Row",
        ),
        ("deployments.scheduling.scheduler", "from slicer.errors import ConfigError"),
    ],
)
def test_allowed_imports_pass(module: str, source: str) -> None:
    assert violations(module, source) == []
