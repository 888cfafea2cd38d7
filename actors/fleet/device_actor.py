"""The Ray actor around one device, or around many virtual ones. Thin: what a device does is in `actors.device.device`,
a run in `slicer.core.device.device_run`.

All methods run on the actor's event loop, so they interleave; the head runs on the device's own thread.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util import metrics

from actors.device.config import DeviceConfig
from actors.device.device import Device
from actors.device.virtual import REPLAYED, Crowd
from actors.network.auto_transport import make_transport
from actors.network.client import Kept, LinkedServer
from actors.network.link import Link, make_link
from actors.network.parcels import Parcels
from slicer.common.plugins import load_object
from slicer.common.thread_timing import hand_over_soon, prefer_thread
from slicer.core.device.answer import TopK
from slicer.core.device.device_run import DeviceRun
from slicer.core.network.server import Server
from slicer.core.records.assignment import Assignment
from slicer.core.records.record import Record
from slicer.errors import ConfigError

T = TypeVar("T")

#: Devices of a crowd that join or warm up at the same time.
_AT_ONCE = 16


#: Bounds of the histogram of inference times, ms.
_BOUNDS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a started device is and where it runs; every result carries it.

    Attributes:
        manifest: digest of the manifest that its head belongs to.
        strategy: how the server batches its model; `server_emulated`: the server's emulated parts.
        emulated: the device's emulated parts (profile, link), empty when all is real.
        head_bytes: of the shards that the head was loaded from.
        plans: whether it chooses cut and codec itself, beginning with these.
        alone: the model that it can finish a request with by itself; empty if none.
        slices_ms: of its profile, means; of a native device those that it holds, as measured when it joined.
        memory_budget_bytes: for head and activations together; None: no limit was given.
        notes: what a person should know of it.
    """

    name: str
    group: str
    model: str
    cut: int
    num_slices: int
    codec: str
    profile: str
    device_class: str
    link: str
    manifest: str
    strategy: str
    emulated: tuple[str, ...]
    server_emulated: tuple[str, ...]
    head_bytes: int
    hostname: str
    node_id: str
    node_ip: str
    plans: bool = False
    alone: str = ""
    slices_ms: tuple[float, ...] = ()
    memory_budget_bytes: int | None = None
    notes: tuple[str, ...] = ()
    runtime: str = "torch"


class DeviceActor:
    """One client device as a Ray actor, or a crowd of virtual ones; made and placed by `actors.fleet.fleet.Fleet`.

    Args:
        configs: the devices; profiles included, so that the node needs no file of the fleet's.
        app: name of the Serve application.
    """

    def __init__(self, configs: Sequence[DeviceConfig], app: str) -> None:
        self._closed: Counter[str] = Counter()
        self._ended: list[Record] = []
        self._crowd = Crowd() if configs[0].virtual else None
        self._servers: list[Server] = []
        self._links: dict[str, Link] = {}
        self._devices: dict[str, Device] = {}
        shared = self._connect(configs[0], app)
        for config in configs:
            link = self._links[config.name] = make_link(config.link, config.link_options)
            server = LinkedServer(Kept(shared), link)
            if self._crowd is not None:
                device: Device = Device(config, server, load=self._crowd.load, on_closed=self._count)
            else:
                device = device_class(config.device)(config, server, on_closed=self._count)
            self._devices[config.name] = device
        self._runs: dict[str, DeviceRun] = {}
        self._requests = metrics.Counter(
            "headtail_device_requests", "Requests of devices by outcome.", ("group", "model", "cut", "outcome")
        )
        self._inference = metrics.Histogram(
            "headtail_device_inference_ms",
            "From the intended capture to the answer in the device's hands.",
            _BOUNDS_MS,
            ("group", "model", "cut"),
        )

    def _connect(self, config: DeviceConfig, app: str) -> Server:
        transport = make_transport(config.transport, app, config.url)
        if config.parcel_ms:
            transport = Parcels(transport, gather_s=config.parcel_ms / 1e3)
        self._servers.append(transport)
        return transport

    async def start(self) -> list[DeviceInfo]:
        """Fetch and load the heads. Raises HeadTailError: no server, or a head does not go with it."""
        first, *others = self._devices.values()
        await first.start()  # what it fetched is there for the others
        await self._few_at_once([device.start() for device in others])
        return await self.info()

    async def _few_at_once(self, tasks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """All of them, in order; a crowd that does something at once would measure its own crush."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(task: Coroutine[Any, Any, T]) -> T:
            async with places:
                return await task

        return await asyncio.gather(*(one(task) for task in tasks))

    async def connect(self, app: str) -> list[DeviceInfo]:
        """Turn to another application and load the heads that it serves; between runs. Raises as `start`."""
        before, self._servers = self._servers, []
        shared = self._connect(next(iter(self._devices.values())).config, app)
        await self._few_at_once(
            [device.turn_to(LinkedServer(Kept(shared), self._links[name])) for name, device in self._devices.items()]
        )
        for server in before:
            await server.close()
        return await self.info()

    async def info(self) -> list[DeviceInfo]:
        """What the devices are and where they run; after `start`."""
        return [self._info(device) for device in self._devices.values()]

    def _info(self, device: Device) -> DeviceInfo:
        config, served = device.config, device.cut.served
        assert served is not None, "start() before info()"
        context = ray.get_runtime_context()
        link = self._links[config.name].emulated
        emulated = config.profile.emulated + ((f"emulated link {link}",) if link else ())
        return DeviceInfo(
            name=config.name,
            group=config.group,
            model=config.model,
            cut=config.cut,
            num_slices=served.num_slices,
            codec=config.codec,
            profile=config.profile.name,
            device_class="virtual" if self._crowd is not None else config.device,
            link=config.link,
            manifest=served.manifest,
            strategy=served.strategy,
            emulated=emulated + ((REPLAYED,) if self._crowd is not None else ()),
            server_emulated=served.emulated,
            head_bytes=device.head_bytes,
            hostname=socket.gethostname(),
            node_id=context.get_node_id(),
            node_ip=ray.util.get_node_ip_address(),
            plans=config.plan is not None,
            alone=device.fallback.model,
            slices_ms=tuple(round(value, 4) for value in device.slices_ms),
            memory_budget_bytes=config.profile.memory_budget_bytes,
            notes=tuple(device.fallback.notes),
            runtime=config.runtime,
        )

    async def classify(self, name: str, image: str, top_k: int = 5) -> tuple[TopK, Record]:
        """One image now: the (class, logit) pairs, best first, and the record with its timings."""
        assignment = Assignment("single", (image,), (None,), warmup=(0,), top_k=top_k)
        answers, records = await DeviceRun(self._devices[name], assignment).warm_up()
        return answers[0], records[0]

    async def prepare(self, assignments: Mapping[str, Assignment]) -> dict[str, list[Record]]:
        """Take the assignments of the next run and do its warm-up; the warm-up's records, which count nowhere."""
        # A full collection over all that torch and timm keep takes tenths of a second: now, not during the run.
        gc.collect()
        gc.freeze()
        if self._crowd is not None:
            # Hundreds of devices, in truth machines of their own, wait for this loop, beside a thread with their heads.
            hand_over_soon()
            prefer_thread()
        self._runs = {name: DeviceRun(self._devices[name], mine) for name, mine in assignments.items()}
        warm = await self._few_at_once([run.warm_up() for run in self._runs.values()])
        self._closed.clear()
        self._ended.clear()
        return {name: records for name, (_, records) in zip(self._runs, warm, strict=True)}

    async def run(self, start_in_s: float) -> dict[str, list[Record]]:
        """Do the prepared runs, starting in so many seconds on this host's clock; every intended request's record."""
        runs, self._runs = self._runs, {}
        if not runs:
            raise ConfigError(f"{next(iter(self._devices))} has no assignment; prepare() comes before each run()")
        done = await asyncio.gather(*(run.run(start_in_s) for run in runs.values()))
        return dict(zip(runs, done, strict=True))

    async def progress(self) -> dict[str, int]:
        """How many requests of the current run have which outcome so far."""
        return dict(self._closed)

    async def ended(self, since: int) -> list[Record]:
        """The records of the current run that are closed, except for the first `since` of them."""
        return self._ended[since:]

    async def stop(self) -> None:
        """Let the heads' threads and the transport go."""
        for device in self._devices.values():
            await device.close()
        for server in self._servers:
            await server.close()
        if self._crowd is not None:
            self._crowd.close()

    def _count(self, record: Record) -> None:
        self._closed[record.outcome] += 1
        self._ended.append(record)
        model = self._devices[record.device].config.model
        tags = {"group": record.group, "model": model, "cut": str(record.cut)}
        self._requests.inc(1, {**tags, "outcome": record.outcome})
        if record.inference_ms is not None:
            self._inference.observe(record.inference_ms, tags)


def device_class(name: str) -> type[Device]:
    """``native``, or an own class derived from Device, ``package.module:Class``. Raises ConfigError."""
    if name == "native":
        return Device
    found = load_object(name, "device")
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise ConfigError(f"device {name!r} is no class derived from actors.device.device.Device; derive it from that")
    return found
