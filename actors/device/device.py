"""A device of a fleet: the device core with the head that its configuration names."""

from __future__ import annotations

from collections.abc import Callable

from actors.device.config import DeviceConfig
from actors.device.runtimes import make_load
from slicer.core.common.clock import Clock
from slicer.core.device import device
from slicer.core.heads.head_runtime import LoadHead
from slicer.core.network.server import Server
from slicer.core.records.record import Record


class Device(device.Device[DeviceConfig]):
    """One client device of a fleet; own device classes derive from this one.

    `compute` is the method to override for what a device does around its head, `received` for what it does with
    outputs; `load` is another way to run heads than the one that `config.runtime` names. The other arguments, and all
    that a device does, are those of the core (`slicer.core.device.device.Device`).

    Example: a camera that rests as long as its head took.

    >>> import asyncio
    >>> from actors.device import Choice, Computed, Device
    >>> class Fanless(Device):
    ...     async def compute(self, image: str, choice: Choice) -> Computed:
    ...         computed = await super().compute(image, choice)
    ...         await asyncio.sleep(computed.head_ms / 1e3)
    ...         return computed
    """

    def __init__(
        self,
        config: DeviceConfig,
        server: Server,
        *,
        load: LoadHead[DeviceConfig] | None = None,
        on_closed: Callable[[Record], None] = lambda record: None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(config, server, load=load or make_load(config.runtime), on_closed=on_closed, clock=clock)
