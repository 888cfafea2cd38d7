"""Serves applications on a Ray of its own with the code of one checkout, until its stdin ends. For servers.py.

It is called with a JSON document: ``checkout``, its folder, and ``applications``, configurations by name. It prints one
line when all of them answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(asked: dict[str, Any]) -> None:
    """Serve."""
    sys.path[0] = asked["checkout"]  # in place of this file's folder: the checkout may be another one

    import ray

    from deployments import app

    assert Path(app.__file__).is_relative_to(asked["checkout"]), f"{app.__file__} is not of {asked['checkout']}"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    try:
        for name, config in asked["applications"].items():
            app.run(config, name=name)
        print("serving", flush=True)
        sys.stdin.read()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
