"""The manifest of an export: which model, cut where, in which files. Its digest is the identity of head and tail.

::

    DIR/manifest.json            canonical JSON; written last, so an export with a manifest is complete
    DIR/slice_1.safetensors      parameters, buffers and constants of S1 ... Sn

The digest does not depend on where, when or by whom it was exported; it does change with any weight, cut, dtype, and
with the versions of torch and timm.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import CutError, ShardError
from ..protocol.messages import ShardInfo
from ..protocol.outputs import LOGITS, Output, packed
from ..protocol.told_files import DAMAGED
from .spec import ModelSpec

FILE = "manifest.json"

_FORMAT = 2
_NO_PART = ("checkpoint", "checkpoint_key", "labels")  # of a spec
_KEYS = frozenset(
    {"format", "spec", "torch", "timm", "boundaries", "shapes", "dtypes", "shards", "programs", "reads", "channel_axes"}
)
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # no path separators: a manifest comes from another machine
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """What an export holds. Immutable, picklable, comparable by content.

    Attributes:
        spec: the model, without the path of its checkpoint, which means nothing elsewhere (the weights are the shards),
            and without labels, which are no part of its identity (``labels.json`` beside the shards has them).
        torch, timm: versions that exported it.
        boundaries: names of the n-1 boundaries between the n slices.
        shapes: activation's shape without batch at cuts 0..n; 0 is the input, n the output.
        dtypes: the activations' dtypes at cuts 0..n, as torch names them.
        shards: one file per slice, S1 first.
        programs: SHA-256 of what each slice does beside its weights (`slicer.slicing.program`).
        channel_axes: of the activation at cuts 0..n, the axis of the channels without the batch: 0, or the last
            (`slicer.shards.channel_axes`); what int8 and int4 share their scales over.
        reads: numbers that the model's forward reads out of weights while it is traced: names of these, and the value
            as a Python literal; whoever loads a span without the weights is told them.
        outputs: what a row that leaves the last slice holds; empty: the model's own result alone.
    """

    spec: ModelSpec
    torch: str
    timm: str
    boundaries: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    programs: tuple[str, ...]
    channel_axes: tuple[int, ...]
    reads: tuple[tuple[str, str], ...] = ()
    outputs: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        if not self.outputs:
            object.__setattr__(self, "outputs", packed([(LOGITS, self.shapes[-1])]))

    @property
    def num_slices(self) -> int:
        """n; cuts are 0..n."""
        return len(self.shards)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def span_shards(self, start: int, end: int) -> tuple[ShardInfo, ...]:
        """The files that ``start:end`` needs. Raises CutError unless 0 <= start < end <= n."""
        if not 0 <= start < end <= self.num_slices:
            raise CutError(f"span {start}:{end} is none of {self.num_slices} slices; it needs 0 <= start < end <= n")
        return self.shards[start:end]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII; equal manifests give equal text."""
        spec = {key: value for key, value in dataclasses.asdict(self.spec).items() if key not in _NO_PART}
        document = {
            "format": _FORMAT,
            "spec": spec,
            "torch": self.torch,
            "timm": self.timm,
            "boundaries": self.boundaries,
            "shapes": self.shapes,
            "dtypes": self.dtypes,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "programs": self.programs,
            "channel_axes": self.channel_axes,
            "reads": self.reads,
        }
        if len(self.outputs) > 1:
            document["outputs"] = [[output.name, output.shape] for output in self.outputs]
        else:  # as exports of earlier releases are, so that these keep their digest
            del spec["outputs"]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = FILE) -> Manifest:
        """The manifest in `text`; `source` says in errors where it came from.

        Raises:
            ShardError: it is no manifest, of another version, or contradicts itself.
        """
        try:
            return _parse(json.loads(text))
        except DAMAGED as error:
            raise ShardError(f"{source} is no valid manifest ({error}); export the model again") from error


def load_manifest(directory: str | Path) -> Manifest:
    """Read ``directory/manifest.json``; the shards are not looked at.

    Raises:
        ShardError: there is none, or it is damaged.
    """
    path = Path(directory) / FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ShardError(
            f"{path}: {error.strerror}; export with headtail slice MODEL --export DIR (an interrupted export has no "
            "manifest: run it again)"
        ) from error
    return Manifest.from_json(text, str(path))


def _parse(document: Any) -> Manifest:
    if not isinstance(document, Mapping) or document.get("format") != _FORMAT:
        raise ValueError(f"it is not of format {_FORMAT}")
    if odd := (document.keys() - {"outputs"}) ^ _KEYS:
        raise ValueError(f"its keys differ: {', '.join(sorted(odd))}")
    shards = tuple(ShardInfo(str(s["file"]), str(s["sha256"]), int(s["size_bytes"])) for s in document["shards"])
    for shard in shards:
        if not _SHARD_NAME.fullmatch(shard.file) or not _SHA256.fullmatch(shard.sha256) or shard.size_bytes < 0:
            raise ValueError(f"shard {shard.file!r} has a bad name, sha256 or size")
    if len({shard.file for shard in shards}) != len(shards) or not shards:
        raise ValueError("it must name each shard once, and at least one")
    if not all(isinstance(program, str) and _SHA256.fullmatch(program) for program in document["programs"]):
        raise ValueError("programs must be sha256 digests")
    manifest = Manifest(
        spec=ModelSpec(**{**document["spec"], "outputs": tuple(document["spec"].get("outputs", ()))}),
        torch=str(document["torch"]),
        timm=str(document["timm"]),
        boundaries=tuple(str(name) for name in document["boundaries"]),
        shapes=tuple(tuple(int(size) for size in shape) for shape in document["shapes"]),
        dtypes=tuple(str(dtype) for dtype in document["dtypes"]),
        shards=shards,
        programs=tuple(document["programs"]),
        channel_axes=tuple(int(axis) for axis in document["channel_axes"]),
        reads=tuple((str(weights), str(value)) for weights, value in document["reads"]),
        outputs=packed([(str(name), [int(size) for size in shape]) for name, shape in document.get("outputs", ())]),
    )
    n = manifest.num_slices
    lengths = (len(manifest.boundaries), len(manifest.shapes), len(manifest.dtypes), len(manifest.programs))
    if lengths != (n - 1, n + 1, n + 1, n):
        raise ValueError(f"boundaries, shapes, dtypes or programs do not fit {n} shards")
    axes = zip(manifest.channel_axes, manifest.shapes, strict=False)
    if len(manifest.channel_axes) != n + 1 or any(axis not in (0, max(len(shape) - 1, 0)) for axis, shape in axes):
        raise ValueError("channel_axes must be the first axis or the last of each activation")
    _check_outputs(manifest)
    return manifest


def _check_outputs(manifest: Manifest) -> None:
    outputs = manifest.outputs
    if len(outputs) == 1 and outputs[0].shape == manifest.shapes[-1] and not manifest.spec.outputs:
        return
    if tuple(output.name for output in outputs) != (LOGITS, *manifest.spec.outputs) or manifest.shapes[-1] != (
        sum(output.size for output in outputs),
    ):
        raise ValueError("its outputs are not those of its spec, or do not fit what leaves the last slice")
