"""The load job, top to bottom: check the input, start what is missing, run every strategy on the same arrivals.

Nothing is started before all input was checked, and everything that was started is taken down, whatever happens.
"""

from __future__ import annotations

import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError

from actors.fleet import copy_images
from actors.fleet.config import FleetConfig, GroupConfig
from actors.fleet.fleet import Fleet, load_fleet
from actors.fleet.placement import check, demands_of
from actors.load import applications, schedule
from actors.load.arrivals import parse_process
from actors.load.config import DIGITS, LoadConfig
from actors.load.expected import Expected
from actors.load.strategies import Strategies
from actors.load.video import Cameras
from actors.records.step import on_run_clock
from actors.report import provenance
from actors.report.result import Result
from actors.report.statistics import StrategyRun
from slicer.common.command_line import Bar, progress, say
from slicer.common.validation import explain
from slicer.core.images.folders import LabelledImages, find_images
from slicer.core.protocol.outputs import LOGITS
from slicer.errors import ConfigError, HeadTailError, ServerError
from slicer.models.images import write_digits

#: The strategy that ratios are given against, where it was measured; else the first one.
YARDSTICK = "unbatched"

#: Where the shipped digits are put as files, on this machine and on the devices' nodes.
DIGITS_DIRECTORY = "~/.cache/headtail/digits"


def run_job(job: Job) -> Result:
    """Run the whole job and return what was measured.

    Raises:
        HeadTailError: wrong input, no server, or the cluster lacks something. Nothing is left running then, either.
    """
    if not job.server:
        job.compute_reference()  # also what shows whether images and models fit, so it comes before any start
    with applications.ray_session(job.address, running=bool(job.server)):
        if job.server:
            job.find_server()
            job.compute_reference()
        with job.devices() as fleet, job.servers(fleet):
            job.run_all(fleet)
    return job.result()


class Job:
    """One load job; `run_job` shows the order of the calls.

    Raises:
        HeadTailError: on construction, for every input that can be checked without Ray.
    """

    def __init__(self, config: LoadConfig) -> None:
        cameras = None
        if config.video:
            say(f"reading {', '.join(config.video)}")
            cameras = Cameras(config)
            config = replace(config, duration_s=cameras.duration_s)
        self._config = config
        self._fleet = fleet_of(config)
        devices = [device for group in self._fleet.groups for device in self._fleet.devices(group)]
        self._models = list(dict.fromkeys(device.model for device in devices))
        self._model_of = {device.name: device.model for device in devices}
        self._images = images_of(config) if cameras is None else cameras.images
        self._process = None
        if config.loop == "open" and cameras is None:
            self._process = parse_process(config.arrivals, config.fleet_rate_rps(len(devices)))
        self._assignments = {
            seed: schedule.assignments(config, self._process, list(self._model_of), self._images.files, seed, cameras)
            for seed in config.seeds
        }
        self._id = uuid.uuid4().hex[:8]
        asked = {
            model: [name for one in devices if one.model == model for name in one.outputs] for model in self._models
        }
        self._strategies = Strategies(config, self._models, self._id, asked)
        self._expected = Expected(config, self._images)
        self._runs: list[StrategyRun] = []
        self._notes: list[str] = [] if cameras is None else list(cameras.notes)
        self._notes += [
            f"no top-1 and no agreement for group {group.name}: it asks for {', '.join(group.outputs)} without {LOGITS}"
            for group in self._fleet.groups
            if group.outputs and LOGITS not in group.outputs
        ]
        for note in self._notes:
            say(note)
        self._failures: list[str] = []
        self._emulated: dict[str, None] = {}
        self._facts: dict[str, Any] = {}

    @property
    def server(self) -> str:
        """Name of the running application to measure; empty: the job starts its own."""
        return self._config.server or ""

    @property
    def address(self) -> str | None:
        """Of the Ray cluster, as in the configuration."""
        return self._config.address

    @property
    def requests(self) -> int:
        """How many requests all runs together will ask; of a closed loop by time: a guess, from a fast device."""
        planned = sum(len(mine.arrivals) for of_seed in self._assignments.values() for mine in of_seed.values())
        if self._config.loop == "closed":
            each = self._config.requests or int((self._config.warmup_s + (self._config.duration_s or 0)) * 100)
            planned = each * len(self._config.seeds)
        return planned * max(len(self._strategies.apps), 1)

    def find_server(self) -> None:
        """Look at the running application. Raises ServerError: it is absent, or another one than was asked for."""
        assert self._config.server is not None, "only where one was named"
        strategy = applications.check_running(self._config.server, self._models, self._config.strategies)
        self._strategies.apps = {strategy: self._config.server}

    @contextlib.contextmanager
    def devices(self) -> Iterator[Fleet]:
        """The fleet, placed: its processes import while the servers start. It is gone at the end.

        Raises:
            PlacementError: fleet and servers together do not fit; nothing was begun.
        """
        app = self._strategies.apps[self._first]
        self._strategies.connected = app
        fleet = Fleet(self._fleet, app=app, run=self._id, say=say)
        check(ray.nodes(), demands_of(self._fleet), self._fleet.resource, self._strategies.beside())
        say(f"placing {len(self._model_of)} devices")
        try:
            fleet.place()
            yield fleet
        finally:
            fleet.stop()
            self._failures += dict.fromkeys(fleet.failures)
            self._notes += [str(absence) for absence in fleet.absences if absence.to_s is not None]
            if fleet.absences:
                self._facts["absences"] = [absence.to_json() for absence in fleet.absences]

    @contextlib.contextmanager
    def servers(self, fleet: Fleet) -> Iterator[None]:
        """The applications that the first run needs, or all, and the heads loaded. Own ones are gone at the end."""
        try:
            if now := self._strategies.at_first(self._first):
                say(f"starting the server of {', '.join(now)}")
                self._strategies.start(now)
            say("loading the heads")
            fleet.start()
            if self._config.images == DIGITS:
                copy_images.write_where_missing(self._images, fleet.devices)
            yield
        finally:
            if self._config.address != "local":  # a Ray of its own takes its applications with it, and sooner
                self._strategies.stop()

    def compute_reference(self) -> None:
        """What the unsliced model says of every image that will be asked; agreement is measured against it. And which
        of its classes each image's label is, for accuracy.

        Raises:
            ModelError, ImageError: a model does not classify, an image is damaged, a class number is beyond its.
        """
        say("asking the unsliced model")
        used: dict[str, set[int]] = {model: set() for model in self._models}
        for assignments in self._assignments.values():
            for device, assignment in assignments.items():
                used[self._model_of[device]] |= schedule.asked(assignment)
        self._expected.compute(used, say)
        self._notes += self._expected.notes

    @property
    def _first(self) -> str:
        """The strategy of the first run."""
        return next(iter(self.order()))[1]

    def order(self) -> Iterator[tuple[int, str]]:
        """Every strategy under every seed; within a seed in an order that the seed decides."""
        for seed in self._config.seeds:
            strategies = list(self._strategies.apps)
            random.Random(f"order/{seed}").shuffle(strategies)
            yield from ((seed, strategy) for strategy in strategies)

    def run_all(self, fleet: Fleet) -> None:
        """Every run in its order. One that fails ends the job; what was measured before it stays.

        Raises:
            HeadTailError: of the first run.
        """
        for seed, strategy in self.order():
            try:
                self.run_one(fleet, seed, strategy)
            except HeadTailError as error:
                if not self._runs:
                    raise
                self._failed(seed, strategy, f"not measured, nor what was to follow: {error}")
                return

    def _failed(self, seed: int, strategy: str, why: str) -> None:
        self._failures.append(f"{strategy}, seed {seed}: {why}")

    def run_one(self, fleet: Fleet, seed: int, strategy: str) -> None:
        """One measured run. A server that is gone costs its own runs only, and says so."""
        app = self._strategies.apps[strategy]
        try:
            self._strategies.switch(fleet, strategy)
            before = applications.status(app)
        except ServerError as error:
            self._failed(seed, strategy, f"not measured: {error}")
            return
        say(f"seed {seed}: {strategy}")
        assignments = self._assignments[seed]
        total = sum(len(assignment.arrivals) for assignment in assignments.values())
        with progress(f"seed {seed} {strategy}", total or None) as bar:
            by_device = fleet.run(assignments, on_progress=lambda counts: advance(bar, counts))
        records = tuple(record for device in assignments for record in by_device[device])
        for record in records:
            self._expected.add_to(record, self._model_of[record.device])
        if held := [record.held_ms for record in records if record.held_ms]:
            self._notes.append(
                f"{strategy}, seed {seed}: {len(held)} answers overtook an earlier frame of their camera and were held "
                f"until that one had ended, {max(held):.1f} ms at most; no inference time counts this"
            )
        try:
            after = applications.status(app)
        except ServerError as error:
            self._failed(seed, strategy, f"the server did not outlive the run: {error}")
            after = {}
        steps = applications.steps(app, before) if after and self._config.out is not None else []
        slices = {info.name: info.num_slices for info in fleet.devices}
        answered = sum(record.outcome == "answered" and record.cut < slices[record.device] for record in records)
        self._runs.append(
            StrategyRun(
                strategy=strategy,
                seed=seed,
                loop=self._config.loop,
                warmup_s=schedule.warmup_s(self._config),
                window_s=schedule.window_s(self._config, self._process),
                records=records,
                server=applications.usage(before, after, answered),
                steps=on_run_clock(steps, records),
            )
        )
        self._learn(fleet, strategy, before)

    def result(self) -> Result:
        """What was measured.

        Raises:
            ServerError: no run came about.
        """
        if not self._runs:
            raise ServerError("nothing was measured: " + "; ".join(self._failures))
        config, apps, configs = self._config, self._strategies.apps, self._strategies.configs
        manifest = {
            **provenance.provenance(),
            "configuration": {**config.to_json(), "strategies": list(apps)},
            "seeds": list(config.seeds),
            "order": [[run.seed, run.strategy] for run in self._runs],
            "fleet": self._fleet.model_dump(mode="json"),
            "labels": {model: {"matched_by": found.matched or None} for model, found in self._expected.labels.items()},
            "servers": {strategy: dict(configs.get(strategy, {})) for strategy in apps},
            **self._facts,
        }
        return Result(
            load=config.describe(len(self._model_of)) + (", emulated parts" if self._emulated else ""),
            runs=tuple(self._runs),
            emulated=tuple(self._emulated),
            manifest=manifest,
            baseline=YARDSTICK if YARDSTICK in apps else next(iter(apps)),
            notes=tuple(dict.fromkeys(self._notes)),
            failures=tuple(self._failures),
        )

    def _learn(self, fleet: Fleet, strategy: str, said: Mapping[str, Any]) -> None:
        """Facts of a run for the manifest and the remarks: emulated parts, notes, where things ran."""
        for info in fleet.devices:
            self._emulated.update(dict.fromkeys((*info.emulated, *info.server_emulated)))
        self._emulated.update(dict.fromkeys(said.get("emulated", ())))
        self._notes += said.get("notes", ())
        self._facts["devices"] = [asdict(info) for info in fleet.devices]
        self._facts.setdefault("server_status", {})[strategy] = {
            key: said.get(key) for key in ("headtail", "accelerator", "models")
        }


def fleet_of(config: LoadConfig) -> FleetConfig:
    """The fleet file with what the command line overrides. Raises ConfigError."""
    fleet = load_fleet(config.fleet)
    groups = fleet.groups
    if config.codec is not None:
        groups = tuple(group.model_copy(update={"codec": config.codec}) for group in groups)
    if config.outputs is not None:
        groups = tuple(_changed(group, outputs=config.outputs) for group in groups)
    if config.model is not None:
        groups = tuple(group.model_copy(update={"model": config.model}) for group in groups)
    return fleet.model_copy(update={"groups": groups, "model": config.model or fleet.model})


def _changed(group: GroupConfig, **keys: Any) -> GroupConfig:
    """The group with other keys, checked as in a file. Raises ConfigError."""
    try:
        return GroupConfig(**{**group.model_dump(exclude_unset=True), **keys})
    except ValidationError as error:
        raise ConfigError(explain(error, "--outputs", GroupConfig)) from None


def images_of(config: LoadConfig) -> LabelledImages:
    """The images to ask. Raises ImageError."""
    if config.images == DIGITS:
        return write_digits(Path(DIGITS_DIRECTORY).expanduser())
    return find_images(config.images, config.labels)


def advance(bar: Bar, counts: Counter[str]) -> None:
    """Show how many requests are closed, and how many of them without an answer."""
    closed = sum(counts.values())
    missed = closed - counts["answered"]
    bar.to(closed, f"{missed} missed" if missed else "")
