"""A device goes on without its server, says so, and comes back; a device moves its cut under load. Virtual time."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from actors.device.config import PlanConfig
from actors.testing.fake_server import FakeServer
from slicer.core.device.device_run import DeviceRun
from slicer.core.device.health.backlog import AT_ONCE
from slicer.core.planning.cut_planner import Choice
from slicer.core.protocol.messages import ServedModel, ShardInfo
from slicer.core.records.assignment import Capture
from slicer.core.records.record import Record
from slicer.core.shards.manifest import Manifest
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ModelError
from tests.unit import virtual_time
from tests.unit.actors.device.test_device import (
    HEAD_S,
    LOAD_S,
    RETRY,
    SERVED,
    SERVER_S,
    VirtualDevice,
    assignment,
    fake_server,
    go,
    make,
)

MANIFEST = Manifest(
    ModelSpec("m"),
    "torch",
    "timm",
    ("a", "b", "c"),
    ((3, 32, 32), (16, 24), (16, 24), (16, 24), (10,)),
    ("float32",) * 5,
    tuple(ShardInfo(f"slice_{i}.safetensors", f"{i:064x}", 1000) for i in range(1, 5)),
    ("0" * 64,) * 4,
    (0, 1, 1, 1, 0),
)
PLANNED = ServedModel("m", MANIFEST.digest, MANIFEST.to_json(), 4, (0, 1, 2, 3), "per_tail", ("fp32", "int8"))


def ask(count: int, every_s: float = 0.1) -> tuple[Capture, ...]:
    return tuple(Capture(every_s * index, 0) for index in range(count))


@pytest.mark.parametrize("upset", ["vanish", "overloaded", "stopped", "too_late", "failed"])
def test_what_the_server_does_not_answer_the_device_finishes_and_says_so(upset: str) -> None:
    (record,) = go(fake_server(), assignment(arrivals=ask(1)), (upset,), alone="tail")
    assert (record.outcome, record.alone, record.attempts) == ("answered", "m", 1)
    assert record.top1 == 1  # the head's own answer
    assert record.message
    assert record.inference_ms == pytest.approx(2 * HEAD_S * 1e3, abs=SERVER_S * 1e3)


@pytest.mark.parametrize("upset", ["bad_cut", "not_finite", "bad_shape"])
def test_what_is_wrong_with_the_request_itself_stays_refused(upset: str) -> None:
    (record,) = go(fake_server(), assignment(arrivals=ask(1)), (upset,), alone="tail")
    assert (record.outcome, record.code, record.alone) == ("refused", upset, "")


def test_a_server_that_is_too_slow_for_the_deadline_is_not_waited_for() -> None:
    records = go(fake_server(), assignment(arrivals=ask(3, 1.0), deadline_ms=100.0), ("hang",) * 99, alone="tail")
    assert [record.outcome for record in records] == ["answered"] * 3
    assert all(record.alone == "m" for record in records)
    assert all(record.inference_ms is not None and record.inference_ms <= 100.0 for record in records)


def test_a_deadline_too_short_for_any_server_is_met_without_asking() -> None:
    server = fake_server()
    records = go(server, assignment(arrivals=ask(2, 1.0), deadline_ms=16.0), alone="tail")
    assert [record.outcome for record in records] == ["answered", "answered"]
    assert server.requests == []


def test_without_a_deadline_a_silent_server_costs_its_patience_and_no_more() -> None:
    (record,) = go(fake_server(), assignment(arrivals=ask(1)), ("hang",), alone="tail")
    assert record.alone == "m"
    assert record.inference_ms == pytest.approx(250 + 2 * HEAD_S * 1e3)


class Gone(FakeServer):
    """Gone from 2 s to 22 s; notes when it was asked, and how many were at work at once after that."""

    def __init__(self, silent: bool = False) -> None:
        super().__init__({"m": SERVED}, delay_s=SERVER_S)
        self.asked_s: list[float] = []
        self.most_at_once = 0
        self._silent = silent
        self._at_work = 0

    async def infer(self, requests: Any) -> Any:
        now_s = virtual_time.VirtualClock().now_s()
        self.asked_s.append(now_s)
        if 2.0 <= now_s < 22.0:
            self.script.append("hang" if self._silent else "vanish")
        self._at_work += 1
        if now_s >= 22.0:
            self.most_at_once = max(self.most_at_once, self._at_work)
        try:
            return await super().infer(requests)
        finally:
            self._at_work -= 1


@pytest.mark.parametrize("silent", [False, True])
def test_an_outage_costs_no_request_no_deadline_and_ends_soon_after_it(silent: bool) -> None:
    server = Gone(silent)
    records = go(server, assignment(arrivals=ask(300), deadline_ms=100.0), alone="tail")
    assert all(record.outcome == "answered" for record in records)
    late = [r for r in records if r.inference_ms is None or r.inference_ms > 100.0]
    assert late == []
    by_device = [record.scheduled_s for record in records if record.alone]
    assert 1.9 <= min(by_device) <= 2.1
    assert max(by_device) <= 23.7  # the longest pause is 1.5 s, whenever images come
    # Once it knows that the server is away no request waits for it: head and the rest, and nothing else.
    away = [record for record in records if 3.0 <= record.scheduled_s < 21.0]
    assert all(record.inference_ms == pytest.approx(2 * HEAD_S * 1e3) for record in away)
    assert sum(2.0 <= asked_s < 22.0 for asked_s in server.asked_s) < 40  # it was left alone for most of the 20 s


def test_a_server_that_is_back_with_other_weights_gets_another_head() -> None:
    async def scenario() -> tuple[list[Record], VirtualDevice]:
        server = fake_server()
        device = make(server, alone="tail")
        await device.start()
        server.script.append("vanish")
        server.served["m"] = replace(SERVED, manifest="digest-2")
        return await DeviceRun(device, assignment(arrivals=ask(20))).run(), device

    records, device = virtual_time.run(scenario())
    assert [record.outcome for record in records] == ["answered"] * 20
    assert device.starts == 2
    assert not records[-1].alone


def test_a_device_that_cannot_go_on_alone_keeps_its_requests_until_the_server_is_back() -> None:
    server = Gone()
    retry = RETRY.model_copy(update={"budget_s": 60.0})
    records = go(server, assignment(arrivals=ask(300)), retry=retry)
    assert [record.outcome for record in records] == ["answered"] * 300
    assert len({request.id for request in server.requests}) == 300
    # Two hundred requests wait, and one of them at a time asks: what it costs the server does not grow with them.
    assert 20 <= sum(2.0 <= asked_s < 22.0 for asked_s in server.asked_s) <= 45
    assert server.most_at_once <= AT_ONCE + 2  # of the kept ones, and those that are new meanwhile
    kept = [r for r in records if 2.0 <= r.scheduled_s < 22.0]
    finished_s = [record.finished_s for record in kept if record.finished_s is not None]
    assert max(finished_s) <= 22.0 + 1.5 + 200 / AT_ONCE * SERVER_S + 0.1
    fresh = [r for r in records if r.scheduled_s >= 22.0 + 1.5]
    assert all(record.inference_ms == pytest.approx((HEAD_S + SERVER_S) * 1e3) for record in fresh)


def test_a_server_that_says_nothing_is_not_sent_more_and_more() -> None:
    """As behind Serve's handle: what is sent while there is no replica stays there, and is answered in the end."""

    class Held(Gone):
        async def infer(self, requests: Any) -> Any:
            clock = virtual_time.VirtualClock()
            if 2.0 <= clock.now_s() < 22.0:
                self.asked_s.append(clock.now_s())
                await clock.until(22.0)
            return await super().infer(requests)

    server = Held()
    records = go(server, assignment(arrivals=ask(300)), retry=RETRY.model_copy(update={"budget_s": 60.0}))
    assert [record.outcome for record in records] == ["answered"] * 300
    in_the_dark = [asked_s for asked_s in server.asked_s if 2.0 <= asked_s < 22.0]
    assert len(in_the_dark) <= 2.0 * 10 + 2 + 10  # those of its 2 s of patience, then one at a time
    assert server.most_at_once <= 2.0 * 10 + 2 + AT_ONCE
    fresh = [r for r in records if r.scheduled_s >= 22.1]
    assert all(record.inference_ms == pytest.approx((HEAD_S + SERVER_S) * 1e3) for record in fresh)


def test_a_probe_that_hangs_holds_up_nobody_for_long() -> None:
    records = go(
        fake_server(), assignment(arrivals=ask(20)), ("vanish", "hang"), retry=RETRY.model_copy(update={"budget_s": 60})
    )
    assert [record.outcome for record in records] == ["answered"] * 20
    assert max(r.inference_ms for r in records if r.inference_ms is not None) <= 2000 + 700


def test_a_request_that_is_ended_while_it_probes_lets_the_next_one_probe() -> None:
    async def scenario() -> str:
        server = fake_server()
        device = make(server)
        await device.start()
        device.health.backlog.failed(probe=False)
        server.script.append("hang")
        first = assignment(arrivals=ask(1), drain_s=1.0)
        (lost,) = await DeviceRun(device, first).run()
        assert (lost.outcome, len(server.requests)) == ("lost", 1)
        (record,) = await DeviceRun(device, first).run()
        return record.outcome

    assert virtual_time.run(scenario()) == "answered"


def test_another_model_can_stand_in() -> None:
    small = ServedModel("small", "digest-s", "{}", 2, (0, 1), "per_tail", ("fp32",))
    server = FakeServer({"m": SERVED, "small": small}, delay_s=SERVER_S)
    (record,) = go(server, assignment(arrivals=ask(1)), ("vanish",), alone="small")
    assert (record.outcome, record.alone) == ("answered", "small")
    with pytest.raises(ModelError, match="none"):
        go(fake_server(), assignment(arrivals=ask(1)), alone="none")


def test_a_device_whose_memory_does_not_hold_the_tail_says_so_and_asks_again_as_ever() -> None:
    async def scenario() -> tuple[list[str], str, list[Record]]:
        server = fake_server()
        device = make(server, alone="tail")
        load = device._load

        async def short(*args: Any) -> Any:
            head = await load(*args)
            head.loaded = 2
            return head

        device._load = short
        await device.start()
        server.script.extend(("vanish", "overloaded"))
        return device.fallback.notes, device.fallback.model, await DeviceRun(device, assignment(arrivals=ask(1))).run()

    notes, alone, (record,) = virtual_time.run(scenario())
    assert "does not fit" in notes[0]
    assert (alone, record.outcome, record.attempts, record.alone) == ("", "answered", 3, "")


def test_all_sendings_of_a_request_have_a_key_in_common_that_is_no_other_requests_and_no_other_devices() -> None:
    server = fake_server()
    go(server, assignment(arrivals=ask(2, 60.0)), ("vanish", "vanish"))
    keys = [request.key for request in server.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    (session, first), (same, second) = (key.split("/") for key in keys[2:])
    assert re.fullmatch("[0-9a-f]{16}", session)
    assert (same, first, second) == (session, "1", "2")
    assert len({request.id for request in server.requests}) == 2
    other = fake_server()
    go(other, assignment(arrivals=ask(1)))
    assert other.requests[0].id != server.requests[0].id  # the same record of another device
    assert other.requests[0].key not in keys


def test_a_look_whether_the_server_is_back_has_no_key_since_an_old_answer_would_tell_nothing() -> None:
    server = fake_server()
    go(server, assignment(arrivals=ask(3, 5.0)), ("vanish", "vanish"), alone="tail")
    probes = [request for request in server.requests if request.id.endswith("/probe")]
    assert probes and {request.key for request in probes} == {""}


# --- moving ----------------------------------------------------------------------------------------------------------


def moving(to: Choice, **changes: Any) -> tuple[list[Record], VirtualDevice]:
    """A device under load that is told to move in the middle of it."""

    async def scenario() -> tuple[list[Record], VirtualDevice]:
        import asyncio

        device = make(fake_server(), **changes)
        await device.start()
        running = asyncio.create_task(DeviceRun(device, assignment(arrivals=ask(200, 0.011))).run())
        await asyncio.sleep(0.5)
        await device.cut.move(to)
        return await running, device

    return virtual_time.run(scenario())


def test_a_head_that_grows_under_load_has_no_gap_and_no_wrong_answer() -> None:
    records, device = moving(Choice(3, "fp16"))
    assert all(record.outcome == "answered" and record.top1 == record.cut for record in records)
    changed = [record.scheduled_s for record in records if record.cut == 3]
    assert {record.cut for record in records} == {2, 3}
    assert min(changed) >= 0.5 + LOAD_S - 0.05  # the present slices went on while the others were loaded
    assert max(r.wait_ms for r in records if r.wait_ms is not None) < 15.0  # nobody waited for the loading
    assert {record.codec for record in records if record.cut == 3} == {"fp16"}
    assert device.head.loaded == 3  # type: ignore[union-attr]


def test_a_head_that_shrinks_gives_its_slices_back_after_the_last_image_that_needs_them() -> None:
    records, device = moving(Choice(1, "fp32"))
    assert all(record.outcome == "answered" and record.top1 == record.cut for record in records)
    assert {record.cut for record in records} == {1, 2}
    assert device.head.loaded == 1  # type: ignore[union-attr]


def test_a_device_that_can_go_on_alone_keeps_its_slices() -> None:
    _, device = moving(Choice(1, "fp32"), alone="tail")
    assert device.head.loaded == 4  # type: ignore[union-attr]
    assert device.fallback.model == "m"


def test_a_device_with_a_plan_moves_by_itself_under_load() -> None:
    async def scenario() -> tuple[list[Record], VirtualDevice]:
        server = FakeServer({"m": PLANNED}, delay_s=SERVER_S)
        device = make(server, plan=PlanConfig(every_s=0.5))
        await device.start()
        records = await DeviceRun(device, assignment(arrivals=ask(300, 0.05))).run()
        return records, device

    records, device = virtual_time.run(scenario())
    assert all(record.outcome == "answered" for record in records)
    assert all(record.top1 == (1 if record.cut == 4 else record.cut) for record in records)
    # Its slices take 2.5 ms, the server 30 ms for whatever is left: it is faster without.
    assert device.cut.choice.cut == 4
    assert device.cut.choice.cut == device.cut.planner.present.cut  # type: ignore[union-attr]
    assert any(request.wants_load for request in device.server.requests)  # type: ignore[attr-defined]
