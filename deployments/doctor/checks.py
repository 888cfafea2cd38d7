"""What `headtail doctor` thinks of the facts: pure functions from facts to findings, each with what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from deployments.doctor.facts import NodeFacts

Level = Literal["ok", "warn", "fail"]

#: Least versions, those of pyproject.toml (a test compares them).
MINIMA: dict[str, tuple[int, ...]] = {"ray": (2, 60), "torch": (2, 6), "timm": (1, 0, 20)}
PYTHONS = ((3, 10), (3, 14))  # half-open

GIB = 1024**3

#: Resources that Ray declares by itself, of every node and of the Ray head node.
RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")
RAY_HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `todo` is empty where nothing is to be done."""

    level: Level
    check: str
    node: str
    message: str
    todo: str = ""


@dataclass(frozen=True)
class Facts:
    """All that was seen.

    Attributes:
        nodes: one per living node of the cluster, or this machine alone.
        address: GCS address of the cluster; None for this machine alone.
        dashboard: ``host:port`` of the dashboard, empty if the cluster has none.
        applications: status by name of Serve's applications; None if Serve does not run or was not asked.
        server: name of the application that must run; None if none was asked for.
        members: addresses that the cluster's file names; None if none was given.
    """

    nodes: Sequence[NodeFacts]
    address: str | None = None
    dashboard: str = ""
    applications: dict[str, str] | None = None
    server: str | None = None
    members: Sequence[str] | None = None

    @property
    def living(self) -> list[NodeFacts]:
        """Nodes that answered."""
        return [node for node in self.nodes if not node.dead]


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.6.0+cpu`` -> (2, 6, 0)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def check_answers(facts: Facts) -> Iterator[Finding]:
    """Did every node answer?"""
    for node in facts.nodes:
        if node.dead:
            todo = "look at the node's Ray logs (/tmp/ray/session_latest/logs), restart Ray there"
            yield Finding("fail", "node", node.name, node.dead, todo)


def check_members(facts: Facts) -> Iterator[Finding]:
    """Is every machine of the cluster's file in the cluster?"""
    if facts.members is None:
        return
    missing = [address for address in facts.members if address not in {node.address for node in facts.nodes}]
    for address in missing:
        todo = (
            "is it on, and its network? `ray start` there says why it does not join: another token, Python or Ray; "
            "what the head tried is in /tmp/ray/session_latest/logs/monitor.*"
        )
        yield Finding("fail", "members", address, "is in the cluster's file, but not in the cluster", todo)
    if not missing:
        yield Finding("ok", "members", "all", f"all {len(facts.members)} machines of the cluster's file are there")


def check_versions(facts: Facts) -> Iterator[Finding]:
    """Python and the libraries: present, new enough, the same everywhere."""
    for node in facts.living:
        wrong = False
        if not PYTHONS[0] <= release(node.python) < PYTHONS[1]:
            wrong = True
            last = f"{PYTHONS[1][0]}.{PYTHONS[1][1] - 1}"
            todo = f"make .venv again with Python {_dotted(PYTHONS[0])} to {last}"
            yield Finding("fail", "versions", node.name, f"Python {node.python}", todo)
        for library, least in MINIMA.items():
            version = node.versions.get(library)
            if version is None:
                wrong = True
                yield Finding("fail", "versions", node.name, f"{library} is missing", "pip install -e . in its .venv")
            elif release(version) < least:
                wrong = True
                todo = f"pip install '{library}>={_dotted(least)}' on every node"
                yield Finding("fail", "versions", node.name, f"{library} {version} is too old", todo)
        if not wrong:
            seen = ", ".join(f"{library} {node.versions[library]}" for library in MINIMA)
            yield Finding("ok", "versions", node.name, f"Python {node.python}, {seen} on {node.machine}")
    yield from _same_everywhere(facts)


def _same_everywhere(facts: Facts) -> Iterator[Finding]:
    remedies: dict[str, tuple[Level, str]] = {
        "Python": ("fail", "use one Python on all nodes and for jobs, its last number included"),
        "ray": ("fail", "pip install one version of ray on all nodes, then restart Ray"),
        "torch": ("warn", "use one version on all nodes: split and whole models are bit-identical only then"),
        "timm": ("warn", "use one version on all nodes: a model's structure may differ between versions"),
    }
    for what, (level, todo) in remedies.items():
        holders: dict[str, list[str]] = defaultdict(list)
        for node in facts.living:
            version = node.python if what == "Python" else node.versions.get(what)
            if version:
                # A build's local part, +cpu or +cu128, may differ between devices and server.
                holders[version.partition("+")[0]].append(node.name)
        if len(holders) > 1:
            seen = "; ".join(f"{version} on {', '.join(names)}" for version, names in sorted(holders.items()))
            yield Finding(level, "versions", "all", f"{what} differs: {seen}", todo)


def check_project(facts: Facts) -> Iterator[Finding]:
    """Can the nodes import HeadTail?"""
    for node in facts.living:
        if node.project:
            todo = "pip install -e . there, or start jobs with `ray job submit --working-dir . -- python -m actors`"
            yield Finding("warn", "project", node.name, f"HeadTail cannot be imported ({node.project})", todo)


def check_gpu(facts: Facts) -> Iterator[Finding]:
    """Do the driver, torch and Ray agree about GPUs?"""
    for node in facts.living:
        declared = (node.resources or {}).get("GPU", 0)
        if node.cuda is None:
            todo = 'mend torch: python -c "import torch" says why'
            yield Finding("fail", "gpu", node.name, f"torch cannot be imported ({node.cuda_error})", todo)
        elif node.cuda:
            names = ", ".join(node.cuda)
            if node.resources is not None and not declared:
                todo = "restart Ray there with --num-gpus, else `accelerator: auto` does not find it"
                yield Finding("warn", "gpu", node.name, f"{names} works, but Ray was told of no GPU", todo)
            else:
                yield Finding("ok", "gpu", node.name, f"{names}, CUDA {node.cuda_build}")
            if not node.nvml:
                todo = "pip install nvidia-ml-py there; on a Jetson nothing can be done, NVML answers little"
                message = "NVML sees no GPU: no utilisation, memory or power in the metrics"
                yield Finding("warn", "gpu", node.name, message, todo)
        elif declared or node.nvml:
            seen = f"Ray declares GPU {declared:g}" if declared else f"NVML sees {', '.join(node.nvml or [])}"
            build = "torch is a CPU build" if node.cuda_build is None else f"torch is built for CUDA {node.cuda_build}"
            todo = "install a CUDA build of torch and a driver that fits it; until then the CPU is used"
            yield Finding("warn", "gpu", node.name, f"{seen}, but torch has no CUDA ({build})", todo)
        else:
            yield Finding("ok", "gpu", node.name, "no GPU; the CPU is used")


def check_resources(facts: Facts) -> Iterator[Finding]:
    """Are there nodes for the server and for devices?"""
    if facts.address is None:
        return
    single = len(facts.living) == 1
    for name, what in (("server", "the server"), ("edge", "devices")):
        holders = [node for node in facts.living if (node.resources or {}).get(name)]
        if holders:
            shown = ", ".join(f"{node.name} ({(node.resources or {})[name]:g})" for node in holders)
            yield Finding("ok", "resources", "all", f"{name}: {shown}")
        elif single:
            yield Finding("ok", "resources", "all", f"one node: {what} may run there without the resource {name}")
        elif name == "edge":
            todo = "start Ray on device nodes with --resources='{\"edge\": 4}' (4: device actors that may share it)"
            yield Finding("fail", "resources", "all", "no node declares edge, so no device can be placed", todo)
        else:
            todo = "start Ray on the GPU node with --resources='{\"server\": 1}'"
            message = "no node declares server: it goes to any node that is no edge node"
            yield Finding("warn", "resources", "all", message, todo)
    both = all(any((node.resources or {}).get(name) for node in facts.living) for name in ("server", "edge"))
    for node in facts.living:
        declared = node.resources or {}
        if declared.get("server") and declared.get("edge"):
            todo = "declare one of the two, else devices and the server share its CPU"
            yield Finding("warn", "resources", node.name, "declares both server and edge", todo)
        elif both and not (declared.get("server") or declared.get("edge") or declared.get(RAY_HEAD)):
            own = [name for name in declared if name not in RAYS_OWN and not name.startswith("node:")]
            todo = "start Ray there with --resources='{\"edge\": 4}' or '{\"server\": 1}'; check the spelling"
            message = f"declares neither server nor edge ({', '.join(own) or 'nothing of its own'}): it gets no work"
            yield Finding("warn", "resources", node.name, message, todo)


def check_shards(facts: Facts) -> Iterator[Finding]:
    """Are the shards there and intact where the server runs? Devices fetch theirs from the application."""
    asked = [node for node in facts.living if node.shards is not None]
    servers = {node.name for node in asked if (node.resources or {}).get("server")} or {node.name for node in asked}
    for node in asked:
        shards = node.shards or {}
        if "error" not in shards:
            message = f"{shards['slices']} slices intact, manifest {shards['digest'][:12]}"
            yield Finding("ok", "shards", node.name, message)
        elif node.name in servers and len(servers) == len(asked) > 1:
            todo = "needed only on the server's node, and none declares server: look at the right one"
            yield Finding("warn", "shards", node.name, shards["error"], todo)
        elif node.name in servers:
            todo = "copy the directory there, or make it again: headtail slice MODEL --export DIR"
            yield Finding("fail", "shards", node.name, shards["error"], todo)
        else:
            yield Finding("ok", "shards", node.name, "not here; devices fetch their slices from the application")
    digests = {(node.shards or {}).get("digest") for node in asked} - {None}
    if len(digests) > 1:
        todo = "copy one directory to all nodes"
        yield Finding("fail", "shards", "all", f"{len(digests)} different manifests under one path", todo)


def check_ports(facts: Facts) -> Iterator[Finding]:
    """A single machine: are Ray's usual ports free? A cluster: is the dashboard reachable from every node?"""
    for node in facts.living:
        for address, answers in node.reachable.items():
            if facts.address is None:
                port = address.rpartition(":")[2]
                if answers:
                    todo = "fine if a Ray runs here already (--address auto checks it), else stop what listens there"
                    yield Finding("warn", "ports", node.name, f"port {port} is in use", todo)
                else:
                    yield Finding("ok", "ports", node.name, f"port {port} is free")
            elif not answers:
                todo = "open the port between the nodes; on the head: ray start --head --dashboard-host=0.0.0.0"
                message = f"{address} cannot be reached; `ray job submit` from there needs it"
                yield Finding("warn", "ports", node.name, message, todo)
    if facts.address is not None:
        message = f"GCS {facts.address}, dashboard {facts.dashboard}" if facts.dashboard else f"GCS {facts.address}"
        todo = "" if facts.dashboard else "start the head with its dashboard (ray[default]) to use `ray job submit`"
        yield Finding("ok" if facts.dashboard else "warn", "ports", "all", message, todo)


def check_auth(facts: Facts) -> Iterator[Finding]:
    """Is token authentication on, off, or half on?"""
    for node in facts.living:
        mode = node.auth_mode.lower()
        if mode == "token" and not node.token:
            todo = "copy ~/.ray/auth_token there; where none exists yet: ray get-auth-token --generate"
            yield Finding("fail", "auth", node.name, "RAY_AUTH_MODE=token, but there is no token", todo)
        elif mode == "token":
            yield Finding("ok", "auth", node.name, "token mode, token at hand")
        elif not mode and node.token and facts.address is None:
            # Ray makes a token for every cluster of its own that `ray.init()` starts, so most machines have one.
            message = "a token is at hand; for a cluster of several machines also export RAY_AUTH_MODE=token on each"
            yield Finding("ok", "auth", node.name, message)
        elif not mode and node.token:
            todo = "export RAY_AUTH_MODE=token on every node before `ray start`, and for every command"
            message = "a token, but no RAY_AUTH_MODE: a Ray head here turns authentication on, its workers do not"
            yield Finding("warn", "auth", node.name, message, todo)
        elif facts.address is not None and len(facts.nodes) > 1:
            todo = "ray get-auth-token --generate, copy it to all nodes, RAY_AUTH_MODE=token (see cluster.yaml)"
            message = "no authentication: whoever reaches Ray's ports can run code"
            yield Finding("warn", "auth", node.name, message, todo)
        else:
            yield Finding("ok", "auth", node.name, "no authentication, one machine")


def check_space(facts: Facts) -> Iterator[Finding]:
    """Memory, shared memory and disk."""
    for node in facts.living:
        tight = False
        free, total = node.memory_available_bytes, node.memory_total_bytes
        if free is not None and free < 2 * GIB:
            tight = True
            todo = "close other programs, or use fewer devices, smaller models or another node"
            yield Finding("warn", "memory", node.name, f"{free / GIB:.1f} GiB of memory available", todo)
        # Ray's object store takes 30 % of the memory, and lies on disk where /dev/shm holds less.
        if node.shm_bytes is not None and total is not None and node.shm_bytes < min(0.3 * total, 2 * GIB):
            tight = True
            todo = "enlarge it (docker run --shm-size=2g), or lower Ray's --object-store-memory"
            yield Finding("warn", "memory", node.name, f"/dev/shm has {node.shm_bytes / GIB:.2f} GiB", todo)
        if node.disk_free_bytes is not None and node.disk_total_bytes:
            share = node.disk_free_bytes / node.disk_total_bytes
            if share < 0.05 or node.disk_free_bytes < 5 * GIB:
                tight = True
                todo = "make room: Ray creates no objects on a disk that is 95 % full"
                message = f"{node.disk_free_bytes / GIB:.1f} GiB of disk free ({share:.0%})"
                yield Finding("warn", "disk", node.name, message, todo)
        if not tight:
            parts = {"memory": free, "/dev/shm": node.shm_bytes, "disk": node.disk_free_bytes}
            shown = ", ".join(f"{name} {size / GIB:.1f} GiB" for name, size in parts.items() if size is not None)
            yield Finding("ok", "memory", node.name, shown or "the system does not say how much there is")


def check_server(facts: Facts) -> Iterator[Finding]:
    """Does the application that was asked for run?"""
    if facts.server is None:
        return
    running = facts.applications or {}
    status = running.get(facts.server)
    if status == "RUNNING":
        yield Finding("ok", "server", "all", f"application {facts.server!r} is running")
    elif status is None:
        there = ", ".join(sorted(running)) or "none"
        todo = f"start it: headtail serve --name {facts.server} --address auto --detach"
        yield Finding("fail", "server", "all", f"no application {facts.server!r}; there is: {there}", todo)
    else:
        todo = "`serve status` and the replica's log say why"
        yield Finding("fail", "server", "all", f"application {facts.server!r} is {status}", todo)


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_answers,
    check_members,
    check_versions,
    check_project,
    check_gpu,
    check_resources,
    check_shards,
    check_ports,
    check_auth,
    check_space,
    check_server,
)


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order of CHECKS."""
    return [finding for check in CHECKS for finding in check(facts)]
