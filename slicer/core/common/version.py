"""The version of this package, as it is installed."""

from __future__ import annotations

import importlib.metadata

#: The distributions that hold this module.
_DISTRIBUTIONS = ("headtail", "headtail-device")


def headtail_version() -> str:
    """Such as ``0.1.0``; ``unknown`` where the sources run without being installed."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return "unknown"
