"""Building what is served: a model with its weights, cut, and its shards where devices can fetch them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deployments.config import ModelConfig
from deployments.core.sharing import SharedSlices
from deployments.ipc.hosted_model import HostedModel
from slicer import onnx, shards
from slicer.core.protocol.onnx_index import FILE as INDEX
from slicer.core.shards.described import describe
from slicer.core.shards.manifest import FILE as MANIFEST
from slicer.core.shards.spec import ModelSpec
from slicer.errors import HeadTailError, ModelError
from slicer.models import zoo
from slicer.models.data_config import preprocessing_of
from slicer.models.labels import labels_of
from slicer.models.outputs import classifies
from slicer.slicing.slice_model import SlicedModel, slice_spec

#: A model and its weights on the host, which whoever runs it takes over.
Hosted = tuple[HostedModel, SlicedModel]


def host(config: ModelConfig, shard_dir: Path) -> Hosted:
    """Build a model (or load it from `config.shards`), cut it, and put its shards where devices can fetch them.

    This takes seconds and disk space.

    Args:
        shard_dir: holds a folder for each model, named by the manifest's digest.

    Raises:
        HeadTailError: the model cannot be built, cut or loaded, an entry is no cut of it, or it has another number of
            classes than labels.
    """
    if config.shards:
        directory = Path(config.shards).expanduser()
        sliced: SlicedModel = shards.load_sliced(directory)
        manifest = shards.load_manifest(directory)
    else:
        sliced = slice_spec(spec_of(config), config.num_slices, at=list(config.at) if config.at else None)
        manifest, directory = _publish(sliced, shard_dir)
    shapes = tuple(sliced.shape_at(cut) for cut in range(sliced.num_slices + 1))
    labels = labels_of(
        config.labels,
        sliced.module,
        sliced.spec,
        sliced.outputs[0].shape,
        name=config.name,
        directory=directory if config.shards else None,
    )
    if config.onnx:
        _make_onnx(sliced, manifest, directory)
    preprocessing = preprocessing_json(manifest.spec, shapes[0])
    scores = len(sliced.outputs[0].shape) == 1 and classifies(sliced.module, sliced.spec)
    return HostedModel(config, manifest, directory, shapes, labels, preprocessing, scores), sliced


def host_all(models: Sequence[ModelConfig], shard_dir: Path) -> list[Hosted]:
    """`host`, of the models of one application: what they have in common lies in memory once. Errors as of `host`."""
    shared = SharedSlices()
    found = []
    for config in models:
        model, sliced = host(config, shard_dir)
        shared.share(model.manifest, sliced)
        found.append((model, sliced))
    return found


def spec_of(config: ModelConfig) -> ModelSpec:
    """What a model of the configuration is built from. Raises ModelError."""
    return zoo.resolve(
        config.source,
        kwargs=config.kwargs,
        checkpoint=config.checkpoint,
        checkpoint_key=config.checkpoint_key,
        pretrained=config.pretrained,
        dtype=config.dtype,
        seed=config.seed,
        outputs=config.outputs or None,
    )


def preprocessing_json(spec: ModelSpec, shape: tuple[int, ...]) -> str:
    """How an image becomes an input of `shape`, for devices without torch; empty where that cannot be said."""
    try:
        preprocessing = preprocessing_of(spec)
    except ModelError:  # such a model is served all the same: with inputs as arrays, or with images by timm itself
        return ""
    return preprocessing.to_json() if preprocessing.shape == shape else ""


def _make_onnx(sliced: SlicedModel, manifest: shards.Manifest, directory: Path) -> None:
    """ONNX files beside the shards, unless they are there. Raises HeadTailError."""
    if not (directory / INDEX).is_file():
        onnx.export_beside(sliced, manifest, directory, int8=True)


def _publish(sliced: SlicedModel, shard_dir: Path) -> tuple[shards.Manifest, Path]:
    """Export into `shard_dir/<digest>`; replicas that do it at once end up with the same folder."""
    shard_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="export-", dir=shard_dir))
    try:
        manifest = shards.export(sliced, scratch / "shards")
        final = shard_dir / manifest.digest
        if not final.exists():
            _link_equal_files(manifest, scratch / "shards", shard_dir)
            try:
                (scratch / "shards").rename(final)
            except OSError:  # another replica was first; its folder has the same content, by its name
                if not final.exists():
                    raise
        return manifest, final
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link_equal_files(manifest: shards.Manifest, directory: Path, shard_dir: Path) -> None:
    """Let slices that another model's folder has already be the same files on the disk."""
    there: dict[str, Path] = {}
    for other in shard_dir.glob(f"*/{MANIFEST}"):
        with contextlib.suppress(HeadTailError):  # a folder that is damaged lends nothing
            there |= {shard.sha256: other.parent / shard.file for shard in shards.load_manifest(other.parent).shards}
    for shard in manifest.shards:
        with contextlib.suppress(OSError, HeadTailError):  # no links on this disk: the file is a copy, as it was
            if (twin := there.get(shard.sha256)) and describe(twin, shard.file) == shard:
                link = directory / f"{shard.file}.link"
                link.hardlink_to(twin)
                link.replace(directory / shard.file)
