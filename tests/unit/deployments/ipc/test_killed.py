"""Processes of core and fronts are killed at random: every request is answered, once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from deployments.testing.fakes import answer_of
from slicer.core.codecs import activations
from slicer.core.protocol import packet
from slicer.core.protocol.messages import RETRYABLE, Answer, Refusal, Request, ServedModel
from tests.ipc_processes import MODEL, SHAPE, SLICES
from tests.paths import ROOT

FRONTS = 3

#: Of a request until it is answered, of a start, and of what must be so at the end: a hang, or a row that is lost.
LIMIT_S = 60.0

#: What a core's death may take until the last row in it is refused.
REFUSED_S = 1.0

#: Clients, and their mean pause between two requests: some hundred a second in all.
CLIENTS, PAUSE_S = 40, 0.1

#: Requests that a client sends together, one of these numbers.
PARCELS = (1, 1, 1, 2, 4, 12)

#: A client that is refused or loses its connection sends again after 10 ms, then twice as much, up to this.
MOST_PAUSE_S = 0.2

#: Clients that leave in the middle and ask once more, and those that ask once more for what they have been answered.
LEAVES, TWICE = 0.03, 0.1


class Processes:
    """The supervisor of `tests.ipc_processes`, and what it and its processes say.

    Attributes:
        pids: of those that live, by name, since they were forked.
        ports: of the fronts that serve.
        serving: names of those that serve.
    """

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.ports: dict[str, int] = {}
        self.serving: set[str] = set()
        self._changed = asyncio.Condition()

    async def listen(self, stdout: asyncio.StreamReader) -> None:
        """Until it ends."""
        async for line in stdout:
            said = json.loads(line)
            async with self._changed:
                if (name := said.get("started")) is not None:
                    self.pids[name] = said["pid"]
                    self.serving.discard(name)
                    self.ports.pop(name, None)
                elif said["pid"] == self.pids.get(said["serves"]):
                    self.serving.add(said["serves"])
                    if "port" in said:
                        self.ports[said["serves"]] = said["port"]
                self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """What they have said makes it true."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), LIMIT_S)

    @property
    def all_serve(self) -> bool:
        """The core and each front."""
        return len(self.serving) == FRONTS + 1

    def kill(self, name: str) -> int:
        """By SIGKILL, if it lives. Returns its pid."""
        pid = self.pids[name]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid


@contextlib.asynccontextmanager
async def processes() -> AsyncIterator[Processes]:
    """They serve; in the end all of them are gone."""
    with tempfile.TemporaryDirectory(prefix="ht") as folder:
        place = Path(folder) / "place"
        place.mkdir(mode=0o700)
        supervisor = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.ipc_processes", str(place), str(Path(folder) / "shards"), str(FRONTS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert supervisor.stdout is not None and supervisor.stdin is not None
        made = Processes()
        listening = asyncio.ensure_future(made.listen(supervisor.stdout))
        try:
            await made.until(lambda: made.all_serve)
            yield made
        finally:
            supervisor.stdin.close()
            try:
                await asyncio.wait_for(supervisor.wait(), LIMIT_S)
            except asyncio.TimeoutError:
                supervisor.kill()
                await supervisor.wait()
                raise
            finally:
                await listening


@dataclass(eq=False)
class Attempt:
    """One sending of a parcel to one front."""

    ended_s: float | None = None


class Clients:
    """Send requests with known answers, each until it is answered, and keep the books."""

    def __init__(self, there: Processes, session: aiohttp.ClientSession, dice: random.Random) -> None:
        self._there, self._session, self._dice = there, session, dice
        self._manifest = ""
        self._next = 0
        self.flying: set[Attempt] = set()
        self.sent = 0
        self.answered = 0
        self.refused: Counter[str] = Counter()
        self.wrong: list[tuple[Any, Any]] = []
        self.sent_again: Counter[str] = Counter()
        self._progress = asyncio.Condition()

    async def join(self) -> None:
        """Ask what is served."""
        port = self._there.ports["front 0"]
        async with self._session.get(f"http://127.0.0.1:{port}/describe?model={MODEL}") as response:
            described: ServedModel = packet.decode_model(await response.json())
        self._manifest = described.manifest

    async def work(self, enough: asyncio.Event) -> None:
        """As one client, until it is enough."""
        while not enough.is_set():
            cuts = [self._dice.randrange(SLICES) for _ in range(self._dice.choice(PARCELS))]
            requests = [self._request(self._next + place, cut) for place, cut in enumerate(cuts)]
            wants = [
                np.array(answer_of(self._next + place, cut, SLICES), "<f4").tobytes() for place, cut in enumerate(cuts)
            ]
            self._next += len(cuts)
            self.sent += len(cuts)
            first = await asyncio.wait_for(self._ask(requests), LIMIT_S)
            if self._dice.random() < TWICE:
                second = await asyncio.wait_for(self._ask(requests), LIMIT_S)
                if second != first:
                    self.wrong.append((first, second))
            if first != wants:
                self.wrong.append((first, wants))
            async with self._progress:
                self.answered += len([answer for answer in first if answer is not None])
                self._progress.notify_all()
            with contextlib.suppress(asyncio.TimeoutError):  # a pause, unless it is enough
                await asyncio.wait_for(enough.wait(), self._dice.expovariate(1 / PAUSE_S))

    async def until_answered(self, count: int) -> None:
        """So many requests have been answered."""
        async with self._progress:
            await asyncio.wait_for(self._progress.wait_for(lambda: self.answered >= count), LIMIT_S)

    def _request(self, number: int, cut: int) -> Request:
        row = np.zeros(SHAPE, np.float32)
        row.reshape(-1)[0] = number
        payload = activations.encode("fp32", row)
        return Request(f"r{number}", MODEL, self._manifest, cut, "fp32", SHAPE, payload, key=f"r{number}")

    async def _ask(self, requests: Sequence[Request]) -> list[bytes | None]:
        """Send a parcel, and again what of it has no answer, until all have; None: refused for good."""
        ended: dict[str, bytes | None] = {}
        waiting = {request.id: request for request in requests}
        pause_s = 0.01
        while True:
            attempt = Attempt()
            self.flying.add(attempt)
            try:
                answers = await self._attempt(list(waiting.values()))
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                self.sent_again[type(error).__name__] += 1
                answers = []
            finally:
                attempt.ended_s = time.monotonic()
                self.flying.discard(attempt)
            for answer in answers:
                if not isinstance(answer, Refusal):
                    ended[answer.id] = answer.logits
                elif answer.code in RETRYABLE:
                    self.sent_again[answer.code] += 1
                else:
                    self.refused[answer.code] += 1
                    ended[answer.id] = None
            waiting = {name: one for name, one in waiting.items() if name not in ended}
            if not waiting:
                return [ended[request.id] for request in requests]
            await asyncio.sleep(self._dice.uniform(0.5, 1.0) * pause_s)  # of a client that was refused
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    async def _attempt(self, requests: Sequence[Request]) -> list[Answer]:
        port = self._dice.choice(sorted(self._there.ports.values()) or [1])
        leaves_s = self._dice.uniform(0.0, 0.01) if self._dice.random() < LEAVES else LIMIT_S
        post = self._session.post(
            f"http://127.0.0.1:{port}/infer",
            data=packet.encode_requests(requests),
            timeout=aiohttp.ClientTimeout(total=leaves_s),
        )
        async with post as response:
            body = await response.read()
            assert response.status == 200, body
        answers = packet.decode_answers(body)
        assert [answer.id for answer in answers] == [request.id for request in requests]
        return answers


#: How processes die, again and again: one of them, the core and a front at once, the core and the new one that starts.
DEATHS = ("core", "front", "core", "front", "core and front", "core twice")


async def play(kills: int, seed: int) -> None:
    dice = random.Random(seed)
    async with processes() as there, aiohttp.ClientSession() as session:
        clients = Clients(there, session, dice)
        await clients.join()
        enough = asyncio.Event()
        working = [asyncio.ensure_future(clients.work(enough)) for _ in range(CLIENTS)]
        of_dead: list[tuple[float, set[Attempt]]] = []  # when a core was killed, and what was in the air then
        deaths = [DEATHS[number % len(DEATHS)] for number in range(kills)]
        dice.shuffle(deaths)

        async def killing() -> None:
            for death in deaths:
                await clients.until_answered(clients.answered + dice.randrange(100, 800))
                if "front" in death:
                    there.kill(f"front {dice.randrange(FRONTS)}")
                if "core" in death:
                    of_dead.append((time.monotonic(), set(clients.flying)))
                    dead = there.kill("core")
                    if death == "core twice":
                        await there.until(lambda dead=dead: there.pids["core"] != dead)  # type: ignore[misc]
                        there.kill("core")
            await there.until(lambda: there.all_serve)
            await clients.until_answered(clients.answered + 100)
            enough.set()

        killer = asyncio.ensure_future(killing())
        await asyncio.wait({*working, killer}, return_when=asyncio.FIRST_EXCEPTION)
        enough.set()
        await asyncio.gather(killer, *working)

        assert clients.refused == {}, "each of them is a good request"
        assert clients.wrong == []
        assert clients.sent == clients.answered
        now_s = time.monotonic()
        late_s = [(attempt.ended_s or now_s) - killed_s for killed_s, flying in of_dead for attempt in flying]
        print(
            f"{clients.sent} sent, {clients.answered} answered, {kills} deaths; sent again for "
            f"{dict(clients.sent_again)}; the last to hear of a core's death after {max(late_s):.3f} s"
        )
        assert len(of_dead) == sum("core" in death for death in deaths)
        assert max(late_s) < REFUSED_S
        assert clients.sent_again["stopped"] > 0, "no core died with a row in it"
        await nothing_left(session, list(there.ports.values()))


async def nothing_left(session: aiohttp.ClientSession, ports: Sequence[int]) -> None:
    """No row in the core, nothing in the fronts' shared memory. An engine lets go what was cancelled in due time."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        left = []
        for port in ports:  # a front that nobody has asked yet has not looked for a core, either
            async with session.get(f"http://127.0.0.1:{port}/status") as response:
                status = await response.json(content_type=None)
            left.append((status["front"]["shared_memory_bytes"], sum(status["waiting"].values()), status["fronts"]))
        if left[-1] == (0, 0, FRONTS) and all(one[:2] == (0, 0) for one in left):
            return
        assert time.monotonic() < deadline_s, left
        await asyncio.sleep(0.01)


@pytest.mark.timeout(180)
def test_requests_survive_the_death_of_their_processes() -> None:
    asyncio.run(play(kills=6, seed=1))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
def test_requests_survive_many_deaths(seed: int) -> None:
    asyncio.run(play(kills=120, seed=seed))
