"""Store the slices of a model as files."""

from __future__ import annotations

import ast
import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import timm
import torch

from slicer.core.protocol.messages import ShardInfo
from slicer.core.shards import manifest as manifests
from slicer.core.shards.described import describe
from slicer.core.shards.manifest import Manifest, load_manifest
from slicer.errors import ShardError
from slicer.models import zoo
from slicer.models.data_config import data_config
from slicer.models.labels import write_labels
from slicer.models.weights import refuse_not_finite
from slicer.shards import tensor_file
from slicer.shards.channel_axes import channel_axes
from slicer.shards.held_tensors import refuse_held_tensors
from slicer.shards.rebuild import rebuild
from slicer.slicing.program import difference, digest
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.value_tracer import Read


def export(
    sliced: SlicedModel,
    directory: str | Path,
    *,
    labels: Sequence[str] = (),
    progress: Callable[[int], object] = lambda written: None,
) -> Manifest:
    """Write one file per slice and the manifest; the same weights give the same bytes everywhere.

    The manifest comes last and every file appears under its name only when it is complete, so an interrupted export is
    never taken for one, and several processes may export the same model into the same directory at once. A directory
    that holds this very export is kept, and damaged files in it are replaced.

    Args:
        labels: of its classes, for ``labels.json`` (`slicer.models.labels`); empty: none is written.
        progress: is told how many slices are written.

    Raises:
        ShardError: the model cannot be built again by name, another build of it is another program (its constructor
            draws random numbers, say), a unit uses a tensor that no shard holds, or the directory holds another export.
    """
    if sliced.spec is None:
        raise ShardError(
            f"{type(sliced.module).__name__} was given as a module, so whoever loads its shards could not build it; "
            "write a function that builds it and slice it by name: slice_model('package.module:function')"
        )
    refuse_not_finite(sliced.module)  # its weights may have changed since it was sliced
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target) as scratch:
            written = []
            for index in range(sliced.num_slices):
                written.append(_write_slice(sliced, index, Path(scratch)))
                progress(len(written))
            shards = tuple(written)
            manifest = _manifest(sliced, shards)
            _refuse_other_program(sliced, manifest)
            _refuse_other_export(target, manifest)
            for shard in shards:
                final = target / shard.file
                if not (final.is_file() and describe(final, shard.file) == shard):
                    (Path(scratch) / shard.file).replace(final)
            if labels:
                write_labels(target, tuple(labels))
            _sync(target)
            text = Path(scratch) / manifests.FILE
            text.write_text(manifest.to_json())
            _sync(text)
            text.replace(target / manifests.FILE)
            _sync(target)
    except OSError as error:
        raise ShardError(f"cannot export to {target}: {error}; give a directory that can be written") from error
    return manifest


def _write_slice(sliced: SlicedModel, index: int, scratch: Path) -> ShardInfo:
    name = f"slice_{index + 1}.safetensors"
    tensors = {key: needed.tensor for key, needed in sliced.tensors(index, index + 1).items()}
    tensor_file.write(scratch / name, tensors)
    return describe(scratch / name, name)


def _manifest(sliced: SlicedModel, shards: tuple[ShardInfo, ...]) -> Manifest:
    assert sliced.spec is not None
    spec = replace(sliced.spec, checkpoint=None, checkpoint_key=None, labels=())
    if tuple(data_config(spec)["input_size"]) != sliced.input_shape:  # it was given while slicing
        spec = replace(spec, data_config={**spec.data_config, "input_size": list(sliced.input_shape)})
    return Manifest(
        spec=zoo.check(spec),
        torch=torch.__version__,
        timm=timm.__version__,
        boundaries=tuple(cut.name for cut in sliced.cuts),
        shapes=tuple(sliced.shape_at(cut) for cut in range(sliced.num_slices + 1)),
        dtypes=(str(sliced.input_dtype).removeprefix("torch."), *(part.dtype for part in sliced.slices)),
        shards=shards,
        channel_axes=channel_axes(sliced),
        programs=tuple(digest(lines) for lines in sliced.programs),
        reads=tuple((read.weights, _literal(read)) for read in sliced.reads),
        outputs=sliced.outputs,
    )


def _literal(read: Read) -> str:
    """What was read, as `ast.literal_eval` takes it."""
    text = repr(read.value)
    try:
        if ast.literal_eval(text) == read.value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise ShardError(
        f"forward reads {text[:80]} out of {read.weights}, which cannot be stored; let it be a finite number, "
        "or keep it a tensor"
    )


def _refuse_other_program(sliced: SlicedModel, manifest: Manifest) -> None:
    """Build the model once more as whoever loads it will. Raises ShardError where that does something else."""
    assert sliced.spec is not None
    again = rebuild(manifest, f"{sliced.spec.architecture}, built once more")
    for index, (mine, other) in enumerate(zip(sliced.programs, again.programs, strict=True), start=1):
        if mine != other:
            raise ShardError(
                f"{sliced.spec.architecture} built once more is another model: in slice {index} "
                f"{difference(mine, other)}. Whoever loads the shards builds it by name: make its constructor draw no "
                "random numbers (or seed them), and read neither clock nor environment"
            )
    refuse_held_tensors(sliced, again)


def _refuse_other_export(target: Path, manifest: Manifest) -> None:
    if not (target / manifests.FILE).exists():
        return
    with contextlib.suppress(ShardError):
        present = load_manifest(target)
        if present.digest == manifest.digest:
            return
    raise ShardError(
        f"{target} holds another export; devices may be using it: remove it first, or give another directory"
    )


def _sync(path: Path) -> None:
    """What was written is on the disk, not only in the kernel's memory, before the next step."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
