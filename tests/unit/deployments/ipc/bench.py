"""A core and fronts in one process: real sockets and real shared memory, a fake accelerator."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.config import ModelConfig
from deployments.engine.engine import Engine
from deployments.engine.ledger import Outcome
from deployments.ipc import messages, rendezvous
from deployments.ipc.arena import Arena
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.node_cores import NodeCores
from deployments.ipc.row_sink import RowBatch
from deployments.ipc.socket_intake import SocketIntake
from deployments.scheduling.registry import make_policy
from deployments.scheduling.scheduler import Scheduler, Step
from deployments.testing.fakes import FakeExecutor, answer_of, rows_at
from slicer.core.protocol.messages import ShardInfo
from slicer.core.shards.manifest import FILE, Manifest
from slicer.core.shards.spec import ModelSpec

#: Of waits that end at once unless something hangs.
LIMIT_S = 30.0

SLICES = 4


def hosted(directory: Path, name: str = "m", version: int = 0) -> HostedModel:
    """A model of the fake executor's rows, whose manifest lies below `directory`; it has no weights."""
    shapes = ((2,),) * (SLICES + 1)
    digest = "0" * 64
    manifest = Manifest(
        spec=ModelSpec(name, seed=version),
        torch="",
        timm="",
        boundaries=tuple(f"b{number}" for number in range(1, SLICES)),
        shapes=shapes,
        dtypes=("float32",) * (SLICES + 1),
        shards=tuple(ShardInfo(f"slice_{number}", digest, 0) for number in range(1, SLICES + 1)),
        programs=(digest,) * SLICES,
        channel_axes=(0,) * (SLICES + 1),
    )
    folder = directory / f"{name}-{version}"
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(manifest.to_json(), encoding="utf-8")
    return HostedModel(ModelConfig(name=name), manifest, folder, shapes)


class Gate:
    """Holds the accelerator inside a step until it is opened; open at first, if so told."""

    def __init__(self, *, opened: bool = False) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        if opened:
            self.open.set()

    def __call__(self, step: Step) -> None:
        self.reached.set()
        assert self.open.wait(LIMIT_S)


class Core:
    """What `deployments.core.core.Core` is, but for weights and questions."""

    def __init__(
        self, place: Path, models: Sequence[HostedModel], executor: FakeExecutor, *, max_rows: int, max_batch: int
    ) -> None:
        self.executor = executor
        self.folder = rendezvous.new_core(place)
        self.intake = SocketIntake(self.folder / rendezvous.ROWS, models, executor)
        policies = {
            model.name: make_policy("per_tail", model=model.name, num_slices=SLICES, max_batch=max_batch)
            for model in models
        }
        self.engine = Engine(Scheduler(policies), executor, self.intake.deliver, max_rows=max_rows, intake=self.intake)
        self.intake.serve(self.engine)
        self.engine.start()
        facts = {"name": "core", "emulated": [], "models": [model.facts() for model in models]}
        rendezvous.publish(self.folder, facts)

    @property
    def rows(self) -> int:
        """In the engine."""
        return sum(self.engine.stats().waiting.values())

    @property
    def empty(self) -> bool:
        """Nothing is left of any row."""
        return not self.rows and not self.executor.activations and not len(self.intake._registry)

    @property
    def ran(self) -> int:
        """Rows of all steps."""
        return self.engine.stats().rows

    def die(self) -> None:
        """As by SIGKILL: its sockets end, it writes nothing any more, and what it has in the file system stays."""
        for front in list(self.intake._fronts.values()):
            front.told = lambda ticket, outcome: None
            front.socket.shutdown(socket.SHUT_RDWR)
        self.intake._listener.shutdown(socket.SHUT_RDWR)


class Front:
    """A `NodeCores` that keeps what it is told. Made on an event loop."""

    def __init__(self, place: Path, size_bytes: int = 1 << 20) -> None:
        self.arena = Arena(size_bytes)
        self.outcomes: dict[int, Outcome] = {}
        self.sink = NodeCores(place, self.arena, self._deliver)
        self.sink.look()

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            assert outcome.key not in self.outcomes, "a row ends once"
            self.outcomes[outcome.key] = outcome

    def submit(
        self,
        *names: float,
        entry: int = 0,
        model: str = "m",
        manifest: str | None = None,
        keys: Sequence[bytes] | None = None,
        priority: int = 8,
        rows: npt.NDArray[Any] | None = None,
    ) -> list[int]:
        """Rows of these names, in the arena if `rows` is None; no key, so that each runs.

        Of the version of the model that is served now, if `manifest` does not name one.
        """
        if rows is None:
            rows = self.sink.receiving((len(names), 2))
            rows[...] = rows_at(*names)
        count = len(rows)
        before = set(self.outcomes)
        if manifest is None:
            served = self.sink.models.get(model)
            manifest = served.manifest.digest if served is not None else ""
        columns = [0.0] * count, [None] * count, list(keys or [b""] * count), [priority] * count
        tickets = self.sink.submit(RowBatch(model, manifest, entry, rows, *columns))
        assert before == set(self.outcomes), "nothing is delivered before the tickets are known"
        return tickets

    async def ended(self, tickets: Sequence[int]) -> list[Any]:
        """Of each, in order: its answer, or the code of its refusal."""
        await until(lambda: all(ticket in self.outcomes for ticket in tickets))
        outcomes = [self.outcomes[ticket] for ticket in tickets]
        return [outcome.code if outcome.logits is None else outcome.logits.tolist() for outcome in outcomes]

    def forget(self) -> None:
        """What it was told; answers keep memory."""
        self.outcomes.clear()


class Stranger:
    """Speaks to a core by hand, and reads only when it is told to."""

    def __init__(self, core: Core, *, hello: bool = True) -> None:
        self.arena = Arena(1 << 20)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(str(core.folder / rendezvous.ROWS))
        if hello:
            self.say(messages.HELLO, messages.VERSION, descriptor=True)

    def say(self, *parts: Any, descriptor: bool = False) -> None:
        """One message."""
        self.say_bytes(messages.pack(parts), descriptor=descriptor)

    def say_bytes(self, message: bytes, *, descriptor: bool = False) -> None:
        """What may be none."""
        if descriptor:
            socket.send_fds(self.socket, [message], [self.arena.descriptor])
        else:
            self.socket.send(message)

    def submit(self, first: int, *names: float) -> None:
        """Rows in the arena, which stay there for ever."""
        rows, answers = self.arena.empty((len(names), 2)), self.arena.empty((len(names), 64), np.uint8)
        rows[...] = rows_at(*names)
        self._kept = [*getattr(self, "_kept", []), rows, answers]
        columns: list[Any] = [[value] * len(names) for value in (0.0, None, b"", 8)]
        places = self.arena.offset_of(rows), self.arena.offset_of(answers)
        self.say(messages.SUBMIT, "m", 0, "<f4", first, *places, *columns)

    def read(self) -> list[Any]:
        """The rows of the next message; none at the end of the connection."""
        message = self.socket.recv(messages.MOST_BYTES)
        return messages.unpack(message)[2] if message else []

    def close(self) -> None:
        """Leave."""
        self.socket.close()
        self.arena.close()


class Bench:
    """Makes them, and ends all of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._models = place.with_name("models")
        self._models.mkdir()
        self._ends = contextlib.ExitStack()

    def model(self, name: str = "m", version: int = 0) -> HostedModel:
        """One whose manifest can be read."""
        return hosted(self._models, name, version)

    def core(
        self,
        executor: FakeExecutor | None = None,
        *,
        names: Sequence[str] = ("m",),
        version: int = 0,
        max_rows: int = 100_000,
        max_batch: int = 64,
        gate: Gate | None = None,
    ) -> Core:
        """One that serves."""
        executor = executor or FakeExecutor(before=gate or (lambda step: None))
        models = [self.model(name, version) for name in names]
        core = Core(self.place, models, executor, max_rows=max_rows, max_batch=max_batch)
        self._ends.callback(core.engine.stop, LIMIT_S)
        if gate is not None:
            self._ends.callback(gate.open.set)
        return core

    def front(self, size_bytes: int = 1 << 20) -> Front:
        """One that looks for cores; call it on the event loop."""
        front = Front(self.place, size_bytes)
        self._ends.callback(front.sink.close)
        return front

    def stranger(self, core: Core, *, hello: bool = True) -> Stranger:
        """A connection by hand."""
        stranger = Stranger(core, hello=hello)
        self._ends.callback(stranger.close)
        return stranger

    def run(self, work: Callable[[], Any]) -> None:
        """On an event loop, at the end of which all of them end."""

        async def whole() -> None:
            with self._ends:
                await asyncio.wait_for(work(), 4 * LIMIT_S)

        asyncio.run(whole())


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """In a folder of a short name."""
    with tempfile.TemporaryDirectory(prefix="ht") as folder:
        place = Path(folder) / "place"
        place.mkdir(mode=0o700)
        yield Bench(place)


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until it holds."""

    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(turn(), LIMIT_S)


def answers(*names: float, entry: int = 0) -> list[list[float]]:
    """Of rows of these names."""
    return [answer_of(name, entry, SLICES) for name in names]


def arena_descriptors() -> int:
    """Of arenas, that this process holds."""
    gc.collect()
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            count += "headtail-rows" in str(descriptor.readlink())
    return count
