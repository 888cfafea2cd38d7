"""How the server goes and comes back, at its moment of the run."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from actors.load import applications
from slicer.errors import ServerError

START_IN_S = 1.0


class Outage:
    """Takes the server away and gives it back, on a thread of its own. Moments are of this host's monotonic clock."""

    def __init__(self, how: str, app: str, config: dict[str, Any], hold: Path, begin_s: float, length_s: float) -> None:
        self.gone_s = self.released_s = self.back_s = math.nan
        self.error = ""
        self._how, self._app, self._config, self._hold = how, app, config, hold
        self.begin_s, self._length_s = begin_s, length_s
        self._thread = threading.Thread(target=self._run, name="outage", daemon=True)

    def start(self) -> None:
        self._pid = applications.status(self._app)["pid"]
        self._thread.start()

    def join(self) -> None:
        self._thread.join(timeout=120)

    def _run(self) -> None:
        try:
            time.sleep(max(self.begin_s - time.monotonic(), 0))
            self._hold.touch()
            self.gone_s = time.monotonic()
            if not self._how.startswith("application"):
                os.kill(self._pid, signal.SIGKILL)
            else:
                applications.stop(self._app)
                time.sleep(max(self.gone_s + self._length_s / 2 - time.monotonic(), 0))
                deploy(self._app, self._config)
            time.sleep(max(self.gone_s + self._length_s - time.monotonic(), 0))
            self.released_s = time.monotonic()
            self._hold.unlink()
            while math.isnan(self.back_s):
                try:
                    applications.status(self._app)
                    self.back_s = time.monotonic()
                except ServerError:
                    time.sleep(0.05)
        except BaseException as error:
            self.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._hold.unlink(missing_ok=True)


def deploy(app: str, config: dict[str, Any]) -> None:
    """Ask for the application, without waiting for it."""
    from deployments import app as served

    served.deploy(config, name=app)


class Began:
    """Finds out when the run began, and starts the outage then."""

    def __init__(self, place: Path, outage: Outage, before_s: float) -> None:
        self.began_s = math.nan
        self._place, self._outage, self._before_s = place, outage, before_s

    def look(self, counts: Counter[str]) -> None:
        if math.isnan(self.began_s) and (found := times(self._place / "alone.log", "begin")):
            self.began_s = max(found) + START_IN_S
            self._outage.begin_s = self.began_s + self._before_s
            self._outage.start()


def times(log: Path, what: str) -> list[float]:
    if not log.exists():
        return []
    return [float(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(what + " ")]
