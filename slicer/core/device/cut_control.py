"""Which cut and codec a device uses for the next image, and the moves between cuts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from ..codecs.transform.names import needs_tables
from ..common.clock import Clock
from ..errors import HeadTailError
from ..heads.head_runtime import HeadRuntime, PreparesCodecs
from ..network.server import Server
from ..planning.cut_planner import Choice, ModelFacts
from ..planning.online_planner import OnlinePlanner
from ..planning.probe import probe
from ..protocol.messages import ServedModel
from ..settings import TAIL, DeviceSettings
from .turn import Turn

logger = logging.getLogger("headtail.device")

#: What a description weighs upwards, and how often joining asks for it, to learn the link's round trip.
_JOIN_PINGS = 5


class CutControl:
    """One device's. Used on its event loop; probes and moves run in tasks of its own, beside the requests.

    Args:
        server: where probes go.
        turn: held while an image is at work.
        token: makes the ids of probes this device's own.

    Attributes:
        choice: the cut and codec of the next image.
        served: what the server described; None before `use`.
        planner: changes it, where the fleet file has a ``plan``.
    """

    def __init__(
        self, config: DeviceSettings, clock: Clock, server: Callable[[], Server], turn: Turn, token: str
    ) -> None:
        self._config, self._clock, self._server, self._turn, self._token = config, clock, server, turn, token
        self.choice = Choice(config.cut, config.codec)
        self.planner: OnlinePlanner | None = None
        self.served: ServedModel | None = None
        self._head: HeadRuntime | None = None
        self._moving: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None

    def use(self, served: ServedModel, head: HeadRuntime) -> None:
        """From now on with this head, at the configured cut."""
        self.served, self._head = served, head
        self.choice = Choice(self._config.cut, self._config.codec)

    async def begin(self) -> None:
        """A device with a plan learns its link and server, and chooses its first cut.

        Raises:
            ServerError: the server vanished meanwhile.
        """
        config, served = self._config, self.served
        if config.plan is None:
            return
        assert served is not None, "use() before begin()"
        facts, seed = ModelFacts.of(served, config.outputs), f"{config.seed}/{config.name}"
        if not isinstance(self._head, PreparesCodecs):  # such a runtime has no tables to encode by
            facts = replace(facts, codecs=tuple(codec for codec in facts.codecs if not needs_tables(codec)))
        planner = self.planner = OnlinePlanner(config.plan, facts, config.profile, self.choice, seed)
        for _ in range(_JOIN_PINGS):
            began_s = self._clock.now_s()
            await self._server().describe(config.model)
            planner.link.small(self._clock.now_s() - began_s)
        await self._probe(planner, planner.smallest())
        if config.outputs:
            await self._probe(planner, planner.smallest(), config.outputs)
        await self.move(planner.begin())

    async def _probe(self, planner: OnlinePlanner, choice: Choice | None, outputs: tuple[str, ...] = ()) -> None:
        if choice is not None and self.served is not None:
            name, token, clock = self._config.name, self._token, self._clock
            await probe(planner, choice, self.served, self._server(), clock, name=name, token=token, outputs=outputs)

    def reconsider(self, deadline_ms: float | None) -> None:
        """Let the planner decide, if it is time. Never waits: what follows from it happens beside the requests."""
        planner, now_s = self.planner, self._clock.now_s()
        if planner is None:
            return
        waiting, moves = self._turn.waiting, self._moving is not None and not self._moving.done()
        if planner.due(now_s, waiting) and not moves:
            choice = planner.reconsider(now_s, deadline_ms, waiting)
            if choice is not None:
                if self._head is not None and choice.cut <= self._head.loaded and not needs_tables(choice.codec):
                    self._turn_to(choice)  # from this image on
                self._moving = asyncio.create_task(self.move(choice))
        if (asked := planner.probe(now_s)) is not None:
            self._probing = asyncio.create_task(self._probe(planner, asked, self._config.outputs))

    async def move(self, choice: Choice) -> None:
        """Change cut and codec: missing slices and tables are loaded while requests go on with the present ones, and
        slices that are needed no more leave when the last image that began with them has ended."""
        head = self._head
        assert head is not None, "begin() before move()"
        try:
            if choice.cut > head.loaded:
                await head.extend(choice.cut)
            if needs_tables(choice.codec) and isinstance(head, PreparesCodecs):
                await head.prepare(choice)
            if self._head is not head:
                return  # other weights are served by now
        except HeadTailError as error:
            logger.warning("device %s stays at cut %d: %s", self._config.name, self.choice.cut, error)
            return
        self._turn_to(choice)
        if self._config.alone != TAIL and choice.cut < head.loaded:
            async with self._turn:  # after the image that is at work with the old cut
                await head.trim(choice.cut)

    def _turn_to(self, choice: Choice) -> None:
        self.choice = choice
        if self.planner is not None:
            self.planner.present = choice

    async def end(self) -> None:
        """The device closes: what runs beside the requests ends."""
        for task in (self._moving, self._probing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
