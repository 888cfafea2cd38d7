"""Load a span of a model's slices from its files alone.

A model that is loaded is built on the meta device and traced there, so that no memory is spent on weights it does not
run; each tensor is then read into memory of its own. What is loaded gives the results of the exported model bit for bit
on the same kind of machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from slicer.core.protocol.messages import ShardInfo
from slicer.core.shards.manifest import Manifest, load_manifest
from slicer.errors import ModelError, ShardError
from slicer.models.weights import refuse_not_finite
from slicer.shards import tensor_file
from slicer.shards.rebuild import fill, rebuild, versions
from slicer.slicing.program import digest
from slicer.slicing.sliced_model import SlicedModel
from slicer.tracing.tensors import named_tensors


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
        sliced = rebuild(manifest, str(directory))
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
        structure = rebuild(manifest, str(directory))
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
        sliced = rebuild(manifest, str(directory))
        _check(named_tensors(sliced.tail(0)), tensors, manifest, str(directory))
        _same_program(sliced, manifest, str(directory))
        _fill(sliced.module, tensors)
        # What no slice needs (a pretraining head, a mask token) is not in the shards, but must not stay on meta.
        unused = {name: tensor for name, tensor in named_tensors(sliced.module).items() if tensor.is_meta}
        _fill(sliced.module, {name: torch.zeros_like(tensor, device="cpu") for name, tensor in unused.items()})
    return sliced


def _same_program(sliced: SlicedModel, manifest: Manifest, source: str) -> None:
    """Raise ShardError unless each slice does what it did where it was exported."""
    for index, (lines, exported) in enumerate(zip(sliced.programs, manifest.programs, strict=True), start=1):
        if digest(lines) != exported:
            raise ShardError(
                f"{source}: slice {index} ({', '.join(sliced.slices[index - 1].units[:3])}, ...) is another program "
                "here: the model's code, or what its constructor depends on, has changed since; "
                f"{versions(manifest)}"
            )


def _read(directory: str | Path, shards: Sequence[ShardInfo]) -> dict[str, torch.Tensor]:
    """All tensors of the files; one that several slices hold is kept once."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in shards:
        for name, tensor in tensor_file.read(Path(directory) / shard.file, shard).items():
            tensors.setdefault(name, tensor)
    return tensors


def _check(
    own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], manifest: Manifest, source: str
) -> None:
    """Raise ShardError unless names, shapes and dtypes in the shards are exactly the model's own."""
    if odd := sorted(own.keys() ^ tensors.keys()):
        name = odd[0]
        said = "is missing in the shards" if name in own else "is left over in the shards"
        raise ShardError(f"{source}: {name} {said} ({len(odd)} such names); {versions(manifest)}")
    for name, tensor in tensors.items():
        if (own[name].shape, own[name].dtype) != (tensor.shape, tensor.dtype):
            raise ShardError(
                f"{source}: {name} is {tensor.dtype} {tuple(tensor.shape)} in the shards and {own[name].dtype} "
                f"{tuple(own[name].shape)} in the model; {versions(manifest)}"
            )


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """`fill`, with weights that came out of a file."""
    fill(module, tensors)
    try:
        refuse_not_finite(module)
    except ModelError as error:
        raise ShardError(f"shards: {error}, and export again") from error
