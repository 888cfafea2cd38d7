"""An engine with the models on its accelerator: loaded, warmed up, measured; ready to be given rows."""

from __future__ import annotations

import contextlib
from pathlib import Path

from deployments.config import ServerConfig
from deployments.core.hosting import Hosted
from deployments.core.trunks import Loadable, joined
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile_of, save_profiles
from deployments.engine.calibrate import calibrate
from deployments.engine.engine import Deliver, Engine
from deployments.engine.intake import Intake
from deployments.engine.pipelined import engine_class
from deployments.engine.warm_up import warm_up
from deployments.executors.base import Executor
from deployments.executors.enqueuing import Enqueuing
from deployments.ipc.hosted_model import HostedModel
from deployments.scheduling.registry import find_strategy
from deployments.scheduling.scheduler import Policy, Scheduler
from slicer.errors import ConfigError

#: How long a stop waits for the running step; below Serve's graceful_shutdown_timeout_s, which ends the process.
STOP_TIMEOUT_S = 5.0


class LoadedEngine:
    """The models' policies, and an executor that holds their weights.

    Args:
        hosted: the models and their weights; emptied as the executor loads them, so that none is held twice.
        executor: not loaded; the engine's from now on.

    Raises:
        HeadTailError: a strategy, an option or a cost profile is wrong, or a model does not run.
    """

    def __init__(self, hosted: list[Hosted], executor: Executor, config: ServerConfig) -> None:
        self._executor, self._config = executor, config
        self._profile_dir = None if config.profile_dir is None else Path(config.profile_dir).expanduser()
        self._costs: dict[str, CostModel] = {}
        loadable = joined(hosted)
        hosted.clear()
        models = [one.model for one in loadable]
        shapes = {one.model.name: {entry: one.model.shapes[entry] for entry in one.entries} for one in loadable}
        self._forks = {name: fork for one in loadable for name, fork in one.forks.items()}
        self._policies: dict[str, Policy] = {}
        while loadable:
            name, policy = self._load(loadable.pop(0))
            self._policies[name] = policy
        warm_up(Scheduler(self._policies), executor, shapes)
        for model in models:
            if model.name in self._costs and not model.config.profile:  # else it is known already
                first, shape = next(iter(shapes[model.name].items()))
                table = self._costs[model.name]
                calibrate(table, executor, model=model.name, entry=first, shape=shape)
        self._engine: Engine | None = None

    def start(self, engine: Engine) -> None:
        """Let an engine that `make` made run."""
        self._engine = engine
        self._save_tables()
        engine.start()

    def make(self, deliver: Deliver, intake: Intake | None = None) -> Engine:
        """The engine, not started. Once."""
        return engine_class(self._executor)(
            Scheduler(self._policies),
            self._executor,
            deliver,
            max_rows=self._config.max_queue_rows,
            intake=intake,
            forks=self._forks,
        )

    def stop(self) -> None:
        """Rows that wait are told `stopped`, the engine's thread ends, and the tables are saved as they are now."""
        if self._engine is not None:
            self._engine.stop(STOP_TIMEOUT_S)
        with contextlib.suppress(OSError, ConfigError):  # a stop is not held up by a full disk
            self._save_tables()

    def _load(self, loadable: Loadable) -> tuple[str, Policy]:
        """Its policy, with the weights on the accelerator that this one needs."""
        model = loadable.model
        strategy = find_strategy(model.config.strategy)
        if strategy.needs_costs:
            self._costs[model.name] = self._table_of(model)
            self._costs[model.name].overlapped = isinstance(self._executor, Enqueuing)
        policy = strategy.policy(
            model=model.name,
            num_slices=model.num_slices,
            max_batch=model.config.max_batch,
            options=model.config.options,
            costs=self._costs.get(model.name),
        )
        self._executor.load(model.name, loadable.sliced, policy.residents(loadable.entries))
        return model.name, policy

    def _table_of(self, model: HostedModel) -> CostModel:
        """The saved table that the configuration names, or an empty one."""
        if model.config.profile is not None:
            return load_cost_profile_of(model.name, model.num_slices, model.config.profile)
        return CostModel.unknown(model.num_slices, model.config.max_batch, padded=self._executor.padded)

    def _save_tables(self) -> None:
        if self._profile_dir is not None:
            save_profiles(self._costs, self._profile_dir)
