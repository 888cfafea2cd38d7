"""What an `Ingress` asks, over a tiny model in this thread: each row by itself, without an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from deployments.config import parse_config
from deployments.ipc.hosted_model import HostedModel
from slicer import shards
from slicer.core.protocol.messages import Answer, Refusal, RefusalCode, Reply, Request, ServedModel, Timings
from slicer.errors import CodecError
from slicer.slicing.sliced_model import SlicedModel

TIMINGS = Timings(0.5, 1.0, 2.0, 4.0, (1, 2))


class TinyServer:
    """`deployments.replica.ingress.open_inference.Server`, and what devices ask.

    Args:
        sliced: the model. directory: its shards. names: under which it is served. labels: of its classes.

    Attributes:
        refusals: codes for the calls that come next, one for each request of a call; empty: none.
        calls: what came, call by call.
        rows: what ran.
    """

    emulated: tuple[str, ...] = ()

    def __init__(self, sliced: SlicedModel, directory: Path, names: Sequence[str], labels: Sequence[str] = ()) -> None:
        self.models: Mapping[str, HostedModel] = {}
        self.refusals: deque[Sequence[RefusalCode | None]] = deque()
        self.calls: list[list[Request]] = []
        self.rows: list[Request] = []
        self.healthy = True
        self._sliced = sliced
        self.serve(directory, names, labels)

    def serve(self, directory: Path, names: Sequence[str], labels: Sequence[str] = ()) -> None:
        """From now on these models, all of the same shards."""
        manifest = shards.load_manifest(directory)
        config = parse_config({"models": [{"name": name, "model": "digits_vit"} for name in names]})
        self.models = {one.name: HostedModel(one, manifest, directory, manifest.shapes) for one in config.models}
        for model in self.models.values():
            model.labels = tuple(labels)

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        self.calls.append(requests)
        codes = self.refusals.popleft() if self.refusals else [None] * len(requests)
        return [
            self._answer(request) if code is None else Refusal(request.id, code, f"told to say {code}", "tiny")
            for request, code in zip(requests, codes, strict=True)
        ]

    def _answer(self, request: Request) -> Answer:
        model = self.models.get(request.model)
        if model is None:
            return self.absent(request.id, request.model)
        if (refusal := model.check(request)) is not None:
            return refusal
        self.rows.append(request)
        try:
            row = model.decode(request.codec, [request.payload], request.cut)
        except CodecError as error:
            return Refusal(request.id, "bad_codec", str(error), "tiny")
        with torch.inference_mode():
            logits = self._sliced.tail(request.cut)(torch.from_numpy(row))[0].numpy()
        return Reply(request.id, TIMINGS, (), np.float32(logits).tobytes(), logits.shape, "tiny")

    def absent(self, request_id: str, model: str) -> Refusal:
        return Refusal(request_id, "unknown_model", f"no model {model!r}; there is {', '.join(self.models)}", "tiny")

    async def describe(self, model: str) -> ServedModel | Refusal:
        return self.models[model].describe(()) if model in self.models else self.absent("", model)

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        for model in self.models.values():
            if (piece := model.read_shard(sha256, offset, length)) is not None:
                return piece
        raise KeyError(f"no shard {sha256}")

    async def check_health(self) -> None:
        if not self.healthy:
            raise RuntimeError("not healthy")
