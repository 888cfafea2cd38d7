"""The strategies by name: what each is, when to use it, and how its policy is made.

This is the one list of them. The configuration, the command lines, the demo and the README's table follow it, so a new
strategy is one file with its class and one entry of `SHIPPED`. Neither torch nor Ray is imported.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from deployments.costs.cost_model import CostModel
from deployments.scheduling.scheduler import Policy
from slicer.common.plugins import load_object
from slicer.core.common.lazy import lazy
from slicer.errors import ConfigError


@dataclass(frozen=True)
class Strategy:
    """A way to batch rows. Any thread may use it.

    Attributes:
        name: what a configuration calls it; of an own one its path.
        path: ``package.module:Class``, imported at its first use.
        summary: what it does, in one line.
        when: where it is the right one.
        in_engine: whether its class is a `Policy`, which the engine asks for steps. False: it is a
            `deployments.replica.backends.backend.Backend`, which drives the accelerator by itself.
        in_demo: whether `headtail load --demo` compares it.
    """

    name: str
    path: str
    summary: str = ""
    when: str = ""
    in_engine: bool = True
    in_demo: bool = True

    @cached_property
    def made_by(self) -> Callable[..., Any]:
        """Its class. Raises ConfigError: an own one cannot be imported."""
        return cast(Callable[..., Any], load_object(self.path, "strategy"))

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.made_by)

    @property
    def needs_costs(self) -> bool:
        """Whether it decides by what steps cost, so that they should be measured before it serves.

        Raises:
            ConfigError: an own one cannot be imported.
        """
        return self.in_engine and self.takes("costs")

    def takes(self, argument: str) -> bool:
        """Whether its class has an argument of this name. Raises ConfigError: an own one cannot be imported."""
        return argument in self._signature.parameters

    def policy(
        self,
        *,
        model: str,
        num_slices: int,
        max_batch: int = 32,
        max_wait_s: float = 1.0,
        options: Mapping[str, Any] | None = None,
        costs: CostModel | None = None,
    ) -> Policy:
        """The policy of one model; see `make_policy` for arguments and errors."""
        if not self.in_engine:
            raise ConfigError(f"strategy {self.name!r}: known are {', '.join(POLICIES)}; this one runs without them")
        arguments: dict[str, Any] = {
            "model": model,
            "num_slices": num_slices,
            "max_batch": max_batch,
            "max_wait_s": max_wait_s,
        }
        if costs is not None and self.needs_costs:
            arguments["costs"] = costs
        own = dict(options or {})
        try:
            self._signature.bind(**arguments, **own)
        except TypeError as error:
            raise ConfigError(f"strategy {self.name!r} with options {own}: {error}") from None
        return cast(Policy, self.made_by(**arguments, **own))


#: The strategies that this package brings, by name, in the order in which they are shown.
SHIPPED: Mapping[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "unbatched",
            "deployments.scheduling.simple:Unbatched",
            summary="every request alone, oldest first",
            when="the yardstick; a CPU, where batching gains little",
        ),
        Strategy(
            "per_tail",
            "deployments.scheduling.simple:PerTail",
            summary="a queue and a tail with weights of its own per entry, as the paper says",
            when="few entries, memory to spare",
        ),
        Strategy(
            "per_tail_shared",
            "deployments.scheduling.simple:PerTailShared",
            summary="the same, one copy of the weights",
            when="the default; few entries",
        ),
        Strategy(
            "per_slice",
            "deployments.scheduling.simple:PerSlice",
            summary="one queue per slice; rows are regrouped after each slice",
            when="many entries with thin traffic each",
        ),
        Strategy(
            "continuous",
            "deployments.scheduling.continuous:Continuous",
            summary="rows merge at every boundary where the measured cost table says that it pays; "
            "earliest deadline first",
            when="many entries, unsteady load",
        ),
        Strategy(
            "lazy",
            "deployments.scheduling.lazy:Lazy",
            summary="LazyBatching (HPCA 2021): newcomers run first, catch up and merge, while everybody's slack allows",
            when="to compare with a published one",
            in_demo=False,  # one more server to start
        ),
        Strategy(
            "serve_batch",
            "deployments.replica.backends.serve_batch:ServeBatch",
            summary="`@serve.batch` directly around each tail",
            when="only to compare: what one would write first",
            in_engine=False,
        ),
    )
}

#: Names that strategies had before, and have now.
RENAMED: Mapping[str, str] = {"naive": "serve_batch"}

#: Names of the shipped strategies; of those that run in the engine; of those that the demo compares.
STRATEGIES = tuple(SHIPPED)
POLICIES = tuple(name for name, strategy in SHIPPED.items() if strategy.in_engine)
DEMO = tuple(name for name, strategy in SHIPPED.items() if strategy.in_demo)

# What `deployments.policies`, as this module was called, had beside.
__getattr__ = lazy(
    __name__,
    {
        **dict.fromkeys(
            ("ORDERS", "PerSlice", "PerTail", "PerTailShared", "Unbatched"), "deployments.scheduling.simple"
        ),
        **dict.fromkeys(("QueuePolicy", "by_age"), "deployments.scheduling.queue_policy"),
    },
)


def current_name(name: str) -> str:
    """The name that a strategy has now; one that it had before is good for a while, and warns once in a process."""
    new = RENAMED.get(name)
    if new is None:
        return name
    warnings.warn(f"strategy {name} is now {new}; the old name goes with 0.3", FutureWarning, stacklevel=1)
    return new


def find_strategy(name: str) -> Strategy:
    """The strategy of a configuration: a shipped one, or ``package.module:Class`` for an own one.

    Keep what it gives for one model: it imports its class and reads its arguments once.

    Raises:
        ConfigError: no shipped one has this name.
    """
    if ":" in name:
        return Strategy(name, name)
    name = current_name(name)
    if name in SHIPPED:
        return SHIPPED[name]
    raise ConfigError(
        f"strategy {name!r}: known are {', '.join(STRATEGIES)}; an own one is written package.module:Class"
    )


def make_policy(
    strategy: str,
    *,
    model: str,
    num_slices: int,
    max_batch: int = 32,
    max_wait_s: float = 1.0,
    options: Mapping[str, Any] | None = None,
    costs: CostModel | None = None,
) -> Policy:
    """The policy of one model.

    Args:
        strategy: one of `POLICIES`, or ``package.module:Class`` for an own one, which is called with the same
            arguments: model, num_slices, max_batch, max_wait_s and the options.
        options: further arguments of this strategy, such as per_slice's ``order``.
        costs: what the model's steps cost, for a strategy that has an argument of this name (continuous, lazy); its
            own from then on. None: such a strategy learns it while it serves.

    Raises:
        ConfigError: the strategy or an option is unknown, or a value is out of range.
    """
    return find_strategy(strategy).policy(
        model=model,
        num_slices=num_slices,
        max_batch=max_batch,
        max_wait_s=max_wait_s,
        options=options,
        costs=costs,
    )
