"""The application of each strategy that a job measures, and which of them runs at the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.fleet.fleet import Fleet
from actors.fleet.placement import Beside
from actors.load import applications
from actors.load.config import LoadConfig


class Strategies:
    """One job's. Blocking, for one thread.

    Args:
        models: that the fleet asks for; outputs: of these, by model.
        job_id: part of the names of the applications that the job starts.

    Attributes:
        apps: names of the applications, by strategy, in the order of the tables.
        configs: of the own applications, by strategy; empty where a running one is measured.
        connected: name of the application that the fleet talks to; who makes the fleet sets it.

    Raises:
        ConfigError: on construction, for a strategy that is unknown, or goes not with these models.
    """

    def __init__(
        self, config: LoadConfig, models: Sequence[str], job_id: str, outputs: Mapping[str, Sequence[str]]
    ) -> None:
        self.apps = {strategy: f"headtail-load-{job_id}-{index}" for index, strategy in enumerate(config.strategies)}
        self.configs: dict[str, Mapping[str, Any]] = {}
        if config.server is None:
            self.configs = {name: applications.own_config(config, models, name, outputs) for name in config.strategies}
        self._all_at_once = config.resident == "all"
        self._up: set[str] = set()  # own strategies whose application runs
        self.connected = ""

    def at_first(self, first: str) -> list[str]:
        """The strategies whose own applications run from the start on, when `first` is measured first."""
        if not self.configs:
            return []
        return list(self.configs) if self._all_at_once else [first]

    def beside(self) -> list[Beside]:
        """The replicas that share the cluster with the fleet: those that run now, and those of the job at one time."""
        together = len(self.configs) if self._all_at_once else 1
        return applications.beside(list(self.configs.values())[:together])

    def switch(self, fleet: Fleet, strategy: str) -> None:
        """The strategy's application runs, alone unless all are resident, and the fleet talks to it."""
        if self.configs and strategy not in self._up:
            self.stop()
            self.start([strategy])
        if self.connected != self.apps[strategy]:
            fleet.connect(self.apps[strategy])
            self.connected = self.apps[strategy]

    def start(self, strategies: Sequence[str]) -> None:
        """Start own applications, all at once. Raises PlacementError or ServerError; none of them is left then."""
        applications.start({self.apps[strategy]: self.configs[strategy] for strategy in strategies})
        self._up.update(strategies)

    def stop(self) -> None:
        """Take down the own applications that run."""
        apps = [self.apps[strategy] for strategy in self._up]
        self._up.clear()
        applications.stop(*apps)
        if self.connected in apps:
            self.connected = ""  # even if it comes back under its name, it is another one
