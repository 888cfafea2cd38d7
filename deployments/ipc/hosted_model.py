"""A model as front and core both know it: its shards, its cuts, and the checks that every request for it must pass.

No torch is imported before an image is to be decoded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deployments.config import ModelConfig
from slicer import shards
from slicer.core.codecs import activations
from slicer.core.codecs.images import decode_images
from slicer.core.codecs.model_codecs import ModelCodecs
from slicer.core.codecs.transform.compiled import COMPILED
from slicer.core.protocol.calibration_index import load_calibration
from slicer.core.protocol.messages import MAX_PRIORITY, Refusal, Request, ServedModel
from slicer.core.protocol.onnx_index import FILE as INDEX
from slicer.core.protocol.onnx_index import load_index
from slicer.errors import CodecError, ConfigError, ShardError, StaleTablesError

if TYPE_CHECKING:
    from slicer.models.images import Preprocess

logger = logging.getLogger("headtail.server")

#: Bytes for what comes out of a row begin at a multiple of this, and there are at least so many.
_ANSWER_ALIGN = 64

_PRIORITIES = range(MAX_PRIORITY + 1)

#: Makes the memory into which activations are decoded: a float32 array of a shape.
Receiving = Callable[[tuple[int, ...]], npt.NDArray[np.float32]]


class HostedModel:
    """One model of the application, without its weights. Any thread may read it; nothing of it changes.

    Args:
        config: of the model.
        manifest: of its shards, which lie in `directory`.
        shapes: of one row at every cut from 0 to the number of slices.
        labels: of its classes, in order; empty: nobody knows them.
        preprocessing: of its images, as JSON (`slicer.core.images.preprocessing`); empty: it takes none, or nobody can
            say how.
        classifies: its own result is a number for each class; else an embedding, or a map.

    Attributes:
        onnx: digest of the index of its ONNX files; empty: there are none.
        codecs: of its activations.

    Raises:
        ConfigError: an entry is no cut of it. ShardError: the ONNX files or the calibration in `directory` are not of
            its shards.
    """

    def __init__(
        self,
        config: ModelConfig,
        manifest: shards.Manifest,
        directory: Path,
        shapes: tuple[tuple[int, ...], ...],
        labels: tuple[str, ...] = (),
        preprocessing: str = "",
        classifies: bool = True,
    ) -> None:
        self.config = config
        self.name = config.name
        self.manifest, self.directory, self.digest = manifest, directory, manifest.digest
        self.labels, self.preprocessing, self.classifies = labels, preprocessing, classifies
        self.shapes, self.num_slices = shapes, len(shapes) - 1
        self.outputs = self.manifest.outputs
        self._output_names = frozenset(output.name for output in self.outputs)
        self.entries = self._entries()
        self._takes_images = 0 in self.entries and self.shapes[0][0] in (1, 3) and len(self.shapes[0]) == 3
        self._files = {shard.sha256: self.directory / shard.file for shard in self.manifest.shards}
        self.onnx = self._onnx()
        self.codecs = self._codecs()

    def _codecs(self) -> ModelCodecs:
        """With the tables beside the shards, which are handed out too. Raises ShardError: they are another model's."""
        index = load_calibration(self.directory)
        if index is not None and index.manifest != self.digest:
            raise ShardError(
                f"model {self.name!r}: the calibration in {self.directory} is of manifest {index.manifest[:12]}, the "
                f"shards beside it of {self.digest[:12]}; calibrate again: headtail slice MODEL --export DIR "
                "--calibrate IMAGES"
            )
        if index is not None:
            if not COMPILED:
                logger.warning(
                    "model %r: the codec transform is decoded by numpy, 7 times slower than by C; install headtail "
                    "where there is a C compiler",
                    self.name,
                )
            self._files |= {one.tables.sha256: self.directory / one.tables.file for one in index.cuts}
        return ModelCodecs(
            self.shapes, self.manifest.channel_axes, index, lambda tables: (self.directory / tables.file).read_bytes()
        )

    def _onnx(self) -> str:
        """The digest of the index of the ONNX files beside the shards, which are handed out too; empty: none are there.

        Raises:
            ShardError: they are another model's, or damaged.
        """
        if not (self.directory / INDEX).is_file():
            return ""
        index = load_index(self.directory)
        if index.manifest != self.digest:
            raise ShardError(
                f"model {self.name!r}: {self.directory / INDEX} is of manifest {index.manifest[:12]}, the shards "
                f"beside it of {self.digest[:12]}; export both again: headtail slice MODEL --export DIR --format onnx"
            )
        self._files |= {file.sha256: self.directory / file.file for file in index.all_files}
        self._files[index.digest] = self.directory / INDEX
        return index.digest

    def _entries(self) -> tuple[int, ...]:
        possible = range(self.num_slices)
        wanted = self.config.entries
        if wanted is None:
            return tuple(possible)
        wrong = [entry for entry in wanted if entry not in possible]
        if wrong:
            raise ConfigError(
                f"model {self.name!r}: entry {wrong[0]} is out of range; {self.num_slices} slices have entries "
                f"0 to {self.num_slices - 1}"
            )
        return tuple(sorted(set(wanted)))

    @cached_property
    def preprocess(self) -> Preprocess:
        """Of its images, at cut 0."""
        from slicer.models.images import Preprocess

        return Preprocess(self.manifest.spec)

    @property
    def takes_images(self) -> bool:
        """Whether whole images may enter, at cut 0."""
        return self._takes_images

    @property
    def answer_bytes(self) -> int:
        """Room for the float32 that come out of one row."""
        return max(-(-math.prod(self.shapes[-1]) * 4 // _ANSWER_ALIGN), 1) * _ANSWER_ALIGN

    def facts(self) -> dict[str, Any]:
        """Plain values, from which another process of this host makes the same by `from_facts`."""
        return {
            "config": self.config.model_dump(mode="json", exclude_unset=True, exclude={"labels"}),
            "labels": list(self.labels),
            "classifies": self.classifies,
            "directory": str(self.directory),
            "shapes": [list(shape) for shape in self.shapes],
            "preprocessing": self.preprocessing,
        }

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> HostedModel:
        """As `facts` gave them.

        Raises:
            HeadTailError: its shards are not there.
        """
        directory = Path(facts["directory"])
        shapes = tuple(tuple(shape) for shape in facts["shapes"])
        labels, config = tuple(facts["labels"]), ModelConfig(**facts["config"])
        manifest = shards.load_manifest(directory)
        return cls(config, manifest, directory, shapes, labels, facts["preprocessing"], facts["classifies"])

    def describe(self, emulated: tuple[str, ...]) -> ServedModel:
        """What a device learns when it joins."""
        return ServedModel(
            name=self.name,
            manifest=self.digest,
            manifest_json=self.manifest.to_json(),
            num_slices=self.num_slices,
            entries=self.entries,
            strategy=self.config.strategy,
            codecs=(*self.codecs.names, *(activations.IMAGE_CODECS if self._takes_images else ())),
            emulated=emulated,
            labels=self.labels,
            preprocessing_json=self.preprocessing,
            onnx=self.onnx,
            classifies=self.classifies,
            calibration_json=self.codecs.calibration.to_json() if self.codecs.calibration else "",
        )

    def check(self, request: Request) -> Refusal | None:
        """Everything that can be said of a request before its payload is read; None if it may enter."""
        if request.manifest != self.digest:
            return Refusal(
                request.id,
                "stale",
                f"the head belongs to manifest {request.manifest[:12]}, this server serves {self.digest[:12]} "
                f"of model {self.name!r}; reload the head",
            )
        if request.cut not in self.entries:
            return Refusal(
                request.id,
                "bad_cut",
                f"cut {request.cut} is no entry of model {self.name!r}; it has {', '.join(map(str, self.entries))}",
            )
        want = self.shapes[request.cut]
        if tuple(request.shape) != tuple(want):
            return Refusal(
                request.id,
                "bad_shape",
                f"shape {tuple(request.shape)} at cut {request.cut} of model {self.name!r}; it must be {tuple(want)}",
            )
        if request.top_k is not None and request.top_k < 1:
            return Refusal(request.id, "bad_shape", f"top_k is {request.top_k}; it must be at least 1, or None")
        if request.priority not in _PRIORITIES:
            message = f"priority is {request.priority}; it must be 1 (first) to {MAX_PRIORITY}, or 0 for the default"
            return Refusal(request.id, "bad_request", message)
        if request.outputs and not self._output_names.issuperset(request.outputs):
            message = (
                f"outputs {', '.join(request.outputs)[:200]}; model {self.name!r} has {', '.join(self._output_names)}"
            )
            return Refusal(request.id, "bad_request", message)
        if request.codec in activations.IMAGE_CODECS:
            return self._check_image(request)
        try:
            self.codecs.check(request.codec, request.payload, request.cut)
        except StaleTablesError as error:
            return Refusal(request.id, "stale", str(error))
        except CodecError as error:
            return Refusal(request.id, "bad_codec", str(error))
        return None

    def _check_image(self, request: Request) -> Refusal | None:
        exact = activations.image_bytes(request.codec, self.shapes[0])
        size, message = len(request.payload), ""
        if request.cut != 0 or not self._takes_images:
            message = f"codec {request.codec} at cut {request.cut} of model {self.name!r}; images enter at cut 0"
            message += "" if self._takes_images else ", of models of one or three channels"
        elif size != exact if exact is not None else not size:
            message = f"the payload has {size} bytes; {request.codec} of {self.shapes[0]} has {exact or 'more'}"
        return Refusal(request.id, "bad_codec", message) if message else None

    def decode(
        self, name: str, payloads: Sequence[bytes | memoryview], cut: int, receiving: Receiving = activations.ordinary
    ) -> npt.NDArray[np.float32]:
        """Payloads of one codec to rows [B, *shape at the cut], images preprocessed as timm would. Any thread.

        Args:
            payloads: of requests that have passed `check`, so that their sizes are right.
            receiving: makes the memory for activations.

        Raises:
            CodecError: one of them is bad.
        """
        if name in activations.IMAGE_CODECS:
            return decode_images(name, payloads, self.preprocess)
        return self.codecs.decode(name, payloads, cut, receiving)

    def read_shard(self, sha256: str, offset: int, length: int) -> bytes | None:
        """`length` bytes of a shard from `offset` (fewer at its end); None if this model has no such shard.

        Raises:
            ValueError: the offset lies past the end, or one of them is negative.
        """
        path = self._files.get(sha256)
        if path is None:
            return None
        size = path.stat().st_size
        if not 0 <= offset <= size or length < 0:
            raise ValueError(f"offset {offset}, length {length}: the shard has {size} bytes; ask for some of these")
        with path.open("rb") as file:
            file.seek(offset)
            piece: bytes = file.read(length)
            return piece
