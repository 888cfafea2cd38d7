"""records.jsonl of a device on its own: a line per image, written when the image has its outcome."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TextIO

from ..errors import ConfigError
from ..records.record import Record


class RecordsFile:
    """A new DIR/records.jsonl, with the keys of a load job's. For one thread.

    A run of days fills no memory by it, and one that is killed leaves what had ended.

    Args:
        directory: made if missing; a file of an earlier run in it is replaced.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._failed = ""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / "records.jsonl"
            self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)  # line by line
        except OSError as error:
            raise self._error(error) from error

    def write(self, record: Record) -> None:
        """A line, unless an earlier one failed: no answer is lost for a full disk. `close` says so."""
        if self._failed:
            return
        about = {"strategy": "", "seed": 0, "loop": "device", "warmup": "/warmup-" in record.id}
        try:
            self._file.write(json.dumps({**about, **record.to_json()}) + "\n")
        except OSError as error:
            self._failed = str(self._error(error))

    def close(self) -> None:
        """The end of the file. Raises ConfigError: a line could not be written."""
        with contextlib.suppress(OSError):  # of a line that has failed already
            self._file.close()
        if self._failed:
            raise ConfigError(self._failed)

    def _error(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"--out {self._directory}: records.jsonl cannot be written ({error.strerror}); give another folder"
        )
