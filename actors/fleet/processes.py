"""What a run of a fleet needs of the processes that its devices live in; `ray_processes` has them in Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from slicer.errors import HeadTailError

Call = Any  # an answer that is on its way


class Gone(HeadTailError):
    """A device's process is not there any more, or its host."""


class Processes(Protocol):
    """The fleet's processes, by the name of the first device in each, their home."""

    def call(self, home: str, method: str, *args: Any) -> Call:
        """Call a method of `actors.fleet.device_actor.DeviceActor` there; returns at once."""

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Those that have an answer; returns when all have, or the time is over."""

    def answer(self, call: Call) -> Any:
        """The answer of a call that has one. Raises Gone, or what the device raised."""

    def make_again(self, home: str) -> bool:
        """Make the process of a missing home, on the host where it was. False: that host is not there (yet)."""

    def started(self, home: str, infos: Any) -> None:
        """What `start` said there, after `make_again`."""

    def host(self, home: str) -> str:
        """Address of its host; empty while nobody knows."""
