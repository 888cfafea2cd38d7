"""What one device is told, as data: what the device core reads of it.

A fleet file's device has all of it and more (`actors.device.config`); a device on its own has an object of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

from typing_extensions import Self

from .planning.settings import DeviceTimes, PlanSettings

#: Of `alone`: the same model's own tail.
TAIL = "tail"


class RetrySettings(Protocol):
    """When a request is sent again: the server vanished, or refused with a code that a pause may cure.

    Each pause is drawn from half to one and a half of its length, so that a fleet does not come back all at once.

    Attributes:
        attempts: most sendings of one request to a server that is overloaded; one that vanished is waited for.
        first_pause_s: before the second sending; doubles each time up to `max_pause_s`. While the server is away these
            are the device's pauses, for all its requests together.
        max_pause_s: the longest pause.
        budget_s: from the first sending to giving up, all attempts and their queueing together.
    """

    attempts: int = 5
    first_pause_s: float = 0.05
    max_pause_s: float = 2.0
    budget_s: float = 60.0


def pause_s(retry: RetrySettings, attempt: int) -> float:
    """The pause after attempt 1, 2, ..., before its jitter."""
    return min(retry.first_pause_s * 2.0 ** (attempt - 1), retry.max_pause_s)


class DeviceProfile(DeviceTimes, Protocol):
    """A device's times, and whether they are its own."""

    @property
    def name(self) -> str:
        """Stands in messages."""

    def check_model(self, model: str, num_slices: int, architecture: str = "") -> None:
        """Raise ConfigError unless the times are of such a model."""

    @property
    def kind(self) -> str:
        """``native``: it takes the time it takes; ``emulated``: it waits until the profile's times have passed."""


class DeviceSettings(Protocol):
    """What one device is told.

    Attributes:
        name, group: stand in its records. model: which of the server's.
        cut: how many slices the device runs; 0: the image goes to the server; n: nothing does.
        codec: of the activation on the wire.
        alone: what it answers with when the server does not: ``tail``, another model of the server's, or nothing.
        seed: of all that is drawn.
        outputs: of the model, that it asks for whole; empty: classes.
    """

    name: str
    group: str
    model: str
    cut: int
    codec: str
    alone: str
    seed: int
    outputs: tuple[str, ...]

    @property
    def plan(self) -> PlanSettings | None:
        """How it chooses cut and codec itself; None: it keeps those given."""

    @property
    def retry(self) -> RetrySettings:
        """When a request is sent again."""

    @property
    def profile(self) -> DeviceProfile:
        """Its times."""

    def changed(self, **changes: Any) -> Self:
        """The same, with other values of these attributes."""
