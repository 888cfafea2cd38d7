"""The extra ``onnx``: whether it is here, and the version of ONNX's operators that we write with it."""

from __future__ import annotations

import importlib

from slicer.core.common.error_text import named_line
from slicer.errors import ConfigError

#: ONNX's operators: onnxruntime since 1.14 and onnxruntime-web read them, and torch's exporter writes them as they are.
OPSET = 18

INSTALL = "pip install 'headtail[onnx]'"


def require() -> None:
    """Raises ConfigError, which says what to install, unless all libraries of the extra are here."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"ONNX files need {name} ({named_line(error)}): {INSTALL}") from error
