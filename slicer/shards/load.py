"""Store the slices of a model as files, and load a span of them from its files alone.

>>> manifest = export(slice_model("digits_vit"), "shards")
>>> head = load_span("shards", 0, 2)           # opens slice_1 and slice_2, and no other weights

A model that is loaded is built on the meta device and traced there, so that no memory is spent on weights it does not
run; each tensor is then read into memory of its own. What is loaded gives the results of the exported model bit for bit
on the same kind of machine.
"""

from __future__ import annotations

import ast
import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import timm
import torch
from torch import nn

from slicer.errors import HeadTailError, ModelError, ShardError
from slicer.models import zoo
from slicer.models.weights import refuse_not_finite
from slicer.protocol.messages import ShardInfo
from slicer.shards import manifest as manifests
from slicer.shards import tensor_file as tensorfile
from slicer.shards.channel_axes import channel_axes
from slicer.shards.manifest import Manifest, load_manifest
from slicer.slicing.program import difference, digest
from slicer.slicing.slice_model import SlicedModel, slice_module
from slicer.tracing.value_tracer import Read, named_tensors

__all__ = ["Manifest", "export", "load_manifest", "load_sliced", "load_span"]


def export(sliced: SlicedModel, directory: str | Path) -> Manifest:
    """Write one file per slice and the manifest; the same weights give the same bytes everywhere.

    The manifest comes last and every file appears under its name only when it is complete, so an interrupted export is
    never taken for one, and several processes may export the same model into the same directory at once. A directory
    that holds this very export is kept, and damaged files in it are replaced.

    Raises:
        ShardError: the model cannot be built again by name, another build of it is another program (its constructor
            draws random numbers, say), or the directory holds another export.
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
            shards = tuple(_write_slice(sliced, index, Path(scratch)) for index in range(sliced.num_slices))
            manifest = _manifest(sliced, shards)
            _refuse_other_program(sliced, manifest)
            _refuse_other_export(target, manifest)
            for shard in shards:
                final = target / shard.file
                if not (final.is_file() and tensorfile.describe(final, shard.file) == shard):
                    (Path(scratch) / shard.file).replace(final)
            _sync(target)
            text = Path(scratch) / manifests.FILE
            text.write_text(manifest.to_json())
            _sync(text)
            text.replace(target / manifests.FILE)
            _sync(target)
    except OSError as error:
        raise ShardError(f"cannot export to {target}: {error}; give a directory that can be written") from error
    return manifest


def load_span(directory: str | Path, start: int, end: int) -> nn.Module:
    """Slices ``start:end`` of the export in `directory`, in eval mode, on the CPU; opens the manifest and their files.

    The process grows by at most the size of these files plus 10 % and 32 MB, if the model can be built and traced on
    meta (all of timm's that were tried can); one that cannot is built with random weights first, in full.
    An empty span (start == end) is the identity and opens no file. Blocks; safe in several threads.

    Raises:
        ShardError: manifest or shard is missing, truncated, altered or foreign, or timm here builds another model.
        CutError: no such span.
    """
    manifest = load_manifest(directory)
    if start == end and 0 <= start <= manifest.num_slices:
        return nn.Identity().eval()
    shards = manifest.span_shards(start, end)
    with torch.inference_mode(False):  # the caller may be inside of it; what is made there cannot be traced
        tensors = _read(directory, shards)
        sliced = _structure(manifest, str(directory))
        span = sliced.span(start, end)
        _check(named_tensors(span), tensors, manifest, str(directory))
        _same_program(sliced, manifest, str(directory))
        _fill(span, tensors)
    return span


def load_slices(directory: str | Path, start: int, end: int) -> list[nn.Module]:
    """Slices ``start:end`` one by one: run in order they are ``load_span(directory, start, end)``, bit for bit.

    For who adds or drops slices later. Memory, threads and errors as `load_span`; an empty span is no slice.
    """
    manifest = load_manifest(directory)
    if start == end and 0 <= start <= manifest.num_slices:
        return []
    shards = manifest.span_shards(start, end)
    with torch.inference_mode(False):
        structure = _structure(manifest, str(directory))
        _same_program(structure, manifest, str(directory))
        slices = []
        for index, shard in enumerate(shards, start):
            tensors = _read(directory, [shard])
            one = structure.span(index, index + 1)
            _check(named_tensors(one), tensors, manifest, str(directory))
            _fill(one, tensors)
            slices.append(one)
    return slices


def load_sliced(directory: str | Path) -> SlicedModel:
    """The whole model of an export, sliced, from the files alone; for the server. Its spec names no checkpoint.

    Raises:
        ShardError: as for `load_span`.
    """
    manifest = load_manifest(directory)
    with torch.inference_mode(False):
        tensors = _read(directory, manifest.shards)
        sliced = _structure(manifest, str(directory))
        _check(named_tensors(sliced.tail(0)), tensors, manifest, str(directory))
        _same_program(sliced, manifest, str(directory))
        _fill(sliced.module, tensors)
        # What no slice needs (a pretraining head, a mask token) is not in the shards, but must not stay on meta.
        unused = {name: tensor for name, tensor in named_tensors(sliced.module).items() if tensor.is_meta}
        _fill(sliced.module, {name: torch.zeros_like(tensor, device="cpu") for name, tensor in unused.items()})
    return sliced


def _write_slice(sliced: SlicedModel, index: int, scratch: Path) -> ShardInfo:
    name = f"slice_{index + 1}.safetensors"
    tensors = {key: needed.tensor for key, needed in sliced.tensors(index, index + 1).items()}
    tensorfile.write(scratch / name, tensors)
    return tensorfile.describe(scratch / name, name)


def _manifest(sliced: SlicedModel, shards: tuple[ShardInfo, ...]) -> Manifest:
    assert sliced.spec is not None
    spec = replace(sliced.spec, checkpoint=None)
    if tuple(zoo.data_config(spec)["input_size"]) != sliced.input_shape:  # it was given while slicing
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
    """Build the model once more as whoever loads it will. Raises ShardError where that is another program."""
    assert sliced.spec is not None
    again = _structure(manifest, f"{sliced.spec.architecture}, built once more")
    for index, (mine, other) in enumerate(zip(sliced.programs, again.programs, strict=True), start=1):
        if mine != other:
            raise ShardError(
                f"{sliced.spec.architecture} built once more is another model: in slice {index} "
                f"{difference(mine, other)}. Whoever loads the shards builds it by name: make its constructor draw no "
                "random numbers (or seed them), and read neither clock nor environment"
            )


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


def _same_program(sliced: SlicedModel, manifest: Manifest, source: str) -> None:
    """Raise ShardError unless each slice does what it did where it was exported."""
    for index, (lines, exported) in enumerate(zip(sliced.programs, manifest.programs, strict=True), start=1):
        if digest(lines) != exported:
            raise ShardError(
                f"{source}: slice {index} ({', '.join(sliced.slices[index - 1].units[:3])}, ...) is another program "
                "here: the model's code, or what its constructor depends on, has changed since; "
                f"{_versions(manifest)}"
            )


def _structure(manifest: Manifest, source: str) -> SlicedModel:
    """The manifest's model, cut where it says, on meta if it can be. Raises ShardError if its shapes are others."""
    spec = replace(manifest.spec, pretrained=False)
    try:
        where = {
            "at": manifest.boundaries,
            "input_shape": manifest.shapes[0],
            "spec": manifest.spec,
            "verify": False,
            "reads": [Read(weights, ast.literal_eval(value)) for weights, value in manifest.reads],
        }
        try:
            sliced = slice_module(zoo.build_structure(spec), **where)  # type: ignore[arg-type]
        except ModelError:
            sliced = slice_module(zoo.build(spec), **where)  # type: ignore[arg-type]
    except (HeadTailError, ValueError, SyntaxError) as error:
        raise ShardError(f"{source}: {error} ({_versions(manifest)})") from error
    shapes = tuple(sliced.shape_at(cut) for cut in range(manifest.num_slices + 1))
    if shapes != manifest.shapes:
        raise ShardError(
            f"{source}: activations have shapes {shapes} instead of {manifest.shapes}; {_versions(manifest)}"
        )
    return sliced


def _versions(manifest: Manifest) -> str:
    return (
        f"exported with timm {manifest.timm} and torch {manifest.torch}, here are timm {timm.__version__} and torch "
        f"{torch.__version__}; install the same versions, or export again"
    )


def _read(directory: str | Path, shards: Sequence[ShardInfo]) -> dict[str, torch.Tensor]:
    """All tensors of the files; one that several slices hold is kept once."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in shards:
        for name, tensor in tensorfile.read(Path(directory) / shard.file, shard).items():
            tensors.setdefault(name, tensor)
    return tensors


def _check(
    own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], manifest: Manifest, source: str
) -> None:
    """Raise ShardError unless names, shapes and dtypes in the shards are exactly the model's own."""
    if odd := sorted(own.keys() ^ tensors.keys()):
        name = odd[0]
        said = "is missing in the shards" if name in own else "is left over in the shards"
        raise ShardError(f"{source}: {name} {said} ({len(odd)} such names); {_versions(manifest)}")
    for name, tensor in tensors.items():
        if (own[name].shape, own[name].dtype) != (tensor.shape, tensor.dtype):
            raise ShardError(
                f"{source}: {name} is {tensor.dtype} {tuple(tensor.shape)} in the shards and {own[name].dtype} "
                f"{tuple(own[name].shape)} in the model; {_versions(manifest)}"
            )


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put each tensor in the place of the module's own of that name."""
    for name, tensor in tensors.items():
        path, _, field = name.rpartition(".")
        part = module.get_submodule(path)
        if isinstance(getattr(part, field), nn.Parameter):
            setattr(part, field, nn.Parameter(tensor, requires_grad=False))
        else:
            setattr(part, field, tensor)
    try:
        refuse_not_finite(module)
    except ModelError as error:
        raise ShardError(f"shards: {error}, and export again") from error
