"""What the unsliced model says of the images: the yardstick for agreement, computed once per job on this machine.

For an application that the job starts, the model is built as `slicer.models.zoo` builds it, never exported or cut. A
running application may hold other weights under the same name, so its own are fetched and put into the whole model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slicer import shards
from slicer.core.shards.cache import ShardCache
from slicer.core.shards.manifest import Manifest
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ModelError
from slicer.models import zoo
from slicer.models.images import Preprocess
from slicer.models.outputs import own_forward
from slicer.models.weights import DTYPES

#: Reads up to `length` bytes of a shard: (sha256, offset, length).
ReadShard = Callable[[str, int, int], bytes]

#: Below Serve's message limit.
_PIECE_BYTES = 1 << 20


def named_model(model: str) -> tuple[nn.Module, ModelSpec]:
    """The whole model of that name, as the job's own servers hold it. Raises ModelError."""
    return zoo.build_for_weights(zoo.resolve(model))


def served_model(manifest_json: str, read: ReadShard) -> tuple[nn.Module, ModelSpec]:
    """The whole model with the weights of a running application.

    Raises:
        ShardError: the shards are not what the manifest says, or the versions here build another model.
    """
    manifest = Manifest.from_json(manifest_json, "the running application's manifest")
    with tempfile.TemporaryDirectory(prefix="headtail-reference-") as scratch:
        cache = ShardCache(scratch, max_bytes=1 + sum(shard.size_bytes for shard in manifest.shards))
        try:
            directory = cache.fetch(
                manifest,
                0,
                manifest.num_slices,
                lambda shard: (
                    read(shard.sha256, offset, min(_PIECE_BYTES, shard.size_bytes - offset))
                    for offset in range(0, shard.size_bytes, _PIECE_BYTES)
                ),
            )
            return shards.load_sliced(directory).module, manifest.spec
        finally:
            cache.close()


@dataclass(frozen=True)
class Answers:
    """What a model said: top-1 class per file, the lower one on ties, and how many classes it has (None: no file)."""

    top1: tuple[int, ...]
    classes: int | None


def answers(module: nn.Module, spec: ModelSpec, files: Sequence[Path], batch: int = 16) -> Answers:
    """The model's answers to the files, in order.

    Raises:
        ModelError: the model does not classify. ImageError: a file is no image.
    """
    preprocess = Preprocess(spec)
    top1: list[int] = []
    classes = None
    with torch.inference_mode():
        for start in range(0, len(files), batch):
            images = [torch.from_numpy(preprocess(file)) for file in files[start : start + batch]]
            logits = own_forward(module, torch.stack(images).to(DTYPES[spec.dtype]))
            if logits.ndim != 2:
                raise ModelError(
                    f"model {spec.architecture!r} gives {tuple(logits.shape[1:])} per image, not one logit per class; "
                    "load a classifier"
                )
            classes = logits.shape[1]
            top1 += [int(index) for index in logits.float().argmax(dim=1)]
    return Answers(tuple(top1), classes)
