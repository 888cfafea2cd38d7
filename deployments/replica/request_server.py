"""What every replica that speaks to clients does with a request, wherever the accelerator is.

A request's way through it reads top to bottom in `RequestServer.infer_parcel`: check, run, reply. One request is a
parcel of one.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deployments.config import HttpConfig
from deployments.ipc.hosted_model import HostedModel
from deployments.replica.admission.calls import CheckedRequest, Result
from deployments.replica.identity import Identity
from deployments.replica.ingress.cors import Cors
from deployments.replica.ingress.grpc_methods import GrpcIngress, GrpcMethods
from deployments.replica.ingress.http_ingress import Ingress
from deployments.replica.ingress.web_page import WebPage
from deployments.replica.metrics import RequestMetrics
from deployments.replica.replies import Replies
from slicer.core.protocol.messages import Answer, Refusal, Request, ServedModel

#: A device reads a shard in pieces of at most this much, below Serve's gRPC message limit.
MAX_SHARD_READ_BYTES = 4 << 20


class RequestServer(GrpcMethods):
    """All methods run on the replica's event loop.

    Args:
        identity: of this replica.
        token: what HTTP requests and gRPC calls must bring.
        http: how the HTTP way in is.

    Raises:
        ConfigError: the page of `http` is not there.
    """

    def __init__(self, identity: Identity, *, token: str, http: HttpConfig) -> None:
        self._identity, self._token, self._http = identity, token, http
        self._page = WebPage() if http.web else None
        self._replies = Replies(identity.name)
        self._counted = RequestMetrics()
        self._grpc = GrpcIngress(self, token=token, local_only=identity.local_only)

    @property
    @abstractmethod
    def models(self) -> Mapping[str, HostedModel]:
        """What is served now, by name."""

    @property
    @abstractmethod
    def emulated(self) -> tuple[str, ...]:
        """Names of emulated parts."""

    @abstractmethod
    async def run(self, requests: Sequence[CheckedRequest]) -> list[Result]:
        """Checked requests of one call, in order: outcome and moment of admission of each, or a refusal."""

    def absent(self, request_id: str, model: str) -> Refusal:
        """A model that is not served."""
        return self._replies.unknown(request_id, model, self.models)

    async def infer_parcel(self, requests: list[Request]) -> list[Answer]:
        """Several requests in one call, in order; each is answered for itself, all when the last one is.

        Never raises for a bad request: a refusal says what is wrong with it.
        """
        arrived_s = time.monotonic()
        models = self.models
        answers: dict[int, Answer] = {}
        good: dict[int, CheckedRequest] = {}
        for index, request in enumerate(requests):
            model = models.get(request.model)
            if model is None:
                answers[index] = self.absent(request.id, request.model)
            elif (refusal := model.check(request)) is not None:
                answers[index] = refusal
            else:
                good[index] = CheckedRequest(model, request, arrived_s)
        if good:
            results = await self.run(list(good.values()))
            for (index, checked), result in zip(good.items(), results, strict=True):
                answers[index] = result if isinstance(result, Refusal) else self._replies.answer(checked, *result)
        for index, request in enumerate(requests):
            if request.model in models:
                self._counted.count(request.model, request.cut, answers[index])
        return [answers[index] for index in range(len(requests))]

    def __serve_build_asgi_app__(self) -> Ingress:
        """The HTTP way in; Serve asks for it where `app.build` put `serve.ingress` around this class."""
        return Ingress(
            self,
            token=self._token,
            max_body_bytes=self._http.max_body_bytes,
            page=self._page,
            cors=Cors(self._http.cors_origins),
        )

    async def describe(self, model: str) -> ServedModel | Refusal:
        """What a device needs to know to join with `model`."""
        hosted = self.models.get(model)
        if hosted is None:
            return self.absent("", model)
        url = self._identity.url
        return replace(hosted.describe(self.emulated), url=url, token=self._token if url else "")

    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        """A piece of a slice's file.

        Raises:
            KeyError: no model of this application has a file of that digest.
            ValueError: `offset` lies past its end.
        """
        length = min(length, MAX_SHARD_READ_BYTES)
        loop = asyncio.get_running_loop()
        for model in self.models.values():
            piece = await loop.run_in_executor(None, model.read_shard, sha256, offset, length)
            if piece is not None:
                return piece
        raise KeyError(f"no model of this application has a shard {sha256[:80]}; ask describe() again")

    @abstractmethod
    async def status(self) -> dict[str, Any]:
        """What is behind this replica and has been done; plain values, for the load job, the doctor and people."""

    @abstractmethod
    async def steps(self, since_s: float = 0.0) -> dict[str, Any]:
        """The last steps of the accelerator, as many as are kept, of those that ended after `since_s` of uptime.

        Plain values, for the load job: ``replica``, and ``steps`` as `TracedStep` has them, seconds of uptime.
        """

    @abstractmethod
    async def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
