"""One request on its way: image -> head -> encode -> server -> answer, with everything that can go wrong.

A device that can go on alone finishes a request by itself when the server is gone, refuses, or would be too late for
the deadline; its record says so (`alone`). While the server is away nothing waits for it; a copy of the request that
failed is sent now and then, to find out whether it is back. A device that cannot go on alone keeps its requests until
then.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from ..common.clock import Clock
from ..common.top_k import top_k
from ..errors import ServerError
from ..heads.head_runtime import Computed
from ..images.source import ImageSource
from ..network.server import ENVELOPE_BYTES, Server
from ..planning.cut_planner import Choice
from ..protocol.messages import RETRYABLE, Answer, Refusal, Reply, Request, answer_bytes
from ..protocol.outputs import Outputs
from ..records.record import Record, RequestOutcome
from ..settings import DeviceSettings
from .answer import RequestOptions, TopK, chosen, classes_of, outputs_of
from .cut_control import CutControl
from .fallback import Fallback
from .health.recovery_probe import ALONE_CODES
from .health.server_health import ServerHealth
from .turn import Turn

#: What finishing alone may take longer than it took on average, of which a deadline keeps clear.
_SLOWER = 1.3
_SLACK_MS = 3.0

#: Without a deadline such a device waits for so many times what answers took lately, and at least so long.
_PATIENCE = 5.0
_LEAST_PATIENCE_MS = 250.0

#: A device that cannot go on alone takes a server for gone that says nothing for so long, and for as many answers.
_SILENCE_MS = 2000.0


class NoTime(ServerError):
    """The deadline leaves no time to ask the server; this says nothing of the server."""


class TooOld(Exception):
    """The image passed its age limit while it waited for the server; it is not sent any more."""


class Requester(Protocol):
    """What a request needs of its device; `actors.device.device.Device` says what each is."""

    clock: Clock
    server: Server
    turn: Turn
    token: str
    cut: CutControl
    fallback: Fallback
    health: ServerHealth

    @property
    def config(self) -> DeviceSettings:
        """What it is told."""

    async def compute(self, image: ImageSource, choice: Choice) -> Computed:
        """The head, over one image."""

    async def finish(self, computed: Computed, image: ImageSource) -> Computed:
        """The rest, here."""

    async def reload(self, stale: str) -> None:
        """Replace the head of that manifest."""

    def received(self, record: Record, outputs: Outputs) -> None:
        """Told the outputs of an answer."""

    def closed(self, record: Record) -> None:
        """Told once the record has its outcome."""


class PendingRequest:
    """One request; made by `Device.answer`, on its event loop. All its sendings have the same `key`, and no other's."""

    def __init__(
        self, device: Requester, image: ImageSource, record: Record, key: str, began_s: float, ask: RequestOptions
    ) -> None:
        self._device = device
        self._config = device.config
        self._image = image
        self._record = record
        self._key = key
        self._ask = ask
        self._time = device.clock.now_s
        self._began_s = began_s

    def now_s(self) -> float:
        """Seconds since the start of the run."""
        return self._time() - self._began_s

    def age_ms(self) -> float:
        """Since the intended capture."""
        return (self.now_s() - self._record.scheduled_s) * 1e3

    def close(self, outcome: RequestOutcome, code: str = "", message: str = "") -> None:
        """The request has ended."""
        self._record.close(outcome, code, message, self.now_s())
        self._device.closed(self._record)

    async def run(self) -> TopK:
        """From the image to the closed record. Raises HeadTailError, which `Device.answer` makes a record of."""
        device, may_reload = self._device, True
        if device.cut.planner is not None:
            device.cut.planner.arrived(self._time())
        while True:
            computed = await self._compute()
            if computed is None:
                return ()
            if computed.logits is not None:
                device.cut.reconsider(self._ask.deadline_ms)
                return self._finish_here(computed)
            if device.fallback.model and not device.health.breaker.closed:
                return await self._alone(computed, "the server is away")
            try:
                answer = await (self._once(computed) if device.fallback.model else self._exchange(computed))
            except NoTime as error:
                return await self._alone(computed, str(error))
            except TooOld:
                self._drop(" when the server could be asked")
                return ()
            except ServerError as error:
                if not device.fallback.model:
                    raise
                self._gone(computed)
                return await self._alone(computed, str(error))
            if isinstance(answer, Reply):
                return self._accept(answer)
            if answer.code == "stale" and may_reload:
                # The activation is of the old weights, so it is made again, with the head that the server wants.
                await device.reload(computed.manifest)
                may_reload = False
                continue
            if device.fallback.model and answer.code in ALONE_CODES:
                self._gone(computed)
                return await self._alone(computed, f"{answer.code}: {answer.message}")
            self.close("refused", answer.code, answer.message)
            return ()

    async def _compute(self) -> Computed | None:
        record, limit_ms, device = self._record, self._ask.max_age_ms, self._device
        async with device.turn:
            first = record.started_s is None
            if first:
                record.started_s = self.now_s()
                record.wait_ms = self.age_ms()
                if limit_ms is not None and record.wait_ms > limit_ms:
                    self._drop()
                    return None
                device.cut.reconsider(self._ask.deadline_ms)  # an answer may be overdue
            choice = device.cut.choice
            computed = await device.compute(self._image, choice)
        record.cut, record.codec = choice.cut, choice.codec
        record.head_ms = (record.head_ms or 0.0) + computed.head_ms
        record.encode_ms = (record.encode_ms or 0.0) + computed.encode_ms
        record.overrun = record.overrun or computed.overrun
        record.payload_bytes = len(computed.payload)
        if (planner := device.cut.planner) is not None:
            planner.computed(computed.prepare_ms, computed.slices_ms)
            if computed.logits is None:
                planner.encoded(choice, computed.encode_ms, len(computed.payload))
        return computed

    def _drop(self, when: str = "") -> None:
        self.close("dropped", "stale_image", f"{self.age_ms():.0f} ms old{when}, limit {self._ask.max_age_ms:g} ms")

    async def _once(self, computed: Computed) -> Reply | Refusal:
        """Send once, and wait no longer than leaves the device the time to be in time by itself. Raises as `_send`, and
        NoTime."""
        until_s = min(self._time() + self._config.retry.budget_s, self._until_alone_s(computed))
        self._record.attempts += 1
        return await self._send(computed, until_s)

    async def _exchange(self, computed: Computed) -> Reply | Refusal:
        """Send until there is an answer that another attempt would not change, within the budget.

        Raises:
            ServerError: no answer within the budget.
            TooOld: it had to wait, and passed its age limit before it could be sent, or sent again.
        """
        device, retry, record, refused = self._device, self._config.retry, self._record, 0
        until_s = self._time() + retry.budget_s
        while True:
            waits = record.attempts > 0 or not device.health.breaker.closed
            try:
                async with device.health.backlog.passage(until_s, self._patience_s()) as probe:
                    if waits and self._too_old():
                        raise TooOld
                    record.attempts += 1
                    try:
                        limit_s = min(until_s, self._time() + self._patience_s()) if probe else until_s
                        answer = await self._send(computed, limit_s)
                    except ServerError:
                        device.health.backlog.failed(probe=probe)
                        if self._time() >= until_s:
                            raise
                        continue
                    if isinstance(answer, Refusal) and answer.code == "stopped":
                        device.health.backlog.failed(probe=probe)
                        continue
                    device.health.backlog.answered()
            except ServerError as error:
                raise ServerError(f"{error} (gave up after {record.attempts} attempts)") from error
            if isinstance(answer, Reply) or answer.code not in RETRYABLE:
                return answer
            refused += 1
            pause_s = device.health.pause_s(refused)
            if refused == retry.attempts or self._time() + pause_s >= until_s:
                return answer
            await asyncio.sleep(pause_s)

    def _too_old(self) -> bool:
        limit_ms = self._ask.max_age_ms
        return self._ask.fresh_only and limit_ms is not None and self.age_ms() > limit_ms

    def _patience_s(self) -> float:
        return max(_PATIENCE * self._device.health.served_ms, _SILENCE_MS) / 1e3

    def _gone(self, computed: Computed) -> None:
        """The server failed a device that can go on alone, which leaves it alone and looks out for it from now on."""
        device, patience_s = self._device, self._fresh_patience_s(computed)
        device.health.breaker.failed(self._time())
        request = self._request(computed, wants_load=False)
        # Without a key: it is to find out what the server can do now, not what it once answered.
        request = replace(request, id=f"{request.id}/probe", key="", deadline_ms=patience_s * 1e3)
        device.health.recovery.begin(device.server.infer, request, patience_s)

    def _fresh_patience_s(self, computed: Computed) -> float:
        """How long a new image would wait for the server."""
        alone_ms = self._device.fallback.expected_ms(computed.cut)
        if self._ask.deadline_ms is None:
            return max(_PATIENCE * self._device.health.served_ms, 2 * alone_ms, _LEAST_PATIENCE_MS) / 1e3
        left_ms = self._ask.deadline_ms - computed.head_ms - computed.encode_ms - _SLOWER * alone_ms - _SLACK_MS
        return max(left_ms, _SLACK_MS) / 1e3

    def _until_alone_s(self, computed: Computed) -> float:
        """How long a device that can go on alone waits for the server. Raises NoTime: not at all."""
        now_s = self._time()
        if self._ask.deadline_ms is None:
            return now_s + self._fresh_patience_s(computed)
        left_ms = (
            self._ask.deadline_ms
            - self.age_ms()
            - _SLOWER * self._device.fallback.expected_ms(computed.cut)
            - _SLACK_MS
        )
        if left_ms <= 0:
            raise NoTime(f"{left_ms:.0f} ms are left for the server")
        return now_s + left_ms / 1e3

    async def _send(self, computed: Computed, until_s: float) -> Answer:
        """One sending. Raises ServerError: the server vanished, or did not answer until then."""
        device, sent_s = self._device, self._time()
        planner = device.cut.planner
        request = self._request(computed, wants_load=planner is not None and planner.asks_load(sent_s))
        sent = None
        if planner is not None:
            sent = planner.link.sent(sent_s, len(request.payload) + ENVELOPE_BYTES, planner.answer_bytes)
        try:
            [answer] = await asyncio.wait_for(device.server.infer([request]), until_s - sent_s)
        except asyncio.TimeoutError:
            if planner is not None and sent is not None:
                planner.link.given_up(sent, self._time())
            if device.fallback.model:
                raise ServerError(f"no answer within {(until_s - sent_s) * 1e3:.0f} ms") from None
            raise ServerError(
                f"no answer within {self._config.retry.budget_s:g} s (retry.budget_s); the server is overloaded or gone"
            ) from None
        if isinstance(answer, Reply):
            timings = answer.timings
            device.health.served((self._time() - sent_s) * 1e3)
            self._record.network_ms = max((self._time() - sent_s) * 1e3 - timings.total_ms, 0.0)
            if planner is not None and sent is not None:
                planner.link.answered(sent, self._time(), timings.total_ms / 1e3)
                planner.served(computed.cut, timings.admission_ms + timings.queue_ms, timings.execution_ms, answer.load)
        return answer

    def _request(self, computed: Computed, *, wants_load: bool) -> Request:
        deadline_ms = self._ask.deadline_ms
        return Request(
            id=f"{self._record.id}@{self._device.token}",
            model=self._config.model,
            manifest=computed.manifest,
            cut=computed.cut,
            codec=computed.codec,
            shape=tuple(computed.shape),
            payload=computed.payload,
            top_k=self._ask.top_k,
            deadline_ms=None if deadline_ms is None else deadline_ms - self.age_ms(),
            wants_load=wants_load,
            key=self._key,
            outputs=self._ask.outputs,
        )

    async def _alone(self, computed: Computed, why: str) -> TopK:
        """The device finishes by itself."""
        device, record = self._device, self._record
        with device.fallback.in_line():
            async with device.turn:
                began_s = self._time()
                finished = await device.finish(computed, self._image)
                device.fallback.took(computed.cut, (self._time() - began_s) * 1e3)
        record.head_ms = (record.head_ms or 0.0) + finished.head_ms
        record.overrun = record.overrun or finished.overrun
        record.alone, record.message = device.fallback.model, why
        return self._finish_here(finished)

    def _accept(self, reply: Reply) -> TopK:
        timings = reply.timings
        self._record.admission_ms = timings.admission_ms
        self._record.queue_ms = timings.queue_ms
        self._record.execution_ms = timings.execution_ms
        self._record.rows_per_step = tuple(timings.rows_per_step)
        self._record.answer_bytes = answer_bytes(reply)
        self._device.health.breaker.answered()
        self._device.cut.reconsider(self._ask.deadline_ms)
        if self._ask.outputs:
            return self._finish_with(outputs_of(reply, self._ask.outputs))
        return self._finish(reply.top_k)

    def _finish_here(self, computed: Computed) -> TopK:
        """All slices have run on the device."""
        assert computed.logits is not None, "all slices have run"
        if self._ask.outputs:
            return self._finish_with(chosen(computed.outputs, self._ask.outputs, self._config.name))
        return self._finish(top_k(computed.logits, self._ask.top_k))

    def _finish_with(self, outputs: Outputs) -> TopK:
        self._device.received(self._record, outputs)
        return self._finish(classes_of(outputs, self._ask.top_k))

    def _finish(self, best: TopK) -> TopK:
        self._record.top1 = best[0][0] if best else None
        message = self._record.message
        self.close("answered", message=message)
        return best
