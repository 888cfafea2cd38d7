"""A server in memory, for tests of devices and of what drives them: no Ray, no network, answers told beforehand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from typing_extensions import override

from slicer.core.network.server import Server
from slicer.core.protocol.messages import Answer, Refusal, Reply, Request, ServedModel, Timings
from slicer.errors import ModelError, ServerError, ShardError


class FakeServer(Server):
    """A `Server` that answers at once, or as its script says.

    Args:
        served: what `describe` says, by model; exchange an entry to serve other weights, as a redeployment would.
        answer: makes the reply's (class, logit) pairs of a request.
        delay_s: time in the server per request, stale ones included; what the script says comes at once.
        shards: content by sha256.

    Attributes:
        requests: everything that was sent, in order.
        script: one upset per coming request, taken from the left: a refusal code, "vanish" (ServerError) or "hang" (no
            answer); when it is empty requests are answered.
    """

    def __init__(
        self,
        served: Mapping[str, ServedModel],
        *,
        answer: Callable[[Request], tuple[tuple[int, float], ...]] = lambda request: ((request.cut, 1.0),),
        delay_s: float = 0.0,
        shards: Mapping[str, bytes] | None = None,
    ) -> None:
        self.served = dict(served)
        self.requests: list[Request] = []
        self.script: deque[str] = deque()
        self.closed = False
        self._answer = answer
        self._delay_s = delay_s
        self._shards = dict(shards or {})

    @override
    async def describe(self, model: str) -> ServedModel:
        if model not in self.served:
            raise ModelError(f"the fake server serves no {model!r}; it has {', '.join(self.served)}")
        return self.served[model]

    @override
    async def infer(self, requests: Sequence[Request]) -> list[Answer]:
        return [await self._answered(request) for request in requests]

    async def _answered(self, request: Request) -> Answer:
        """A manifest that is not served is refused as stale."""
        self.requests.append(request)
        upset = self.script.popleft() if self.script else ""
        if upset == "vanish":
            raise ServerError("the fake server vanished, as its script says")
        if upset == "hang":
            await asyncio.Event().wait()
        if upset:
            return Refusal(request.id, upset, f"the script says {upset}", "fake")  # type: ignore[arg-type]
        await asyncio.sleep(self._delay_s)
        if request.manifest != self.served[request.model].manifest:
            return Refusal(request.id, "stale", "another manifest is served", "fake")
        spent_ms = self._delay_s * 1e3
        timings = Timings(0.0, 0.0, spent_ms, spent_ms, (1,))
        return Reply(request.id, timings, self._answer(request)[: request.top_k], server="fake")

    @override
    async def shard(self, sha256: str, offset: int, length: int) -> bytes:
        if sha256 not in self._shards:
            raise ShardError(f"the fake server has no shard {sha256[:12]}")
        return self._shards[sha256][offset : offset + length]

    @override
    async def close(self) -> None:
        self.closed = True
