"""What runs a device's head: the seam for another way to run slices (torch, replayed results, another runtime)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..images.source import ImageSource
from ..planning.cut_planner import Choice
from ..protocol.messages import ServedModel
from ..protocol.outputs import Outputs
from ..settings import DeviceSettings

#: (sha256, offset, length) -> up to so many bytes of that shard; blocking, never called on the event loop.
GetShard = Callable[[str, int, int], bytes]

SettingsT = TypeVar("SettingsT", bound=DeviceSettings, contravariant=True)


@dataclass(frozen=True, slots=True)
class Computed:
    """What the device made of one image.

    Attributes:
        manifest: digest of the manifest that the slices were loaded from.
        cut: slices that have run; codec: of the payload.
        shape: of the activation, without batch: [tokens, channels], [channels, height, width], ...
        payload: the activation, encoded; empty for cut n.
        logits: float32 [classes], cut n only: the answer itself; else None.
        head_ms: preprocessing and slices, the emulated wait included; `encode_ms`: encoding.
        overrun: this host needed longer than the emulated device would have.
        prepare_ms, slices_ms: what head_ms consists of, slice by slice.
        activation: float32 of `shape`: what was encoded, to go on from here on the device; None where an image was sent
            as it is.
        outputs: cut n only: all outputs of the model by name, its logits among them; None: there are logits alone.
    """

    manifest: str
    shape: tuple[int, ...]
    payload: bytes
    logits: npt.NDArray[np.float32] | None
    head_ms: float
    encode_ms: float
    overrun: bool = False
    cut: int = 0
    codec: str = "fp32"
    prepare_ms: float = 0.0
    slices_ms: tuple[float, ...] = ()
    activation: npt.NDArray[np.float32] | None = None
    outputs: Outputs | None = None


class HeadRuntime(Protocol):
    """The first slices of one manifest, loaded and ready to run on one device.

    All methods are called on the device's event loop and must not hold it: what takes long runs on a thread of the
    runtime's own. The device calls `compute` and `finish` for one image at a time; `extend` may run beside them.

    Attributes:
        manifest: digest of what the slices were loaded from; num_slices: of the whole model.
        loaded: how many slices there are, from the first on; size_bytes: of their shards.
        slices_ms: what each loaded slice takes, as `rehearse` found; empty before, or where nobody knows.

    Example: a head that sends every image's mean, and classifies nothing.

    >>> import asyncio
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from actors.device import Choice, Computed
    >>> class Mean:
    ...     def __init__(self, served, config, get):
    ...         self.manifest, self.num_slices = served.manifest, served.num_slices
    ...         self.loaded, self.size_bytes, self.slices_ms = config.cut, 0, ()
    ...     async def compute(self, image, choice):
    ...         mean = np.float32([0.5])
    ...         return Computed(self.manifest, mean.shape, mean.tobytes(), None, 0.1, 0.0, cut=choice.cut)
    ...     async def finish(self, computed, image):
    ...         raise NotImplementedError("this device cannot go on alone")
    ...     async def extend(self, count): self.loaded = count
    ...     async def trim(self, count): self.loaded = min(self.loaded, count)
    ...     async def rehearse(self): pass
    ...     def reseed(self, seed): pass
    ...     def close(self): pass
    >>> async def load(served, config, get):  # Device(config, server, load=load)
    ...     return Mean(served, config, get)
    >>> served, config = SimpleNamespace(manifest="m", num_slices=4), SimpleNamespace(cut=1)
    >>> head = asyncio.run(load(served, config, get=None))
    >>> asyncio.run(head.compute("image.png", Choice(1, "fp32"))).shape
    (1,)
    """

    manifest: str
    num_slices: int
    slices_ms: Sequence[float]

    @property
    def loaded(self) -> int:
        """Slices 0:loaded are there."""

    @property
    def size_bytes(self) -> int:
        """Of the shards of slices 0:loaded."""

    async def compute(self, image: ImageSource, choice: Choice) -> Computed:
        """One image file through slices 0:choice.cut, encoded; logits at the last cut.

        Raises:
            ImageError: the file cannot be read. CodecError: the activation holds NaN or infinity.
        """

    async def finish(self, computed: Computed, image: ImageSource) -> Computed:
        """The slices that are left, here; all are loaded. `head_ms` is of this part alone. Raises as `compute`."""

    async def extend(self, count: int) -> None:
        """Load slices until there are `count`. Raises ShardError: a shard is damaged, or cannot be had."""

    async def trim(self, count: int) -> None:
        """Keep slices 0:count, after the image that is at work, and give back the memory of the others."""

    async def rehearse(self) -> None:
        """Find out what each loaded slice takes, for `slices_ms`."""

    def reseed(self, seed: str) -> None:
        """Draw all that is random from here on as another head with this seed does."""

    def close(self) -> None:
        """Let threads go. Nothing is called afterwards."""


@runtime_checkable
class GivesOutputs(Protocol):
    """A runtime whose `Computed.outputs` at the last cut are the server's: it has this attribute as well."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names."""


@runtime_checkable
class PreparesCodecs(Protocol):
    """A runtime with codecs that need more than the slices, such as tables: it has this method as well."""

    async def prepare(self, choice: Choice) -> None:
        """Fetch what encoding by `choice` needs; beside `compute`.

        Raises:
            CodecError: the model has no such codec at this cut. ShardError: its tables cannot be had.
        """


class LoadHead(Protocol[SettingsT]):
    """Makes the head of a device from what the server describes. Called on the device's event loop."""

    async def __call__(self, served: ServedModel, config: SettingsT, get: GetShard) -> HeadRuntime:
        """Slices 0:config.cut; all of them, where the device is to go on alone and has the memory.

        Raises:
            HeadTailError: the model does not go with this device's configuration, or a shard cannot be had.
        """
