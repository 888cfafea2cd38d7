"""What a server describes, seen by a device: whether it is what it says, goes with the settings, and fits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..errors import ConfigError, CutError, ShardError
from ..protocol.messages import ServedModel, ShardInfo
from ..protocol.outputs import LOGITS
from ..settings import DeviceSettings
from ..shards.manifest import Manifest
from .head_runtime import GetShard, GivesOutputs, HeadRuntime

#: Under Serve's message limit of 4 MiB, with room for other traffic in between.
CHUNK_BYTES = 1 << 20


def manifest_of(served: ServedModel) -> Manifest:
    """What the server announced, checked against its digest. Raises ShardError."""
    manifest = Manifest.from_json(served.manifest_json)
    if manifest.digest != served.manifest:
        raise ShardError(
            f"the server announces manifest {served.manifest[:12]} of {served.name!r} but sent {manifest.digest[:12]}; "
            "restart the server"
        )
    return manifest


def check_memory(served: ServedModel, manifest: Manifest, config: DeviceSettings) -> None:
    """Raise ConfigError unless the head fits the device's budget."""
    head_bytes, activation_bytes = head_memory(manifest, config.cut)
    budget = config.profile.memory_budget_bytes
    if budget is not None and head_bytes + activation_bytes > budget:
        raise ConfigError(
            f"head({config.cut}) of {served.name!r} does not fit device profile {config.profile.name!r}: shards "
            f"{head_bytes} bytes + largest activation {activation_bytes} bytes > budget {budget} bytes; choose a "
            "lower cut or a profile with more memory"
        )


def fits_whole(manifest: Manifest, config: DeviceSettings) -> bool:
    """Whether the device's budget holds the whole model."""
    budget = config.profile.memory_budget_bytes
    return budget is None or sum(head_memory(manifest, manifest.num_slices)) <= budget


def pieces(shard: ShardInfo, get: GetShard) -> Iterator[bytes]:
    """A shard's bytes, in chunks; ends early when the server's file does, which the cache then notices."""
    for offset in range(0, shard.size_bytes, CHUNK_BYTES):
        yield get(shard.sha256, offset, min(CHUNK_BYTES, shard.size_bytes - offset))


def check_cut(served: ServedModel, config: DeviceSettings) -> None:
    """Raise CutError or ConfigError unless the server takes this device's requests."""
    n = served.num_slices
    if not 0 <= config.cut <= n:
        raise CutError(f"cut {config.cut} of {served.name!r}: it has {n} slices, so cuts are 0 to {n}")
    if config.cut == n:
        return
    if config.cut not in served.entries:
        raise CutError(
            f"cut {config.cut} of {served.name!r} is no entry of this server; it takes {_listed(served.entries)}"
        )
    if config.codec not in served.codecs:
        raise ConfigError(f"codec {config.codec!r}: the server takes {_listed(served.codecs)} for {served.name!r}")


def check_outputs(served: ServedModel, config: DeviceSettings, head: HeadRuntime) -> None:
    """Raise ConfigError unless server and device give the outputs that this device asks for."""
    if not config.outputs:
        return
    offered = [output.name for output in manifest_of(served).outputs]
    if missing := [name for name in config.outputs if name not in offered]:
        raise ConfigError(
            f"device {config.name!r} asks for outputs {_listed(config.outputs)}: {served.name!r} of this server has "
            f"{_listed(tuple(offered))}, not {_listed(tuple(missing))}; serve it with --outputs, or outputs: in "
            "the server's file"
        )
    here = head.outputs if isinstance(head, GivesOutputs) else (LOGITS,)
    why = "cut" if config.cut == served.num_slices else "plan" if config.plan else "alone" if config.alone else ""
    if why and (missing := [name for name in config.outputs if name not in here]):
        raise ConfigError(
            f"device {config.name!r} may compute the whole model ({why}), and its runtime {type(head).__name__} does "
            f"not give {_listed(tuple(missing))} then: change {why}, leave out outputs, or let the runtime have an "
            "attribute `outputs` and fill Computed.outputs"
        )


def head_memory(manifest: Manifest, cut: int) -> tuple[int, int]:
    """(bytes of the shards 0:cut, bytes of the largest activation at their boundaries, as fp32)."""
    shards = sum(shard.size_bytes for shard in manifest.shards[:cut])
    return shards, max(4 * math.prod(shape) for shape in manifest.shapes[: cut + 1])


def _listed(items: tuple[object, ...]) -> str:
    return ", ".join(str(item) for item in items)
