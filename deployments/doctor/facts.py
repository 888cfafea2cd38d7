"""What `headtail doctor` sees on one machine: facts without judgement, gathered in that machine's own Python.

On a cluster `gather` runs as a small task on every node, sent there by value: a node needs no HeadTail for it. So
nothing of ours is imported at the top but a module that travels as well, and what leaves the node is a plain dict.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from slicer.common.nvml import gpu_names

#: Distributions whose versions are compared.
LIBRARIES = ("ray", "torch", "timm")

# Asked of a fresh process: Ray hides GPUs from tasks that claim none, and a torch that crashes must not end the doctor.
_CUDA_PROBE = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"names": names, "build": torch.version.cuda}))
"""


@dataclass(frozen=True)
class NodeFacts:
    """One machine. `gather` fills all of it but `address`, `resources` and `dead`, which Ray tells.

    Attributes:
        name: host name, and the address where Ray knows one.
        address: by which Ray knows it; empty without Ray.
        python, machine: such as ``3.11.7`` and ``x86_64``.
        versions: of LIBRARIES; None where one is not installed.
        project: whether the packages of HeadTail can be imported there; why not, if not empty.
        resources: what the node declares to Ray; None for a machine that was looked at without Ray.
        cuda: names of the devices that torch can use; None where torch could not be asked (`cuda_error` says why).
        cuda_build: CUDA version torch was built for; None for a CPU build.
        nvml: names of the GPUs that NVML sees; None without a driver.
        memory_*_bytes, shm_bytes, disk_*_bytes: None where the system does not say; disk is that of Ray's files.
        auth_mode: RAY_AUTH_MODE, empty if unset; token: whether a token is at hand.
        reachable: ``host:port`` -> something answers there, seen from this machine.
        shards: of the directory asked for: ``error`` or ``digest`` and ``slices``; None if none was asked for.
        dead: why nothing could be gathered; then the rest is empty.
    """

    name: str
    python: str = ""
    machine: str = ""
    versions: dict[str, str | None] = field(default_factory=dict)
    project: str = ""
    resources: dict[str, float] | None = None
    cuda: list[str] | None = None
    cuda_build: str | None = None
    cuda_error: str = ""
    nvml: list[str] | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    shm_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    auth_mode: str = ""
    token: bool = False
    reachable: dict[str, bool] = field(default_factory=dict)
    shards: dict[str, Any] | None = None
    dead: str = ""
    address: str = ""


def gather(addresses: Sequence[str] = (), shards: str | None = None) -> dict[str, Any]:
    """The fields of NodeFacts of the machine this runs on, as a dict; a few seconds, most of them torch's import.

    Args:
        addresses: ``host:port`` to try.
        shards: directory of exported shards to check, every byte of it.
    """
    return {
        "name": platform.node(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "project": _project_error(),
        **_cuda(),
        "nvml": gpu_names(),
        **_memory(),
        **_disk(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
        "token": has_token(),
        "reachable": {address: reachable(address) for address in addresses},
        "shards": check_shards(shards) if shards else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _project_error() -> str:
    try:
        import slicer.core.protocol.messages  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


def _cuda() -> dict[str, Any]:
    environment = dict(os.environ)
    if not environment.get("CUDA_VISIBLE_DEVICES"):
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CUDA_PROBE], env=environment, capture_output=True, text=True, timeout=120
        )
        told = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
        last = done.stderr.strip().splitlines()[-1:] if isinstance(error, (IndexError, json.JSONDecodeError)) else []
        return {"cuda": None, "cuda_error": "".join(last) or f"{type(error).__name__}: {error}"}
    return {"cuda": told["names"], "cuda_build": told["build"], "cuda_error": ""}


def _memory() -> dict[str, int | None]:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(":")
            found[key] = int(value.split()[0]) * 1024
    shm: int | None = None
    with contextlib.suppress(OSError):
        shm = shutil.disk_usage("/dev/shm").total
    return {
        "memory_total_bytes": found.get("MemTotal"),
        "memory_available_bytes": found.get("MemAvailable"),
        "shm_bytes": shm,
    }


def _disk() -> dict[str, int | None]:
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        return {"disk_total_bytes": usage.total, "disk_free_bytes": usage.free}
    return {"disk_total_bytes": None, "disk_free_bytes": None}


def has_token() -> bool:
    """Whether Ray would find an authentication token here; the token itself is not read further than its length."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def reachable(address: str, timeout_s: float = 3.0) -> bool:
    """Whether something accepts TCP connections at ``host:port``; False also for an address of another form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def check_shards(directory: str) -> dict[str, Any]:
    """``{"digest", "slices"}`` of intact shards, else ``{"error"}``; reads every byte.

    Without HeadTail on the machine it can only say so.
    """
    if not Path(directory).is_dir():
        return {"error": f"{directory} is no directory here"}
    try:
        from slicer.core.shards.described import describe
        from slicer.core.shards.manifest import load_manifest
        from slicer.errors import HeadTailError
    except ImportError as error:
        return {"error": f"cannot be checked here: {error}"}
    try:
        manifest = load_manifest(directory)
        for shard in manifest.shards:
            if describe(Path(directory) / shard.file, shard.file) != shard:
                return {"error": f"{shard.file}: not the bytes that the manifest names; truncated or altered"}
    except (HeadTailError, OSError) as error:
        return {"error": str(error)}
    return {"digest": manifest.digest, "slices": manifest.num_slices}
