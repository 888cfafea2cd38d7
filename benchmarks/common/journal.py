"""What a long benchmark has measured so far, line by line in a file, so that a run which was cut off goes on.

A line is written when its measurement is done. Another run takes it over only if it was asked for the very same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployments.scheduling.registry import RENAMED
from slicer.errors import ConfigError


class Journal:
    """Measured values by key. Not thread-safe.

    Args:
        path: the file; None: nothing is kept.
        asked: what decides about the values; its first line. Plain JSON values.

    Raises:
        ConfigError: the file is of another run.
    """

    def __init__(self, path: Path | None, asked: dict[str, Any]) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is None:
            return
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asked) + "\n", encoding="utf-8")
            return
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        before = json.loads(first)
        differs = [key for key in asked if before.get(key) != asked[key]]
        if differs:
            said = ", ".join(f"{key} {before.get(key)!r} there, {asked[key]!r} here" for key in differs)
            raise ConfigError(f"{path} is of another run ({said}); give another file, or remove it")
        for line in lines:
            try:
                key, value = json.loads(line)
            except ValueError:
                continue  # the line at which the run was cut off
            self._known[_current(key)] = value

    def get(self, *key: object) -> Any:
        """What was measured under this key; None: nothing yet."""
        return self._known.get(_text(key))

    def put(self, value: Any, *key: object) -> None:
        """Keep a value that has been measured."""
        self._known[_text(key)] = value
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([_text(key), value]) + "\n")


def _current(key: str) -> str:
    """A key that begins with a strategy's old name, as it is written now."""
    head, slash, rest = key.partition("/")
    return RENAMED.get(head, head) + slash + rest


def _text(key: tuple[object, ...]) -> str:
    return "/".join(map(str, key))
