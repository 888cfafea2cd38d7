"""The link between a device and the server: what it costs a payload to cross it.

`DirectLink` adds nothing: the network under the transport is the link. Another link (`actors.network.emulated_link`,
or an own class, ``link: package.module:Class`` in the fleet file) is asked on every crossing and returns when the bytes
would have arrived, so that its time falls into a record's `network_ms`. An own link that emulates something says so in
`emulated`; the word then stands beside every figure that it had a part in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from actors.network.emulated_link import EmulatedLink
from slicer.common.plugins import load_object
from slicer.errors import ConfigError


@runtime_checkable
class Link(Protocol):
    """One device's way to the server and back.

    Each device has a link object of its own; all calls come from the device's event loop, and may overlap. A link that
    loses a request raises `slicer.errors.ServerError`, which the device treats like a vanished server: it tries again.
    One that changes over time, or draws, is a `ChangingLink` as well.

    An own link is any class with these members. A fleet file names it and its keyword arguments,
    ``{link: "boards:Radio", link_options: {kbyte_per_s: 250}}``:

    >>> import asyncio
    >>> from actors.network import Link
    >>> class Radio:
    ...     def __init__(self, kbyte_per_s):
    ...         self.emulated = f"radio, {kbyte_per_s} kB/s"
    ...         self._bytes_per_s = 1000 * kbyte_per_s
    ...     async def send(self, size_bytes):
    ...         await asyncio.sleep(size_bytes / self._bytes_per_s)
    ...     receive = send
    >>> radio = Radio(kbyte_per_s=250)
    >>> isinstance(radio, Link), radio.emulated
    (True, 'radio, 250 kB/s')
    >>> asyncio.run(radio.send(1000))  # returns 4 ms later
    """

    @property
    def emulated(self) -> str:
        """What of this link is emulated, in a few words; empty when nothing is."""

    async def send(self, size_bytes: int) -> None:
        """Return when so many bytes, sent now, have reached the server."""

    async def receive(self, size_bytes: int) -> None:
        """Return when so many bytes, sent by the server now, have reached the device."""


@runtime_checkable
class ChangingLink(Protocol):
    """A link that is told of the beginning of every run: it has this method as well."""

    def begin(self, seed: str) -> None:
        """A run begins: changes over time count from here, and what is random is drawn as in each run of this seed."""


class DirectLink:
    """Nothing emulated: the bytes are the transport's business alone."""

    emulated = ""

    async def send(self, size_bytes: int) -> None:
        """Return at once."""

    async def receive(self, size_bytes: int) -> None:
        """Return at once."""


def make_link(name: str, options: Mapping[str, Any]) -> Link:
    """``direct``, ``emulated``, or an own class ``package.module:Class``; `options` are its keyword arguments.

    Raises:
        ConfigError: the name is unknown, the class cannot be imported or made, or what it makes is no link.
    """
    if ":" not in name:
        if name == "emulated":
            return EmulatedLink(**options)
        if name != "direct":
            raise ConfigError(
                f"unknown link {name!r}; this build has: direct, emulated; an own link is package.module:Class"
            )
        if options:
            raise ConfigError(f"the direct link takes no options, but got {', '.join(sorted(options))}; remove them")
        return DirectLink()
    try:
        link = load_object(name, "link")(**options)
    except TypeError as error:
        raise ConfigError(f"link {name}: cannot be made with the options {dict(options)}: {error}") from error
    if not isinstance(link, Link):
        raise ConfigError(f"link {name}: a link has `emulated`, `async send(bytes)` and `async receive(bytes)`")
    return link
