"""The backend of every strategy that runs in the engine: loads, warms up, measures, then admits and delivers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from deployments.config import ServerConfig
from deployments.costs.cost_model import CostModel
from deployments.costs.profile_files import load_cost_profile_of, save_profiles
from deployments.engine.calibrate import calibrate
from deployments.engine.engine import Engine
from deployments.engine.pipelined import engine_class
from deployments.engine.trace import TracedStep
from deployments.engine.warm_up import warm_up
from deployments.executors.base import Executor
from deployments.executors.enqueuing import Enqueuing
from deployments.replica.admission.admission import Admission, Deliver
from deployments.replica.admission.calls import Arrival, Result
from deployments.replica.backends.backend import Backend, Counters
from deployments.replica.hosted_model import Hosted, HostedModel
from deployments.scheduling.registry import find_strategy
from deployments.scheduling.scheduler import Policy, Scheduler
from slicer.errors import ConfigError
from slicer.slicing.slice_model import SlicedModel

#: How long a stop waits for the running step; below Serve's graceful_shutdown_timeout_s, which ends the process.
STOP_TIMEOUT_S = 5.0


class EngineBackend(Backend):
    """See `deployments.replica.backends.backend.Backend`.

    Args:
        hosted: the models and their weights; emptied as the executor loads them, so that none is held twice.
        executor: not loaded; the engine's from now on.

    Attributes:
        admission: the way into the engine.
        engine: what runs the rows.

    Raises:
        HeadTailError: a strategy, an option or a cost profile is wrong, or a model does not run.
    """

    def __init__(self, hosted: list[Hosted], executor: Executor, config: ServerConfig) -> None:
        self._executor = executor
        self._profile_dir = None if config.profile_dir is None else Path(config.profile_dir).expanduser()
        self._costs: dict[str, CostModel] = {}
        models = [model for model, _ in hosted]
        policies: dict[str, Policy] = {}
        while hosted:
            name, policy = self._load(*hosted.pop(0))
            policies[name] = policy
        shapes = {model.name: {entry: model.shapes[entry] for entry in model.entries} for model in models}
        warm_up(Scheduler(policies), executor, shapes)
        for model in models:
            if model.name in self._costs and not model.config.profile:  # else it is known already
                first = model.entries[0]
                table, shape = self._costs[model.name], shapes[model.name][first]
                calibrate(table, executor, model=model.name, entry=first, shape=shape)

        def make_engine(deliver: Deliver) -> Engine:
            return engine_class(executor)(Scheduler(policies), executor, deliver, max_rows=config.max_queue_rows)

        self.admission = Admission(
            make_engine,
            most=config.admission_batch,
            threads=config.admission_concurrency,
            max_rows=config.max_queue_rows,
            max_bytes=config.max_queue_bytes,
            receiving=executor.receiving,
        )
        self.engine = self.admission.engine
        self._save_tables()
        self.engine.start()

    def _load(self, model: HostedModel, sliced: SlicedModel) -> tuple[str, Policy]:
        """Its policy, with the weights on the accelerator that this one needs."""
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
        self._executor.load(model.name, sliced, policy.residents(model.entries))
        return model.name, policy

    def _table_of(self, model: HostedModel) -> CostModel:
        """The saved table that the configuration names, or an empty one."""
        if model.config.profile is not None:
            return load_cost_profile_of(model.name, model.num_slices, model.config.profile)
        return CostModel.unknown(model.num_slices, model.config.max_batch, padded=self._executor.padded)

    def _save_tables(self) -> None:
        if self._profile_dir is not None:
            save_profiles(self._costs, self._profile_dir)

    async def infer(self, arrivals: Sequence[Arrival]) -> list[Result]:
        """Through admission into the engine; see `Admission.infer`."""
        return await self.admission.infer(arrivals)

    def counters(self) -> Counters:
        """The engine's."""
        stats = self.engine.stats()
        return Counters(stats.steps, stats.rows, stats.busy_s, stats.waiting, stats.rows_per_step)

    def steps(self) -> list[TracedStep]:
        """The engine's."""
        return self.engine.trace.steps()

    async def healthy(self) -> None:
        """See `Backend.healthy`."""
        if not self.engine.alive:
            raise RuntimeError("the engine's thread has died; see the replica's log for its exception")
        if not await self.admission.healthy():
            raise RuntimeError("the admission loop has died")

    def close(self) -> None:
        """Rows that wait are told `stopped`, the engine's thread ends, and the tables are saved as they are now."""
        self.engine.stop(STOP_TIMEOUT_S)
        with contextlib.suppress(OSError, ConfigError):  # a stop is not held up by a full disk
            self._save_tables()
