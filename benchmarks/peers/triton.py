"""Triton, from PyPI's nvidia-pytriton: a model repository with one model per entry, and the server's process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.common.results import ROOT

_CONFIG = """name: "entry{entry}"
backend: "python"
max_batch_size: 32
input [{{ name: "ACTIVATION" data_type: TYPE_UINT8 dims: [ {size} ] }}]
output [{{ name: "ANSWER" data_type: TYPE_FP32 dims: [ 2 ] }}]
instance_group [{{ kind: KIND_CPU count: {instances} }}]
dynamic_batching {{ {preferred} max_queue_delay_microseconds: {delay_us} }}
parameters {{ key: "entry" value {{ string_value: "{entry}" }} }}
parameters {{ key: "accelerator" value {{ string_value: "{accelerator}" }} }}
"""


def write_repository(folder: Path, entries: tuple[int, ...], size: int, accelerator: Path, setting: Any) -> Path:
    """The model repository: ``FOLDER/entryN/config.pbtxt`` and ``.../1/model.py``."""
    preferred = f"preferred_batch_size: [ {', '.join(map(str, setting['preferred']))} ]" if setting["preferred"] else ""
    for entry in entries:
        version = folder / f"entry{entry}" / "1"
        version.mkdir(parents=True)
        shutil.copy(Path(__file__).parent / "servers" / "triton_model.py", version / "model.py")
        text = _CONFIG.format(entry=entry, size=size, accelerator=accelerator, instances=setting["instances"],
                              delay_us=round(1000 * setting["delay_ms"]), preferred=preferred)
        (version.parent / "config.pbtxt").write_text(text, encoding="ascii")
    return folder
