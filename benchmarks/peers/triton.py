"""Triton, from PyPI's nvidia-pytriton: a model repository with one model per entry, and how its server is run.

The wheel carries the server for pytriton's own use; here it serves a model repository, as Triton's documentation
describes it. It runs without a GPU.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.results import ROOT
from benchmarks.peers.settings import ENTRIES, MAX_BATCH

_CONFIG = """name: "entry{entry}"
backend: "python"
max_batch_size: {most}
input [{{ name: "ACTIVATION" data_type: TYPE_UINT8 dims: [ {size} ] }}]
output [{{ name: "ANSWER" data_type: TYPE_FP32 dims: [ 2 ] }}]
instance_group [{{ kind: KIND_CPU count: {instances} }}]
dynamic_batching {{ {preferred}max_queue_delay_microseconds: {delay_us} }}
parameters {{ key: "entry" value {{ string_value: "{entry}" }} }}
parameters {{ key: "accelerator" value {{ string_value: "{accelerator}" }} }}
"""


def write_repository(folder: Path, size: int, accelerator: Path, setting: Mapping[str, Any]) -> None:
    """The model repository: ``FOLDER/entryN/config.pbtxt`` and ``FOLDER/entryN/1/model.py``.

    Args:
        size: of a request's payload, bytes.
        setting: ``delay_ms``, ``preferred`` (batch sizes, may be empty), ``instances`` of each model.
    """
    preferred = (
        f"preferred_batch_size: [ {', '.join(map(str, setting['preferred']))} ] " if setting["preferred"] else ""
    )
    for entry in ENTRIES:
        version = folder / f"entry{entry}" / "1"
        version.mkdir(parents=True)
        shutil.copy(Path(__file__).parent / "servers" / "triton_model.py", version / "model.py")
        text = _CONFIG.format(
            entry=entry,
            most=MAX_BATCH,
            size=size,
            accelerator=accelerator,
            instances=setting["instances"],
            delay_us=round(1000 * setting["delay_ms"]),
            preferred=preferred,
        )
        (version.parent / "config.pbtxt").write_text(text, encoding="ascii")


def server(site: Path, folder: Path, repository: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the server.

    Args:
        site: the site-packages with nvidia-pytriton.
        folder: gets the backend, with the stub for this Python beside it, as the wheel does not have it.
        port: of gRPC.

    Raises:
        OSError: the wheel lacks a part of it.
    """
    triton = site / "pytriton" / "tritonserver"
    backends = folder / "backends"
    if not backends.exists():
        shutil.copytree(triton / "backends", backends)
        stub = backends / "python" / "triton_python_backend_stub"
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(triton / "python_backend_stubs" / python / stub.name, stub)
        stub.chmod(0o755)
    command = [str(triton / "bin" / "tritonserver")]
    command += ["--model-repository", str(repository), "--backend-directory", str(backends)]
    command += ["--grpc-address", "127.0.0.1", "--grpc-port", str(port)]
    command += ["--allow-http", "false", "--allow-metrics", "false"]
    libraries = f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    return command, {
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": f"{ROOT}:{site}",
        "PATH": f"{site.parents[2] / 'bin'}:{os.environ.get('PATH', '')}",
    }
