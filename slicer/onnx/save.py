"""Store the slices of a model as ONNX files, each checked against torch before anybody can see it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer import shards
from slicer.core.protocol.onnx_index import FILE, OnnxIndex, OnnxSlice, load_index
from slicer.core.shards.manifest import Manifest
from slicer.errors import ShardError
from slicer.onnx.libraries import OPSET, require
from slicer.slicing.sliced_model import SlicedModel

Progress = Callable[[int], object]


def _nothing(_done: int) -> None:
    """Nobody watches."""


def export(
    sliced: SlicedModel,
    directory: str | Path,
    *,
    int8: bool = False,
    labels: Sequence[str] = (),
    progress: Progress = _nothing,
) -> tuple[Manifest, OnnxIndex]:
    """Write a model's shards and manifest (`slicer.shards.export`), and beside them ONNX files and their index.

    Nothing is written unless all slices can be exported and are exact. The index comes last, so that an interrupted
    export is never taken for one. The same model gives the same ONNX files, with the same versions of the libraries.
    One export at a time in a process: torch's exporter changes the process's warnings while it runs.

    Args:
        int8: also a form with weights of 8 bits.
        labels: as for the shards.
        progress: is told how many slices are ready.

    Raises:
        ConfigError: the extra ``onnx`` is not installed.
        NotExportable: says which slice, and why.
        ShardError: as `slicer.shards.export`, or the directory cannot be written.
    """
    with _prepared(sliced, Path(directory), int8, progress) as prepared:
        manifest = shards.export(sliced, directory, labels=labels)
        return manifest, _place(prepared, manifest, Path(directory))


def export_beside(
    sliced: SlicedModel, manifest: Manifest, directory: str | Path, *, int8: bool = False, progress: Progress = _nothing
) -> OnnxIndex:
    """Write the ONNX files of a model that is exported already, whose manifest is `manifest`. Errors as `export`."""
    with _prepared(sliced, Path(directory), int8, progress) as prepared:
        return _place(prepared, manifest, Path(directory))


@dataclass(frozen=True)
class _Prepared:
    """Files in a folder that nobody looks into, and what the index will say of them."""

    scratch: Path
    slices: tuple[OnnxSlice, ...]


@contextlib.contextmanager
def _prepared(sliced: SlicedModel, target: Path, int8: bool, progress: Progress) -> Iterator[_Prepared]:
    require()
    from slicer.onnx.make import make  # needs the libraries

    try:
        fresh = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".onnx-", dir=target) as scratch:
                yield _Prepared(Path(scratch), make(sliced, Path(scratch), int8, progress))
        except BaseException:
            if fresh:
                with contextlib.suppress(OSError):  # not empty: somebody else writes there, too
                    target.rmdir()
            raise
    except OSError as error:
        raise ShardError(f"cannot export to {target}: {error}; give a directory that can be written") from error


def _place(prepared: _Prepared, manifest: Manifest, target: Path) -> OnnxIndex:
    """Move the files to where devices look for them. Without an index nothing there counts: the old one goes first."""
    index = OnnxIndex(manifest.digest, OPSET, prepared.slices)
    with contextlib.suppress(ShardError):  # none, or a damaged one
        old = load_index(target)
        (target / FILE).unlink()
        for file in old.all_files:
            (target / file.file).unlink(missing_ok=True)
    for file in index.all_files:
        (prepared.scratch / file.file).replace(target / file.file)
    text = prepared.scratch / FILE
    text.write_text(index.to_json())
    text.replace(target / FILE)
    return index
