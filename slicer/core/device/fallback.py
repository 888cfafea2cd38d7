"""How a device finishes a request without its server, and how long that takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator

from ..heads.head_runtime import Computed, HeadRuntime
from ..images.source import ImageSource
from ..planning.cut_planner import Choice
from ..settings import TAIL, DeviceSettings


class Fallback:
    """The rest of the same model, or a smaller model, as the fleet file's `alone` says. Used on one event loop.

    Attributes:
        small: the other model's head, where there is one.
        notes: why the device cannot go on alone although it should.
    """

    def __init__(self, config: DeviceSettings) -> None:
        self._config = config
        self._head: HeadRuntime | None = None
        self.small: HeadRuntime | None = None
        self.notes: list[str] = []
        self._took_ms: dict[int, float] = {}
        self._waiting = 0

    def use(self, head: HeadRuntime) -> None:
        """Go on with what this is the beginning of, from now on."""
        self._head = head

    async def prepare(self, load: Callable[[str], Awaitable[HeadRuntime]]) -> None:
        """Load the other model by its name, where there is to be one. Raises as `load`."""
        alone, config, head = self._config.alone, self._config, self._head
        assert head is not None, "use() before prepare()"
        if alone == TAIL and head.loaded < head.num_slices:
            self.notes.append(f"{config.name} cannot go on alone: {config.model} does not fit its memory budget")
        elif alone and alone != TAIL:
            before = self.small
            self.small = await load(alone)
            if before is not None:
                before.close()
            if config.profile.kind == "native":
                await self.small.rehearse()

    @property
    def model(self) -> str:
        """The model that the device can finish a request with by itself; empty if none."""
        head, config = self._head, self._config
        if self.small is not None:
            return config.alone
        return config.model if config.alone and head is not None and head.loaded == head.num_slices else ""

    async def finish(self, computed: Computed, image: ImageSource) -> Computed:
        """The rest of a request; ask `model` first. Called for one image at a time. Raises as `HeadRuntime.compute`."""
        small, head = self.small, self._head
        if small is not None:
            return await small.compute(image, Choice(small.num_slices, "fp32"))
        assert head is not None and self.model, "ask `model` first"
        if computed.manifest != head.manifest:  # the head was reloaded since
            return await head.compute(image, Choice(head.num_slices, "fp32"))
        return await head.finish(computed, image)

    def expected_ms(self, cut: int) -> float:
        """What finishing takes after so many slices, those that wait for it included: as it took lately; before that,
        as the profile or a rehearsal says."""
        profiled = tuple(spread.mean_ms for spread in self._config.profile.slices_ms)
        measured = () if self._head is None else self._head.slices_ms
        known_ms = (self.small.slices_ms if self.small is not None else ()) or profiled or measured
        first = 0 if self.small is not None else cut
        return self._took_ms.get(cut, sum(known_ms[first:])) * (1 + self._waiting)

    @contextlib.contextmanager
    def in_line(self) -> Iterator[None]:
        """An image waits to be finished here, or is: those after it wait for it."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def took(self, cut: int, took_ms: float) -> None:
        """Finishing took so long."""
        self._took_ms[cut] = took_ms + 0.8 * (self._took_ms.get(cut, took_ms) - took_ms)

    def close(self) -> None:
        """Let the other model's thread go."""
        if self.small is not None:
            self.small.close()
