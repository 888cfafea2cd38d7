"""Own strategies, links, devices and executors: a class named as ``package.module:Class``."""

from __future__ import annotations

import importlib
from typing import Any

from slicer.errors import ConfigError


def load_object(path: str, what: str) -> Any:
    """Import ``package.module:Name``; `what` says in the error what was looked for ("strategy", "link", ...).

    Raises:
        ConfigError: the path has another form, the module cannot be imported, or it has no such name.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise ConfigError(f"{what} {path!r}: an own {what} is written package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{what} {path!r}: cannot import {module_name} ({error}); install it where this runs, or put its folder "
            "on PYTHONPATH (on a cluster: into the working_dir)"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ConfigError(f"{what} {path!r}: the module {module_name} has no {name}") from None
