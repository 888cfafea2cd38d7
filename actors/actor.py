"""The Ray actor around one device. Thin: what a device does is in `actors.device`, a run in `actors.runner`.

All methods run on the actor's event loop, so they interleave; the head runs on the device's own thread.
"""

from __future__ import annotations

import gc
import socket
from collections import Counter
from dataclasses import dataclass

import ray
from ray.util import metrics

from actors.device import Device, TopK
from actors.fleet_config import DeviceConfig
from actors.http_transport import make_transport
from actors.links import LinkedServer, make_link
from actors.plan import Plan
from actors.records import Record
from actors.runner import Run
from slicer.errors import ConfigError
from slicer.plugins import load_object

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


class DeviceActor:
    """One client device as a Ray actor, made and placed by `actors.fleet.Fleet`.

    Args:
        config: the device; profile included, so that the node needs no file of the fleet's.
        app: name of the Serve application.
    """

    def __init__(self, config: DeviceConfig, app: str) -> None:
        self._config = config
        self._closed: Counter[str] = Counter()
        self._link = make_link(config.link, config.link_options)
        server = LinkedServer(make_transport(config.transport, app, config.url), self._link)
        self._device: Device = device_class(config.device)(config, server, on_closed=self._count)
        self._run: Run | None = None
        self._requests = metrics.Counter(
            "headtail_device_requests", "Requests of devices by outcome.", ("group", "model", "cut", "outcome")
        )
        self._inference = metrics.Histogram(
            "headtail_device_inference_ms",
            "From the intended capture to the answer in the device's hands.",
            _BOUNDS_MS,
            ("group", "model", "cut"),
        )

    async def start(self) -> DeviceInfo:
        """Fetch and load the head. Raises HeadTailError: no server, or the head does not go with it."""
        await self._device.start()
        return await self.info()

    async def connect(self, app: str) -> DeviceInfo:
        """Turn to another application and load the head that it serves; between runs. Raises as `start`."""
        transport = make_transport(self._config.transport, app, self._config.url)
        await self._device.turn_to(LinkedServer(transport, self._link))
        return await self.info()

    async def info(self) -> DeviceInfo:
        """What this device is and where it runs; after `start`."""
        config, served = self._config, self._device.served
        assert served is not None, "start() before info()"
        context = ray.get_runtime_context()
        link = self._link.emulated
        return DeviceInfo(
            name=config.name,
            group=config.group,
            model=config.model,
            cut=config.cut,
            num_slices=served.num_slices,
            codec=config.codec,
            profile=config.profile.name,
            device_class=config.device,
            link=config.link,
            manifest=served.manifest,
            strategy=served.strategy,
            emulated=config.profile.emulated + ((f"emulated link {link}",) if link else ()),
            server_emulated=served.emulated,
            head_bytes=self._device.head_bytes,
            hostname=socket.gethostname(),
            node_id=context.get_node_id(),
            node_ip=ray.util.get_node_ip_address(),
        )

    async def classify(self, image: str, top_k: int = 5) -> tuple[TopK, Record]:
        """One image now: the (class, logit) pairs, best first, and the record with its timings."""
        plan = Plan("single", (image,), (None,), warmup=(0,), top_k=top_k)
        answers, records = await Run(self._device, plan).warm_up()
        return answers[0], records[0]

    async def prepare(self, plan: Plan) -> list[Record]:
        """Take the plan of the next run and do its warm-up; the warm-up's records, which count nowhere."""
        # A full collection over all that torch and timm keep takes tenths of a second: now, not during the run.
        gc.collect()
        gc.freeze()
        self._run = Run(self._device, plan)
        _, records = await self._run.warm_up()
        self._closed.clear()
        return records

    async def run(self, start_in_s: float) -> list[Record]:
        """Do the prepared run, starting in so many seconds on this device's clock; every intended request's record."""
        run, self._run = self._run, None
        if run is None:
            raise ConfigError(f"device {self._config.name!r} has no plan; prepare() comes before each run()")
        return await run.run(start_in_s)

    async def progress(self) -> dict[str, int]:
        """How many requests of the current run have which outcome so far."""
        return dict(self._closed)

    async def stop(self) -> None:
        """Let the head's thread and the transport go."""
        await self._device.close()

    def _count(self, record: Record) -> None:
        self._closed[record.outcome] += 1
        tags = {"group": record.group, "model": self._config.model, "cut": str(record.cut)}
        self._requests.inc(1, {**tags, "outcome": record.outcome})
        if record.inference_ms is not None:
            self._inference.observe(record.inference_ms, tags)


def device_class(name: str) -> type[Device]:
    """``native``, or an own class derived from Device, ``package.module:Class``. Raises ConfigError."""
    if name == "native":
        return Device
    found = load_object(name, "device")
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise ConfigError(f"device {name!r} is no class derived from actors.device.Device; derive it from that")
    return found
