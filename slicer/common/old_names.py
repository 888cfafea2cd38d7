"""Module names of version 0.1 that documents named: they lead to the new module, with a warning, for one release."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OLD_NAMES = {
    "actors.head": "slicer.core.heads.head",
    "actors.fleet_config": "actors.fleet.config",
    "actors.http_transport": "slicer.core.network.http_transport",
    "actors.links": "actors.network.link",
    "deployments.cuda": "deployments.executors.cuda.executor",
    "deployments.emulated": "deployments.executors.emulated",
    "deployments.policies": "deployments.scheduling.registry",
    "deployments.scheduler": "deployments.scheduling.scheduler",
    "slicer.codec": "slicer.core.codecs.activations",
    "slicer.codec_images": "slicer.core.codecs.images",
    "slicer.images": "slicer.models.images",
    "slicer.model": "slicer.slicing.slice_model",
    "slicer.models.spec": "slicer.core.shards.spec",
    "slicer.planning.cut_planner": "slicer.core.planning.cut_planner",
    "slicer.shards.manifest": "slicer.core.shards.manifest",
    "slicer.planner": "slicer.core.planning.cut_planner",
    "slicer.packet": "slicer.core.protocol.packet",
    "slicer.wire": "slicer.core.protocol.messages",
    "slicer.zoo": "slicer.models.zoo",
}

#: Rooms that moved as a whole, with all of their modules.
OLD_ROOMS = {
    "slicer.client": "slicer.core.client",
    "slicer.codecs": "slicer.core.codecs",
    "slicer.protocol": "slicer.core.protocol",
}


def new_name(old: str) -> str | None:
    """Where a module is now; None: it has not moved."""
    if old in OLD_NAMES:
        return OLD_NAMES[old]
    parts = old.split(".")
    room = OLD_ROOMS.get(".".join(parts[:2]))
    return None if room is None else ".".join([room, *parts[2:]])


class _OldNames(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if new_name(fullname) is not None else None

    def exec_module(self, module: ModuleType) -> None:
        new = new_name(module.__name__)
        assert new is not None, "find_spec said so"
        warnings.warn(f"{module.__name__} is now {new}; the old name goes with 0.3", FutureWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(new)


def install() -> None:
    """Let the old names be imported. Calling it again does nothing."""
    if not any(type(finder).__qualname__ == _OldNames.__qualname__ for finder in sys.meta_path):
        # First: a room under its old name would let others find its modules a second time, beside the new ones.
        sys.meta_path.insert(0, _OldNames())
