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
    "slicer.planner": "slicer.core.planning.cut_planner",
    "slicer.packet": "slicer.core.protocol.packet",
    "slicer.wire": "slicer.core.protocol.messages",
    "slicer.zoo": "slicer.models.zoo",
}


class _OldNames(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in OLD_NAMES else None

    def exec_module(self, module: ModuleType) -> None:
        new = OLD_NAMES[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}; the old name goes with 0.3", FutureWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(new)


def install() -> None:
    """Let the old names be imported. Calling it again does nothing."""
    if not any(type(finder).__qualname__ == _OldNames.__qualname__ for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
