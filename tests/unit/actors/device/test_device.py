"""What one device promises: every request ends in its record, once, whatever image, head and server do.

Times are virtual: the fake head takes exactly HEAD_S, the fake server exactly SERVER_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.device.config import DeviceConfig, Retry
from actors.device.device import Device
from actors.network.client import ENVELOPE_BYTES, LinkedServer
from actors.testing.fake_server import FakeServer
from slicer.core.common.clock import Clock
from slicer.core.device.answer import RequestOptions
from slicer.core.device.device_run import DeviceRun, lost_run
from slicer.core.heads.head_runtime import Computed
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import PAIR_BYTES, ServedModel
from slicer.core.records.assignment import Assignment, Capture, Closed
from slicer.core.records.record import Record
from slicer.errors import CodecError, ConfigError, CutError, ImageError, ShardError
from slicer.profiles.device_profile import NATIVE, Profile
from tests.unit import virtual_time

HEAD_S = 0.010
SERVER_S = 0.030
LOAD_S = 0.200
SERVED = ServedModel("m", "digest-1", "{}", 4, (0, 1, 2, 3), "per_tail", ("fp32", "fp16"))
RETRY = Retry(attempts=3, first_pause_s=0.1, max_pause_s=1.0, budget_s=5.0)


class FakeHead:
    """Stands for `slicer.core.heads.head.Head`: what it computes is the digest that it was loaded for."""

    def __init__(self, served: ServedModel, config: DeviceConfig) -> None:
        self.manifest = served.manifest
        self.num_slices = served.num_slices
        self.loaded = served.num_slices if config.alone else config.cut
        self.size_bytes = 77

    def reseed(self, seed: str) -> None:
        self.seed = seed

    def extend(self, slices: list[Any]) -> None:
        self.loaded += len(slices)

    def rehearse(self) -> list[float]:
        return [HEAD_S * 1e3 / 2] * self.num_slices

    def trim(self, count: int) -> None:
        self.loaded = min(self.loaded, count)

    def compute(self, image: str, choice: Choice) -> Computed:
        assert choice.cut <= self.loaded, "slices that are not there cannot run"
        if image == "damaged.png":
            raise ImageError("image damaged.png cannot be read")
        if image == "nan.png":
            raise CodecError("the activation holds NaN or infinity")
        if image == "bug.png":
            raise RuntimeError("a bug")
        whole = choice.cut == self.num_slices
        logits = np.array([0.1, 0.9, 0.5], np.float32) if whole else None
        payload = b"" if whole else self.manifest.encode()
        return Computed(self.manifest, (3,), payload, logits, HEAD_S * 1e3, 0.5, cut=choice.cut, codec=choice.codec)

    def finish(self, computed: Computed, image: str) -> Computed:
        return self.compute(image, Choice(self.num_slices, "fp32"))


class FakeRuntime(FakeHead):
    """`HeadRuntime` by the fake head, on the loop, in no time."""

    slices_ms: Sequence[float] = ()

    async def compute(self, image: str, choice: Choice) -> Computed:  # type: ignore[override]
        return super().compute(image, choice)

    async def finish(self, computed: Computed, image: str) -> Computed:  # type: ignore[override]
        return super().compute(image, Choice(self.num_slices, "fp32"))

    async def extend(self, count: int) -> None:  # type: ignore[override]
        await asyncio.sleep(LOAD_S)
        super().extend([None] * (count - self.loaded))

    async def trim(self, count: int) -> None:  # type: ignore[override]
        super().trim(count)

    async def rehearse(self) -> None:  # type: ignore[override]
        self.slices_ms = super().rehearse()

    def close(self) -> None:
        """There is no thread."""


async def load_fake(served: ServedModel, config: DeviceConfig, get: object) -> Any:
    return FakeRuntime(served, config)


class VirtualDevice(Device):
    """Lets virtual time pass instead of a thread's."""

    heads_at_once = 0
    starts = 0

    async def start(self) -> None:
        self.starts += 1
        await super().start()

    async def finish(self, computed: Computed, image: str) -> Computed:
        await asyncio.sleep(HEAD_S)
        return await super().finish(computed, image)

    async def compute(self, image: str, choice: Choice) -> Computed:
        self.heads_at_once += 1
        assert self.heads_at_once == 1, "two heads ran at once on one device"
        await asyncio.sleep(HEAD_S)
        self.heads_at_once -= 1
        return await super().compute(image, choice)


def config(**changes: Any) -> DeviceConfig:
    fields: dict[str, Any] = {
        "name": "cam-0",
        "group": "cam",
        "model": "m",
        "cut": 2,
        "profile": NATIVE,
        "cache_directory": "unused",
        "cache_max_bytes": 1,
        "retry": RETRY,
    }
    return DeviceConfig(**{**fields, **changes})


def make(server: FakeServer, **changes: Any) -> VirtualDevice:
    return VirtualDevice(config(**changes), server, load=load_fake, clock=virtual_time.VirtualClock())


def fake_server(**changes: Any) -> FakeServer:
    return FakeServer({"m": SERVED}, delay_s=SERVER_S, **changes)


def assignment(**changes: Any) -> Assignment:
    fields: dict[str, Any] = {"run_id": "r", "images": ("a.png", "b.png"), "labels": (0, 1), "drain_s": 10.0}
    return Assignment(**{**fields, **changes})


def go(server: FakeServer, assignment: Assignment, script: tuple[str, ...] = (), **changes: Any) -> list[Record]:
    """One run of one device, in virtual time."""

    async def scenario() -> list[Record]:
        device = make(server, **changes)
        await device.start()
        server.script.extend(script)
        return await DeviceRun(device, assignment).run()

    return virtual_time.run(scenario())


def one(image: str = "a.png", script: tuple[str, ...] = (), **changes: Any) -> tuple[Record, FakeServer]:
    server = fake_server()
    return go(server, assignment(images=(image, "b.png"), arrivals=(Capture(0.0, 0),)), script, **changes)[0], server


# --- one request -----------------------------------------------------------------------------------------------------


def test_an_answered_request_has_every_phase_and_they_add_up() -> None:
    record, server = one()
    assert record.outcome == "answered"
    assert (record.id, record.device, record.group, record.cut, record.label) == ("r/cam-0/0", "cam-0", "cam", 2, 0)
    assert record.top1 == 2  # the fake server's answer is the cut
    assert record.inference_ms == pytest.approx((HEAD_S + SERVER_S) * 1e3)
    assert (record.wait_ms, record.head_ms, record.encode_ms) == (0.0, HEAD_S * 1e3, 0.5)
    assert record.network_ms == pytest.approx(0.0, abs=1e-6)  # round trip less the server's total
    assert (record.admission_ms, record.queue_ms, record.execution_ms) == (0.0, 0.0, SERVER_S * 1e3)
    assert record.rows_per_step == (1,)
    assert record.attempts == 1
    request = server.requests[0]
    assert (request.manifest, request.cut, request.codec, request.shape) == ("digest-1", 2, "fp32", (3,))
    assert record.payload_bytes == len(request.payload)


def test_at_cut_n_the_device_answers_without_the_server() -> None:
    record, server = one(cut=4)
    assert record.outcome == "answered"
    assert record.top1 == 1
    assert record.inference_ms == pytest.approx(HEAD_S * 1e3)
    assert record.network_ms is None
    assert server.requests == []


@pytest.mark.parametrize(
    ("image", "code", "word"),
    [("damaged.png", "bad_image", "damaged.png"), ("nan.png", "not_finite", "NaN"), ("bug.png", "device", "a bug")],
)
def test_what_fails_on_the_device_is_a_refusal_of_that_image_alone(image: str, code: str, word: str) -> None:
    records = go(fake_server(), assignment(images=(image, "b.png"), arrivals=(Capture(0.0, 0), Capture(0.0, 1))))
    assert [record.outcome for record in records] == ["refused", "answered"]
    assert records[0].code == code
    assert word in records[0].message
    assert records[0].inference_ms is None


def test_an_overloaded_server_is_asked_again_after_pauses() -> None:
    record, server = one(script=("overloaded", "stopped"))
    assert record.outcome == "answered"
    assert record.attempts == len(server.requests) == 3
    assert record.inference_ms is not None
    # Twice a pause of 0.1 s with its jitter: the request's own, and the device's from a server that stops.
    assert 100 < record.inference_ms - (HEAD_S + SERVER_S) * 1e3 < 300


def test_a_server_that_stays_overloaded_leaves_its_refusal() -> None:
    record, _ = one(script=("overloaded",) * 9)
    assert (record.outcome, record.code, record.attempts) == ("refused", "overloaded", RETRY.attempts)


@pytest.mark.parametrize("code", ["bad_cut", "too_late", "failed", "not_finite"])
def test_a_refusal_that_a_pause_cannot_cure_is_not_repeated(code: str) -> None:
    record, _ = one(script=(code,))
    assert (record.outcome, record.code, record.attempts) == ("refused", code, 1)


def test_a_server_that_vanishes_and_returns_costs_a_pause_only() -> None:
    record, _ = one(script=("vanish",))
    assert (record.outcome, record.attempts) == ("answered", 2)


def test_a_server_that_stays_away_for_longer_than_the_budget_loses_the_request() -> None:
    record, server = one(script=("vanish",) * 99)
    assert (record.outcome, record.code) == ("lost", "server")
    assert record.finished_s == pytest.approx(HEAD_S + RETRY.budget_s, abs=1e-3)
    # Pauses of 0.1, 0.2, 0.4, 0.8 and then 1 s, each with its jitter.
    assert 6 <= record.attempts == len(server.requests) <= 12
    assert f"gave up after {record.attempts} attempts" in record.message


def test_a_server_that_never_answers_costs_the_budget_and_no_more() -> None:
    record, server = one(script=("hang",))
    assert (record.outcome, len(server.requests)) == ("lost", 1)
    assert record.finished_s == pytest.approx(HEAD_S + RETRY.budget_s)
    assert "5 s" in record.message


# --- a stale head ----------------------------------------------------------------------------------------------------


def redeployed(server: FakeServer) -> None:
    server.served["m"] = replace(SERVED, manifest="digest-2")


def test_a_stale_head_is_reloaded_once_and_the_activation_made_again() -> None:
    async def scenario() -> tuple[list[Record], VirtualDevice, FakeServer]:
        server = fake_server()
        device = make(server)
        await device.start()
        redeployed(server)
        arrivals = tuple(Capture(0.0, 0) for _ in range(5))
        return await DeviceRun(device, assignment(arrivals=arrivals)).run(), device, server

    records, device, server = virtual_time.run(scenario())
    assert [record.outcome for record in records] == ["answered"] * 5
    assert [request.manifest for request in server.requests].count("digest-1") > 1  # several were refused
    assert device.starts == 2  # once for the fleet's start, once for all of them
    answered = [request for request in server.requests if request.manifest == "digest-2"]
    assert [request.payload for request in answered] == [b"digest-2"] * 5  # never the old activation, renamed


def test_the_head_that_is_replaced_gives_its_memory_back() -> None:
    async def scenario() -> tuple[int, int]:
        server = fake_server()
        device = make(server)
        await device.start()
        before = device.head
        assert before is not None
        redeployed(server)
        await DeviceRun(device, assignment(arrivals=(Capture(0.0, 0),))).run()
        assert device.head is not None
        return before.loaded, device.head.loaded

    assert virtual_time.run(scenario()) == (0, 2)


def test_while_a_head_is_replaced_nothing_meets_the_old_one() -> None:
    async def scenario() -> tuple[bool, int]:
        server = fake_server()
        device = make(server, alone="tail")
        await device.start()
        old = device.head
        device.cut.choice = Choice(3, "fp32")  # where a planner had moved it
        seen: list[tuple[bool, int]] = []

        async def load(served: ServedModel, config: DeviceConfig, get: object) -> Any:
            head = FakeRuntime(served, config)

            async def rehearse() -> None:
                seen.append((device.fallback._head is head and device.head is head, device.cut.choice.cut))

            head.rehearse = rehearse  # type: ignore[method-assign]
            return head

        device._load = load
        redeployed(server)
        await device.reload("digest-1")
        assert device.head is not old
        return seen[0]

    assert virtual_time.run(scenario()) == (True, 2)


def test_a_device_says_what_its_slices_take() -> None:
    async def joined(cls: type[Device], **changes: Any) -> tuple[float, ...]:
        device = cls(config(**changes), fake_server(), load=load_fake)
        await device.start()
        await device.close()
        return device.slices_ms

    class OfItsOwn(Device):
        async def compute(self, image: str, choice: Choice) -> Computed:
            raise NotImplementedError

    board = Profile(name="b", hypothetical=True, slices_ms=({"mean": 7.0, "std": 1.0},) * 4)  # type: ignore[arg-type]
    assert asyncio.run(joined(Device, profile=board)) == (7.0,) * 4
    assert asyncio.run(joined(Device)) == (HEAD_S * 1e3 / 2,) * 4  # native: measured
    assert asyncio.run(joined(OfItsOwn)) == ()  # another runtime, whose times are its own affair


def test_a_server_that_calls_every_head_stale_gets_no_endless_reloads() -> None:
    record, server = one(script=("stale", "stale", "stale"))
    assert (record.outcome, record.code) == ("refused", "stale")
    assert len(server.requests) == 2


def test_a_reload_that_fails_is_told_and_the_device_lives_on() -> None:
    async def scenario() -> list[Record]:
        server = fake_server()
        device = make(server)
        await device.start()

        async def refuse(served: ServedModel, config: DeviceConfig, get: object) -> Any:
            raise ShardError("shard slice_1 came damaged twice")

        device._load = refuse
        redeployed(server)
        return await DeviceRun(device, assignment(arrivals=(Capture(0.0, 0), Capture(1.0, 1)))).run()

    records = virtual_time.run(scenario())
    assert [record.outcome for record in records] == ["refused", "refused"]
    assert "damaged twice" in records[0].message


# --- an open loop ----------------------------------------------------------------------------------------------------


def test_the_clock_starts_at_the_schedule_and_one_head_runs_at_a_time() -> None:
    records = go(fake_server(), assignment(arrivals=(Capture(1.0, 0), Capture(1.0, 1), Capture(1.0, 0))))
    assert [record.wait_ms for record in records] == pytest.approx([0.0, 10.0, 20.0])
    # Sends overlap with the next heads: the server's 30 ms are not added up.
    assert [record.inference_ms for record in records] == pytest.approx([40.0, 50.0, 60.0])
    assert [record.generator_lag_ms for record in records] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_an_image_that_is_too_old_when_its_turn_comes_is_dropped() -> None:
    arrivals = tuple(Capture(0.0, 0) for _ in range(4))
    records = go(fake_server(), assignment(arrivals=arrivals, max_age_ms=15.0))
    # Heads take 10 ms: they wait 0, 10, 20 ms; a dropped one costs no time, so the fourth waits 20 ms, too.
    assert [record.outcome for record in records] == ["answered", "answered", "dropped", "dropped"]
    assert records[2].head_ms is None


def test_what_has_no_answer_at_the_end_of_the_drain_is_lost() -> None:
    arrivals = (Capture(0.0, 0), Capture(0.5, 1))
    records = go(fake_server(), assignment(arrivals=arrivals, drain_s=2.0), ("hang",))
    assert [record.outcome for record in records] == ["lost", "answered"]
    assert "2 s" in records[0].message


def test_a_deadline_travels_as_what_is_left_of_it() -> None:
    server = fake_server()
    go(server, assignment(arrivals=(Capture(0.0, 0), Capture(0.0, 1)), deadline_ms=100.0))
    assert [request.deadline_ms for request in server.requests] == pytest.approx([90.0, 80.0])


def test_warm_up_answers_and_leaves_no_record() -> None:
    async def scenario() -> tuple[int, int, list[Record]]:
        server = fake_server()
        device = make(server)
        await device.start()
        run = DeviceRun(device, assignment(arrivals=(Capture(0.0, 0),), warmup=(0, 1, 1)))
        answers, warm = await run.warm_up()
        assert answers[0] == ((2, 1.0),)
        return len(warm), len(server.requests), await run.run()

    warm, sent, records = virtual_time.run(scenario())
    assert (warm, sent) == (3, 3)
    assert len(records) == 1


def test_the_ledger_closes_whatever_happens() -> None:
    script = ("overloaded", "vanish", "hang", "bad_cut", "vanish", "vanish", "vanish", "stale", "hang")
    arrivals = tuple(Capture(0.02 * i, i % 2) for i in range(40))
    closed: list[str] = []

    async def scenario() -> list[Record]:
        server = fake_server()
        device = make(server)
        device._on_closed = lambda record: closed.append(record.id)
        await device.start()
        server.script.extend(script)
        return await DeviceRun(device, assignment(arrivals=arrivals, max_age_ms=200.0, drain_s=3.0)).run()

    records = virtual_time.run(scenario())
    assert len(records) == 40
    assert sorted(closed) == sorted(record.id for record in records)  # each closed exactly once
    assert {record.outcome for record in records} >= {"answered", "lost", "refused"}


# --- a closed loop ---------------------------------------------------------------------------------------------------


def test_a_closed_loop_asks_so_many_requests_and_takes_the_images_in_turn() -> None:
    closed = Closed(images=(0, 1), clients=2, requests=5)
    records = go(fake_server(), assignment(closed=closed))
    assert [record.image for record in records] == [0, 1, 0, 1, 0]
    assert [record.outcome for record in records] == ["answered"] * 5


def test_a_closed_loop_begins_nothing_after_its_duration_but_drains() -> None:
    # One client, 40 ms per request and 10 ms of thought: requests begin at 0, 50, 100, 150 ms.
    closed = Closed(images=(0,), clients=1, duration_s=0.16, think_s=0.01)
    records = go(fake_server(), assignment(closed=closed))
    assert [record.scheduled_s for record in records] == pytest.approx([0.0, 0.05, 0.1, 0.15])
    assert records[-1].outcome == "answered"


def test_a_hanging_client_of_a_closed_loop_is_lost_after_the_drain() -> None:
    closed = Closed(images=(0,), clients=2, requests=3)
    records = go(fake_server(), assignment(closed=closed, drain_s=1.0), ("hang",))
    assert sorted(record.outcome for record in records) == ["answered", "answered", "lost"]


# --- around it -------------------------------------------------------------------------------------------------------


def test_a_link_is_crossed_by_every_payload_and_its_time_is_the_networks() -> None:
    class SlowLink:
        emulated = "10 ms each way"
        crossed: list[tuple[str, int]] = []  # noqa: RUF012

        async def send(self, size_bytes: int) -> None:
            self.crossed.append(("send", size_bytes))
            await asyncio.sleep(0.01)

        async def receive(self, size_bytes: int) -> None:
            self.crossed.append(("receive", size_bytes))
            await asyncio.sleep(0.01)

    async def scenario() -> list[Record]:
        device = make(LinkedServer(fake_server(), SlowLink()))  # type: ignore[arg-type]
        await device.start()
        SlowLink.crossed.clear()
        return await DeviceRun(device, assignment(arrivals=(Capture(0.0, 0),))).run()

    (record,) = virtual_time.run(scenario())
    assert record.network_ms == pytest.approx(20.0)
    assert [way for way, _ in SlowLink.crossed] == ["send", "receive"]
    assert SlowLink.crossed == [
        ("send", record.payload_bytes + ENVELOPE_BYTES),
        ("receive", record.answer_bytes + ENVELOPE_BYTES),
    ]
    assert record.answer_bytes == PAIR_BYTES


def test_a_device_that_died_has_all_its_intended_requests_as_lost() -> None:
    records = lost_run(config(), assignment(arrivals=(Capture(0.0, 0), Capture(1.0, 1))), "the node went away")
    assert [(r.outcome, r.image, r.scheduled_s, r.message) for r in records] == [
        ("lost", 0, 0.0, "the node went away"),
        ("lost", 1, 1.0, "the node went away"),
    ]
    assert len(lost_run(config(), assignment(closed=Closed((0, 1), requests=3)), "gone")) == 3


def test_every_run_of_an_id_draws_the_same() -> None:
    """So that strategies meet the same device under the same seed, whatever ran before."""

    async def scenario() -> list[str]:
        device = make(fake_server())
        await device.start()
        seeds = []
        for run_id in ("seed0", "seed1", "seed0"):
            await DeviceRun(device, assignment(run_id=run_id)).run()
            seeds.append(device.head.seed)  # type: ignore[union-attr]
        return seeds

    first, second, again = virtual_time.run(scenario())
    assert first == again != second
    assert "cam-0" in first


def test_a_device_that_turns_to_a_server_of_the_same_weights_keeps_its_head() -> None:
    loads: list[str] = []

    async def load(served: ServedModel, config: DeviceConfig, get: object) -> Any:
        loads.append(served.manifest)
        return FakeRuntime(served, config)

    async def scenario(second: ServedModel) -> Device:
        device = Device(config(), fake_server(), load=load)
        await device.start()
        await device.turn_to(FakeServer({"m": second}))
        await device.close()
        return device

    device = asyncio.run(scenario(replace(SERVED, strategy="per_slice")))
    assert loads == ["digest-1"]
    assert device.cut.served is not None
    assert device.cut.served.strategy == "per_slice"
    asyncio.run(scenario(replace(SERVED, manifest="digest-2")))
    assert loads == ["digest-1", "digest-1", "digest-2"]
    with pytest.raises(CutError, match="no entry"):
        asyncio.run(scenario(replace(SERVED, entries=(0, 1))))


def test_a_wait_never_ends_early_and_one_that_is_over_ends_at_once() -> None:
    async def scenario() -> None:
        clock = Clock()
        for wait_s in (-1.0, 0.0, 0.0004, 0.002, 0.006):
            due_s = clock.now_s() + wait_s
            await clock.until(due_s)
            assert clock.now_s() >= due_s

    asyncio.run(scenario())


def test_a_real_device_runs_its_head_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    ran_in: list[str] = []

    class ThreadHead(FakeHead):
        def compute(self, image: str, choice: Choice) -> Computed:
            ran_in.append(threading.current_thread().name)
            return super().compute(image, choice)

    monkeypatch.setattr("actors.device.torch_runtime.load_head", lambda served, config, get: ThreadHead(served, config))

    async def scenario() -> Record:
        device = Device(config(), fake_server())
        await device.start()
        record = Record("x", "cam-0", "cam", 2, 0, None, 0.0)
        await device.answer("a.png", record, device.clock.now_s(), RequestOptions())
        await device.close()
        return record

    assert asyncio.run(scenario()).outcome == "answered"
    assert ran_in == ["head-cam-0_0"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"labels": (1,)}, "1 labels for 2 images"),
        ({"arrivals": (Capture(1.0, 0), Capture(0.5, 0))}, "order of time"),
        ({"arrivals": (Capture(0.0, 7),)}, "image 7"),
        ({"arrivals": (Capture(0.0, 0),), "closed": Closed((0,), requests=1)}, "never both"),
        ({"closed": Closed((0,))}, "needs an end"),
        ({"closed": Closed((), requests=1)}, "at least one image"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        assignment(**changes)
