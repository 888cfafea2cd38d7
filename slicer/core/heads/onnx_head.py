"""Heads of ONNX: from what a server describes to slices that onnxruntime runs, fetched, checked and kept in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ShardError
from ..images.preprocessing import Preprocessing
from ..planning.cut_planner import Choice
from ..protocol.messages import ServedModel, ShardInfo
from ..protocol.onnx_index import FILE, OnnxIndex
from ..settings import TAIL, DeviceSettings
from ..shards.cache import ShardCache
from .codecs_of import codecs_of
from .head import Head
from .head_runtime import GetShard, HeadRuntime
from .onnx_slices import OnnxSlices, make_sessions
from .served_model import check_cut, check_memory, fits_whole, manifest_of, pieces
from .threaded import load_threaded


@dataclass(frozen=True)
class OnnxOptions:
    """How slices of ONNX are run and kept.

    Attributes:
        cache_directory: of their files; several processes may use the same. cache_max_bytes: what it may hold.
        threads: that one slice is computed on.
        providers: onnxruntime's execution providers, the best first; empty: the CPU.
        int8: the files with weights of 8 bits, a quarter of the size and not exact.
    """

    cache_directory: Path
    cache_max_bytes: int
    threads: int = 1
    providers: tuple[str, ...] = ()
    int8: bool = False


async def load_onnx(served: ServedModel, config: DeviceSettings, get: GetShard, options: OnnxOptions) -> HeadRuntime:
    """Fetch what the cache lacks and load slices 0:cut; all slices, where the device is to go on alone.

    Raises:
        CutError: the model has no such cut, or the server takes no requests there.
        ConfigError: the server has no ONNX files of this model, or codec, memory budget or this machine do not go.
        ShardError: a file or the manifest is not what it should be.
    """
    loader = _Loader(served, get, options)
    return await load_threaded(config.name, lambda: loader.load(config), loader.sessions)


class _Loader:
    """Blocking; on threads of the runtime's."""

    def __init__(self, served: ServedModel, get: GetShard, options: OnnxOptions) -> None:
        self._served, self._get, self._options = served, get, options
        self._index: OnnxIndex | None = None

    def load(self, config: DeviceSettings) -> Head:
        served = self._served
        manifest = manifest_of(served)
        check_cut(served, config)
        config.profile.check_model(served.name, served.num_slices, manifest.spec.architecture)
        if not served.preprocessing_json:
            raise ConfigError(
                f"the server cannot say how an image becomes an input of {served.name!r}, so no device without torch "
                "can prepare it; use a Ray device, or a client that makes its own inputs"
            )
        prepare = Preprocessing.from_json(served.preprocessing_json)
        files = replace(manifest, shards=self._files(0, served.num_slices))
        check_memory(served, files, config)
        whole = config.alone == TAIL and fits_whole(files, config)
        slices = OnnxSlices(self.sessions(0, served.num_slices if whole else config.cut))
        head = Head(
            prepare,
            slices,
            manifest=manifest.digest,
            num_slices=served.num_slices,
            slice_bytes=[file.size_bytes for file in files.shards],
            codecs=codecs_of(served, manifest, self._get, self._options.cache_directory, self._options.cache_max_bytes),
            outputs=manifest.outputs,
            profile=config.profile,
            seed=f"{config.seed}/{config.name}",
        )
        head.prepare(Choice(config.cut, config.codec))
        return head

    def sessions(self, start: int, end: int) -> Sequence[Any]:
        """Slices start:end, fetched where the cache lacks them."""
        if start >= end:
            return []
        options, index = self._options, self._known_index()
        cache = ShardCache(options.cache_directory, options.cache_max_bytes)
        form = "int8" if options.int8 else "fp32"
        try:
            files = self._files(start, end)
            directory = cache.fetch_files(
                files,
                f"{index.digest}_{form}_{start}_{end}",
                (FILE, index.to_json().encode()),
                f"slices {start}:{end} of {self._served.name!r} as ONNX",
                lambda file: pieces(file, self._get),
            )
            return make_sessions(
                [directory / file.file for file in files], threads=options.threads, providers=options.providers
            )
        finally:
            cache.close()

    def _files(self, start: int, end: int) -> tuple[ShardInfo, ...]:
        found = self._known_index().files(start, end, int8=self._options.int8)
        return tuple(ShardInfo(file.file, file.sha256, file.size_bytes) for file in found)

    def _known_index(self) -> OnnxIndex:
        if self._index is None:
            served = self._served
            if not served.onnx:
                raise ConfigError(
                    f"the server has no ONNX files of {served.name!r}; say `onnx: true` of it in the server's file, or "
                    "headtail serve --onnx"
                )
            index = OnnxIndex.from_json(self._whole(served.onnx), f"the index of {served.name!r}")
            if index.digest != served.onnx or index.manifest != served.manifest:
                raise ShardError(
                    f"the server's ONNX files are of manifest {index.manifest[:12]}, it serves {served.manifest[:12]}; "
                    "restart the server"
                )
            self._index = index
        return self._index

    def _whole(self, sha256: str) -> bytes:
        """A small file."""
        found = b""
        while piece := self._get(sha256, len(found), 1 << 20):
            found += piece
        return found
