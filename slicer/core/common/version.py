"""The version of this package, as it is installed."""

from __future__ import annotations

import importlib.metadata


def headtail_version() -> str:
    """Such as ``0.1.0``; ``unknown`` where the sources run without being installed."""
    try:
        return importlib.metadata.version("headtail")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
