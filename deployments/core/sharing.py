"""Models of one application that have a slice in common, weights and program, hold its tensors once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import torch

from deployments.ipc.hosted_model import HostedModel
from slicer.core.shards.manifest import Manifest
from slicer.errors import ConfigError
from slicer.shards.rebuild import fill
from slicer.slicing.slice_model import SlicedModel


class SharedSlices:
    """The slices of the models that were built so far. For one thread.

    It holds their tensors, so let it go before the accelerator takes them over.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], Mapping[str, torch.Tensor]] = {}

    def share(self, manifest: Manifest, sliced: SlicedModel) -> None:
        """Put an earlier model's tensors in the place of equal ones of `sliced`, slice by slice.

        Equal are slices of one sha256, that is of the same names, shapes and bits, and of one program. So no result
        changes.
        """
        for index, (shard, program) in enumerate(zip(manifest.shards, manifest.programs, strict=True)):
            own = {name: needed.tensor for name, needed in sliced.tensors(index, index + 1).items()}
            seen = self._seen.setdefault((shard.sha256, program), own)
            if seen is not own:
                fill(sliced.module, seen)


def check_fork(fork: HostedModel, trunk: HostedModel) -> None:
    """Return if a model can run on another one's trunk: they differ in nothing but the last slice.

    Raises:
        ConfigError: they differ before it; names the first slice that does, and the remedies.
    """
    what = f"model {fork.name!r} cannot run on the trunk of {trunk.name!r}"
    remedy = (
        "cut both right before what differs, such as the classifier, with the same at:; or leave out trunk, and the "
        "slices that are equal still lie in memory once"
    )
    ours, theirs = fork.manifest, trunk.manifest
    n = fork.num_slices
    if n != trunk.num_slices:
        raise ConfigError(f"{what}: it has {n} slices, that one has {trunk.num_slices}; {remedy}")
    if n < 2:
        raise ConfigError(f"{what}: with one slice there is no trunk before the last one; {remedy}")
    names = [*theirs.boundaries, "the end"]
    sides = [_slices(ours), _slices(theirs)]
    for index, (own, other) in enumerate(zip_longest(*sides)):
        if own == other:
            continue
        differing = ", ".join(part for part in own if own[part] != other[part])
        raise ConfigError(f"{what}: slice {index + 1} (up to {names[index]}) has other {differing}; {remedy}")


def _slices(manifest: Manifest) -> list[dict[str, object]]:
    """What the slices of a trunk must have in common, slice by slice."""
    return [
        {
            "cuts": manifest.boundaries[index],
            "program": manifest.programs[index],
            "weights": manifest.shards[index].sha256,
            "shapes": manifest.shapes[index : index + 2],
            "dtypes": manifest.dtypes[index : index + 2],
        }
        for index in range(manifest.num_slices - 1)
    ]
