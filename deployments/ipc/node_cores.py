"""The front's end: rows to the cores of its node, and what became of them.

All of it belongs to the front's event loop. A core's death is the end of its socket: what was there is answered with a
refusal that a client may try again, at once, and a new core is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.engine.ledger import Outcome
from deployments.ipc import messages, queries, rendezvous
from deployments.ipc.arena import Arena, ArenaFull
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.row_sink import Deliver, RowBatch, RowSink

logger = logging.getLogger("headtail.ipc")

#: How often cores are looked for: while there is none, and while there is one.
LOOK_SOON_S, LOOK_S = 0.1, 1.0

#: Weight of the newest measurement in a smoothed time.
_NEWEST = 0.1

#: What a row that a core could not run does to its time: by how much it grows, from what, and up to what.
_WORSE, _AT_FIRST_S, _AT_MOST_S = 1.5, 0.1, 60.0

#: What a client is told while there is no core here. It may try again.
NO_CORE = "no accelerator serves here now; it may be starting again: try again soon"
CORE_ENDED = "the accelerator's process ended; try again"

#: Rows that were sent together: they live in the arena as long as this does.
_Sent = tuple[npt.NDArray[Any], npt.NDArray[np.uint8], int, int]


class _Core:
    """A connection to one core.

    Attributes:
        folder: of the core.
        facts: that it has published.
        models: that it serves, by name. `manifests`: their digests.
        rows: of this front in it, by ticket: their batch (rows, answers, first ticket, rows that were before it).
    """

    def __init__(self, folder: Path, connection: socket.socket) -> None:
        self.folder, self.socket = folder, connection
        self.facts = rendezvous.facts_of(folder)
        self.models = {model.name: model for model in map(HostedModel.from_facts, self.facts["models"])}
        self.manifests = {name: model.manifest.digest for name, model in self.models.items()}
        self.rows: dict[int, _Sent] = {}
        self.in_core = 0  # of all fronts, as it said last, and what was sent since
        self.row_s = 0.0  # smoothed: a row's time by rows that were there when it came
        self.backlog: deque[bytes] = deque()


class NodeCores(RowSink):
    """The cores of this node, as one place for rows.

    Args:
        place: where they are found (`rendezvous.meeting_place`).
        arena: for rows; this front's own.
        deliver: as `Deliver` says.
    """

    def __init__(self, place: Path, arena: Arena, deliver: Deliver) -> None:
        self._place, self._arena, self._deliver = place, arena, deliver
        self._cores: list[_Core] = []
        self._unusable: set[Path] = set()  # that were warned of
        self._ignored: set[Path] = set()  # that were not understood
        self._where: dict[int, _Core] = {}
        self._models: dict[str, HostedModel] = {}
        self._next = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look_at: asyncio.TimerHandle | None = None
        self._closed = False

    # -------------------------------------------------------------------------------------------------- who is there

    def look(self) -> None:
        """Look for cores now, and from now on again and again until `close`. On the event loop."""
        if self._closed:
            return
        self._loop = asyncio.get_running_loop()
        if self._look_at is not None:
            self._look_at.cancel()
        there = {core.folder for core in self._cores} | self._ignored
        for folder in rendezvous.published(self._place):
            if folder not in there:
                self._attach(folder)
        self._look_at = self._loop.call_later(LOOK_S if self._cores else LOOK_SOON_S, self.look)

    @property
    def models(self) -> Mapping[str, HostedModel]:
        """By name, of the cores that are here; of those that were here last, where none is."""
        if not self._cores:
            self.look()
        return self._models

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """Of one core; None: none is here."""
        return self._cores[0].facts if self._cores else None

    @property
    def cores(self) -> int:
        """How many are here."""
        return len(self._cores)

    @property
    def alive(self) -> bool:
        """A core may come at any time."""
        return True

    async def ask(self, name: str, *arguments: Any) -> list[Any]:
        """The answers of all cores here to a question; of one that ends meanwhile there is none."""
        answers = []
        for core in list(self._cores):
            with contextlib.suppress(OSError):
                answers.append(await queries.ask(core.folder / rendezvous.QUESTIONS, name, *arguments))
        return answers

    def close(self) -> None:
        """Leave; rows that are at work are dropped there and refused here. Calling it again is harmless."""
        self._closed = True
        if self._look_at is not None:
            self._look_at.cancel()
            self._look_at = None
        for core in list(self._cores):
            self._deliver(self._lost(core))
        self._arena.close()

    # ----------------------------------------------------------------------------------------------------------- rows

    def receiving(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Of the arena; ordinary memory where that is full, and what is there is refused later."""
        try:
            return self._arena.empty(shape)
        except ArenaFull:
            return np.empty(shape, np.float32)

    def submit(self, batch: RowBatch) -> list[int]:
        """To the core where the expected wait is least."""
        rows, first = batch.rows, self._next
        self._next += len(rows)
        tickets = range(first, self._next)
        core = self._best(batch.model, batch.manifest, batch.entry)
        if core is None:
            self._refuse(tickets, "stopped", NO_CORE)
            return list(tickets)
        try:
            if self._arena.offset_of(rows) is None:
                copy = self._arena.empty(rows.shape, rows.dtype)
                copy[...] = rows
                rows = copy
            answers = self._arena.empty((len(rows), core.models[batch.model].answer_bytes), np.uint8)
        except ArenaFull as error:
            self._refuse(tickets, "overloaded", f"{error} (ingress.shared_memory_bytes); try again later")
            return list(tickets)
        for start in range(0, len(rows), messages.MOST_ROWS):
            part = batch._replace(rows=rows).part(start, messages.MOST_ROWS)
            message = (
                messages.SUBMIT,
                batch.model,
                batch.entry,
                rows.dtype.str,
                first + start,
                self._arena.offset_of(part.rows),
                self._arena.offset_of(answers[start : start + messages.MOST_ROWS]),
                *part[4:],  # arrivals, deadlines, keys, priorities
            )
            self._send(core, messages.pack(message))
        sent = rows, answers, first, core.in_core
        core.rows.update((ticket, sent) for ticket in tickets)
        core.in_core += len(rows)
        self._where.update((ticket, core) for ticket in tickets)
        return list(tickets)

    def cancel(self, ticket: int) -> None:
        """Its memory is kept until the core has said so."""
        if (core := self._where.get(ticket)) is not None:
            self._send(core, messages.pack((messages.CANCEL, (ticket,))))

    def _best(self, model: str, manifest: str, entry: int) -> _Core | None:
        """Of those that serve these very weights there: while an application is replaced, two versions are here."""
        cores = [
            core
            for core in self._cores
            if core.manifests.get(model) == manifest and entry in core.models[model].entries
        ]
        if len(cores) < 2:
            return cores[0] if cores else None
        known = [core.row_s for core in cores if core.row_s]
        usual_s = sum(known) / len(known) / 2 if known else 1.0  # of one that has answered nothing yet, which is tried
        return min(cores, key=lambda core: (core.in_core + 1) * (core.row_s or usual_s))

    def _refuse(self, tickets: Sequence[int], code: Any, message: str) -> None:
        """A turn later, when their tickets are known."""
        outcomes = [Outcome(ticket, None, code, message) for ticket in tickets]
        asyncio.get_running_loop().call_soon(self._deliver, outcomes)

    # ------------------------------------------------------------------------------------------------------- the socket

    def _attach(self, folder: Path) -> None:
        """Connect to a core. Where nobody listens any more, what it left is removed; nothing else proves its end."""
        assert self._loop is not None, "look runs on it"
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:  # no descriptor is left: next time
            return
        connection.setblocking(False)
        try:
            connection.connect(str(folder / rendezvous.ROWS))
        except OSError as error:
            connection.close()
            if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
                rendezvous.forget(folder)
            return  # else its backlog of connections is full: next time
        try:
            core = _Core(folder, connection)
            socket.send_fds(connection, [messages.pack((messages.HELLO, messages.VERSION))], [self._arena.descriptor])
        except Exception:
            connection.close()
            if folder not in self._unusable:
                self._unusable.add(folder)
                logger.warning("the core in %s cannot be used", folder, exc_info=True)
            return
        self._cores.append(core)
        self._models = self._served()
        self._loop.add_reader(core.socket, self._read, core)
        logger.info("attached to the core in %s", folder)

    def _read(self, core: _Core) -> None:
        ended: list[Outcome] = []
        try:
            while True:
                message = core.socket.recv(messages.MOST_BYTES)
                if not message:
                    raise ConnectionResetError
                kind, core.in_core, rows = messages.unpack(message)
                if kind != messages.ENDED:
                    raise ValueError(f"message {kind} from the core in {core.folder}")
                ended.extend(self._outcome(core, *row) for row in rows)
        except BlockingIOError:
            pass
        except OSError:
            ended += self._lost(core)
        except Exception:
            logger.exception("the core in %s says what is none of this release", core.folder)
            ended += self._shunned(core)
        if ended:
            self._deliver(ended)

    def _outcome(
        self,
        core: _Core,
        ticket: int,
        code: Any,
        message: str,
        queue_s: float,
        execution_s: float,
        rows_per_step: Sequence[int],
        shape: Sequence[int],
    ) -> Outcome:
        _, answers, first, before = core.rows.pop(ticket)
        del self._where[ticket]
        logits = None
        if code is None:
            size = math.prod(shape) * 4
            logits = answers[ticket - first, :size].view(np.float32).reshape(shape)
            each_s = (queue_s + execution_s) / (before + 1)
            core.row_s = core.row_s + _NEWEST * (each_s - core.row_s) if core.row_s else each_s
        elif code in ("failed", "overloaded"):  # quickly, perhaps, and it is not to draw all rows by that
            core.row_s = min(core.row_s * _WORSE or _AT_FIRST_S, _AT_MOST_S)
        return Outcome(ticket, logits, code, message, queue_s, execution_s, tuple(rows_per_step))

    def _lost(self, core: _Core) -> list[Outcome]:
        """It has closed its end, and writes nothing any more; what becomes of its rows, whose memory is free now."""
        outcomes = self._without(core)
        assert self._loop is not None, "look runs on it"
        self._loop.remove_reader(core.socket)
        core.socket.close()
        core.rows.clear()
        return outcomes

    def _shunned(self, core: _Core) -> list[Outcome]:
        """It lives and is not understood; what becomes of its rows. Their memory is theirs until it has closed its end:
        until then it may write answers there."""
        outcomes = self._without(core)
        assert self._loop is not None, "look runs on it"
        self._ignored.add(core.folder)
        core.socket.shutdown(socket.SHUT_WR)
        self._loop.add_reader(core.socket, self._drain, core)  # in place of the other one; it holds the core's rows
        return outcomes

    def _drain(self, core: _Core) -> None:
        """Until its end is closed."""
        try:
            while core.socket.recv(messages.MOST_BYTES):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        assert self._loop is not None, "look runs on it"
        self._loop.remove_reader(core.socket)
        core.socket.close()
        core.rows.clear()

    def _without(self, core: _Core) -> list[Outcome]:
        """Its rows are refused, and no others go there. Cores are looked for soon."""
        assert self._loop is not None, "look runs on it"
        self._loop.remove_writer(core.socket)
        self._cores.remove(core)
        if self._cores:
            self._models = self._served()
        for ticket in core.rows:
            del self._where[ticket]
        if self._look_at is not None:
            self._look_at.cancel()
            self._look_at = self._loop.call_later(LOOK_SOON_S, self.look)
        return [Outcome(ticket, None, "stopped", CORE_ENDED) for ticket in core.rows]

    def _served(self) -> dict[str, HostedModel]:
        """By name; of several versions, that of the core that began to serve last."""
        cores = sorted(self._cores, key=lambda core: float(core.facts.get("since_s", 0.0)))
        return {name: model for core in cores for name, model in core.models.items()}

    def _send(self, core: _Core, message: bytes) -> None:
        """At once, or when its socket has room."""
        assert self._loop is not None, "look runs on it"
        if not core.backlog:
            try:
                core.socket.send(message)
            except BlockingIOError:
                self._loop.add_writer(core.socket, self._send_backlog, core)
            except OSError:
                self._end(core)
                return
            else:
                return
        core.backlog.append(message)

    def _send_backlog(self, core: _Core) -> None:
        assert self._loop is not None, "look runs on it"
        try:
            while core.backlog:
                core.socket.send(core.backlog[0])
                core.backlog.popleft()
            self._loop.remove_writer(core.socket)
        except BlockingIOError:
            return
        except OSError:
            core.backlog.clear()
            self._loop.remove_writer(core.socket)
            self._end(core)

    @staticmethod
    def _end(core: _Core) -> None:
        """It has gone, or does not get what it must know: it is told, and reading tells when it has closed."""
        with contextlib.suppress(OSError):
            core.socket.shutdown(socket.SHUT_WR)
