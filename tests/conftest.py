"""The environment of all tests. Ray reads it at import, in every process, so it is set before anything imports Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A token file that an earlier `ray.init()` left in the home directory would turn authentication on in the driver, but
# not in the raylets that the cluster tests start: neither could talk to the other.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers and the commands that tests start find the packages and the examples even where they are not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.pop("RAY_ADDRESS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests first: the cluster lives until the end of the session, and they must not find a Ray that runs."""
    items.sort(key=lambda item: ROOT / "tests" / "cluster" in item.path.parents)
