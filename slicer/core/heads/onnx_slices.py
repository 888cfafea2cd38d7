"""Slices as ONNX files, run one after the other by onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from ..common.error_text import first_line
from ..common.memory import give_back_memory
from ..errors import ConfigError, ShardError
from .head import Slices


def make_sessions(files: Iterable[Path], *, threads: int = 1, providers: Sequence[str] = ()) -> list[Any]:
    """One session of onnxruntime per file, in order.

    Args:
        threads: that one slice is computed on.
        providers: onnxruntime's execution providers, the best first; empty: the CPU.

    Raises:
        ConfigError: onnxruntime is not installed, or lacks a provider.
        ShardError: it cannot run a file.
    """
    onnxruntime = _library()
    wanted = list(providers) or ["CPUExecutionProvider"]
    there = onnxruntime.get_available_providers()
    if missing := [one for one in wanted if one not in there]:
        raise ConfigError(f"onnxruntime here has no {', '.join(missing)}; it has {', '.join(there)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    found = []
    for file in files:
        try:
            found.append(onnxruntime.InferenceSession(str(file), options, providers=wanted))
        except Exception as error:  # onnxruntime has a class of its own for each kind of failure
            raise ShardError(
                f"onnxruntime {onnxruntime.__version__} cannot run {file.name}: {first_line(error)}; install 1.20 or "
                "newer"
            ) from error
    return found


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"onnxruntime is not installed here ({error}): pip install 'onnxruntime>=1.20'") from None
    return onnxruntime


class OnnxSlices(Slices):
    """Sessions, one per slice; each takes and gives one float32 tensor [1, ...]."""

    def __init__(self, sessions: Sequence[Any]) -> None:
        self._sessions = list(sessions)

    @property
    @override
    def loaded(self) -> int:
        return len(self._sessions)

    @override
    def run(self, x: npt.NDArray[np.float32], start: int, end: int) -> tuple[npt.NDArray[np.float32], list[float]]:
        times_ms = []
        now = np.ascontiguousarray(x[None])
        for session in self._sessions[start:end]:
            began = time.perf_counter()
            (now,) = session.run(None, {session.get_inputs()[0].name: now})
            times_ms.append((time.perf_counter() - began) * 1e3)
        return now[0], times_ms

    @override
    def extend(self, more: Sequence[Any]) -> None:
        self._sessions.extend(more)

    @override
    def trim(self, count: int) -> None:
        if count < len(self._sessions):
            del self._sessions[count:]
            give_back_memory()
