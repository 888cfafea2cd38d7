"""The core's end: rows of all fronts into the engine, and their outcomes back, on the engine's thread.

There is no other thread and no task: the engine calls `collect` before each step, sleeps in `wait`, and hands over what
ended by `deliver`. A front's death is the end of its socket, which the system reports at once: its rows are cancelled,
and its memory goes when the last step that reads it has ended.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.engine.engine import Engine
from deployments.engine.intake import Intake
from deployments.engine.ledger import Outcome
from deployments.executors.base import Executor
from deployments.ipc import messages
from deployments.ipc.arena import MappedArena
from deployments.ipc.hosted_model import HostedModel
from deployments.ipc.row_registry import RowRegistry
from deployments.ipc.row_sink import RowBatch

logger = logging.getLogger("headtail.ipc")

_LISTENING = 64

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

#: What comes within so long after a look is found at the next one: a look costs as much as a tenth of a step.
LOOK_AGAIN_S = 5e-5


class _Front:
    """One connection; `Caller` of the registry."""

    def __init__(self, connection: socket.socket, intake: SocketIntake) -> None:
        self.socket = connection
        self.arena: MappedArena | None = None
        self.gone = False
        self.keys: dict[int, int] = {}
        self.answers: dict[int, npt.NDArray[np.uint8]] = {}  # by ticket, where what comes out of a row goes
        self.ended: list[tuple[Any, ...]] = []
        self.backlog: deque[bytes] = deque()
        self._intake = intake

    def told(self, ticket: int, outcome: Outcome) -> None:
        """Write what came out of a row where its front looks for it."""
        place = self.answers.pop(ticket)
        code, message, shape = outcome.code, messages.shortened(outcome.message), ()
        if outcome.logits is not None:
            shape, size = outcome.logits.shape, outcome.logits.nbytes
            if size <= len(place):
                place[:size].view(np.float32).reshape(shape)[...] = outcome.logits
            else:
                code, message = (
                    "failed",
                    f"the model's output of {size} bytes is more than the {len(place)} of its shape",
                )
        self.ended.append((ticket, code, message, outcome.queue_s, outcome.execution_s, outcome.rows_per_step, shape))

    def tell(self) -> None:
        """In one message, or as few as possible."""
        self._intake.tell(self)


class SocketIntake(Intake):
    """Fronts of this host, by a socket in a folder of its user's own.

    Args:
        path: of the socket, which must not be there yet.
        models: that are served.
        executor: the engine's, which is told of the fronts' memory.

    Raises:
        OSError: nothing can be bound there.
    """

    def __init__(self, path: Path, models: Sequence[HostedModel], executor: Executor) -> None:
        self._path, self._executor = path, executor
        self._shapes: Mapping[str, tuple[Mapping[int, tuple[int, ...]], int]] = {
            model.name: ({entry: model.shapes[entry] for entry in model.entries}, model.answer_bytes)
            for model in models
        }
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(_LISTENING)
        self._listener.setblocking(False)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._fronts: dict[int, _Front] = {}
        self._left: list[_Front] = []  # whose rows may still be in a step
        self._registry = RowRegistry()
        self._thread = 0
        self._events: list[tuple[int, int]] = []  # that `wait` has seen
        self._look_at_s = 0.0

    def serve(self, engine: Engine) -> None:
        """Where rows go; once, before the engine starts."""
        self._registry.engine = engine

    @property
    def fronts(self) -> int:
        """How many are connected. Any thread."""
        return len(self._fronts)

    # ------------------------------------------------------------------------------------------------- of the engine

    def ring(self) -> None:
        """Wake the engine's thread; it needs no waking by itself."""
        if threading.get_ident() != self._thread:
            os.eventfd_write(self._bell, 1)

    def wait(self, timeout_s: float | None) -> None:
        """Until a socket has something. With a time-out by `select`, since epoll sleeps whole milliseconds."""
        self._thread = threading.get_ident()
        if timeout_s is None:
            self._events = self._epoll.poll()
        else:
            select.select([self._epoll], [], [], timeout_s)
        self._look_at_s = 0.0

    def collect(self) -> None:
        """Read what came, if it has not been looked for just now: several turns of the engine may make one step."""
        now_s = time.monotonic()
        found, self._events = self._events, []
        if not found:
            if now_s < self._look_at_s:
                return
            self._thread = threading.get_ident()
            found = self._epoll.poll(0)
        self._look_at_s = now_s + LOOK_AGAIN_S
        for descriptor, events in found:
            front = self._fronts.get(descriptor)
            if front is not None:
                if events & select.EPOLLOUT:
                    self._send_backlog(front)
                if events & ~select.EPOLLOUT:
                    self._read(front)
            elif descriptor == self._bell:
                os.eventfd_read(self._bell)
            elif descriptor == self._listener.fileno():
                self._accept()

    def deliver(self, outcomes: list[Outcome]) -> None:
        """Tell the fronts of these, each in one message."""
        self._registry.deliver(outcomes)
        if self._left:
            self._release()

    def ended(self) -> None:
        """End the connections, so that fronts know."""
        for front in list(self._fronts.values()):
            self._send_backlog(front)
            self._leave(front)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._epoll.close()

    # ---------------------------------------------------------------------------------------------------- from fronts

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:  # the connection waits, and is not to wake the thread again and again
                self._epoll.modify(self._listener, 0)
            return  # else it has left already
        connection.setblocking(False)
        self._fronts[connection.fileno()] = _Front(connection, self)
        self._epoll.register(connection, select.EPOLLIN)

    def _read(self, front: _Front) -> None:
        """All its messages that are here."""
        while not front.gone:
            descriptors: list[int] = []
            try:
                if front.arena is None:
                    message, descriptors, _, _ = socket.recv_fds(front.socket, messages.MOST_BYTES, 1)
                else:
                    message = front.socket.recv(messages.MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._leave(front)
                return
            try:
                if front.arena is None:
                    self._greet(front, message, descriptors)
                else:
                    self._take(front, front.arena, message)
            except Exception:
                logger.exception("a front is disconnected: what it said is none of this release")
                self._leave(front)

    def _greet(self, front: _Front, message: bytes, descriptors: Sequence[int]) -> None:
        """Its first message; the descriptor is ours to close, whatever is wrong with it."""
        try:
            if (said := messages.unpack(message)) != [messages.HELLO, messages.VERSION] or not descriptors:
                raise ValueError(
                    f"message {said} with {len(descriptors)} descriptors; this core wants HELLO, an arena, and speaks "
                    f"version {messages.VERSION}"
                )
        except ValueError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        front.arena = MappedArena(descriptors[0])
        self._executor.pin(front.arena.memory)

    def _take(self, front: _Front, arena: MappedArena, message: bytes) -> None:
        kind, *parts = messages.unpack(message)
        if kind == messages.SUBMIT:
            self._submit(front, arena, *parts)
        elif kind == messages.CANCEL:
            for ticket in parts[0]:
                self._registry.cancel(front, ticket)
        else:
            raise ValueError(f"message {kind}")

    def _submit(
        self,
        front: _Front,
        arena: MappedArena,
        model: str,
        entry: int,
        dtype: str,
        first: int,
        rows_at: int,
        answers_at: int,
        arrivals_s: list[float],
        deadlines_s: list[float | None],
        keys: list[bytes],
        priorities: list[int],
    ) -> None:
        if dtype not in messages.TYPES:  # numpy would take bytes for objects, too
            raise ValueError(f"rows of type {dtype}")
        shapes, answer_bytes = self._shapes[model]
        count = len(arrivals_s)
        rows = arena.array(rows_at, (count, *shapes[entry]), dtype)
        answers = arena.array(answers_at, (count, answer_bytes), np.uint8)
        front.answers.update(zip(range(first, first + count), answers, strict=True))
        # A front sends only what is of this core's manifest.
        columns = rows, arrivals_s, deadlines_s, keys, priorities
        self._registry.submit(front, first, RowBatch(model, "", entry, *columns))

    def _leave(self, front: _Front) -> None:
        """It has gone: nobody waits for its rows."""
        if not front.gone:
            self._epoll.modify(self._listener, select.EPOLLIN)  # a descriptor is free
            del self._fronts[front.socket.fileno()]
            self._epoll.unregister(front.socket)
            front.socket.close()
            self._registry.leave(front)
            front.answers.clear()
            self._left.append(front)
            self._release()

    def _release(self) -> None:
        """The memory of fronts that have left, and of whose rows none is in the engine any more."""
        for front in [front for front in self._left if not front.keys]:
            self._left.remove(front)
            if front.arena is not None:
                try:
                    self._executor.unpin(front.arena.memory)
                except Exception:  # a lost accelerator, most often, which the next step tells; others are not to suffer
                    logger.exception("the memory of a front that has left stays page-locked")

    # ------------------------------------------------------------------------------------------------------ to fronts

    def tell(self, front: _Front) -> None:
        """What has ended since the last time."""
        ended, front.ended = front.ended, []
        for part in messages.in_parts(ended):
            self._send(front, messages.pack((messages.ENDED, len(self._registry), part)))

    def _send(self, front: _Front, message: bytes) -> None:
        """At once, or when its socket has room: the accelerator waits for no front."""
        if front.gone:
            return
        if not front.backlog:
            try:
                front.socket.send(message)
            except BlockingIOError:
                self._epoll.modify(front.socket, select.EPOLLIN | select.EPOLLOUT)
            except OSError:  # it has gone, or does not get what it must know
                self._leave(front)
                return
            else:
                return
        front.backlog.append(message)

    def _send_backlog(self, front: _Front) -> None:
        try:
            while front.backlog:
                front.socket.send(front.backlog[0])
                front.backlog.popleft()
            self._epoll.modify(front.socket, select.EPOLLIN)
        except BlockingIOError:
            return
        except OSError:
            front.backlog.clear()
            self._leave(front)
