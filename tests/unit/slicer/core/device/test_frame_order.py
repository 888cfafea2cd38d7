"""A camera's answers go on in the order of its frames; in virtual time, by the fakes of `test_device`."""

from __future__ import annotations

import pytest

from slicer.core.device.answer import TopK
from slicer.core.device.device_run import DeviceRun
from slicer.core.records.assignment import Capture
from slicer.core.records.record import Record
from tests.unit import virtual_time
from tests.unit.actors.device.test_device import assignment, fake_server, make


def play(arrivals: tuple[float, ...], *script: str, **changes: object) -> tuple[list[tuple[str, bool]], list[Record]]:
    """(id, has an answer) as delivered, and the records."""
    told: list[tuple[str, bool]] = []

    def deliver(record: Record, answer: TopK) -> None:
        told.append((record.id.rpartition("/")[2], bool(answer)))

    async def scenario() -> list[Record]:
        server = fake_server()
        device = make(server)
        await device.start()
        server.script.extend(script)
        captures = tuple(Capture(at_s, 0) for at_s in arrivals)
        mine = assignment(arrivals=captures, in_order=True, **changes)
        return await DeviceRun(device, mine, deliver=deliver).run()

    return told, virtual_time.run(scenario())


def test_answers_that_come_in_order_are_not_held() -> None:
    told, records = play((0.0, 0.1, 0.2))
    assert told == [("0", True), ("1", True), ("2", True)]
    assert [record.held_ms for record in records] == [0.0, 0.0, 0.0]


def test_an_answer_that_overtook_is_held_until_the_earlier_frame_is_answered() -> None:
    told, records = play((0.0, 0.01), "overloaded")  # the first is sent again after a pause
    assert [record.outcome for record in records] == ["answered", "answered"]
    first_s, second_s = records[0].finished_s, records[1].finished_s
    assert first_s is not None and second_s is not None and second_s < first_s, "it overtook"
    assert told == [("0", True), ("1", True)]
    assert records[1].held_ms == pytest.approx((first_s - second_s) * 1e3)
    assert records[1].inference_ms == pytest.approx((second_s - 0.01) * 1e3), "not in the inference time"


def test_a_frame_that_is_lost_lets_the_later_ones_go_on() -> None:
    told, records = play((0.0, 0.5), "hang", drain_s=2.0)
    assert [record.outcome for record in records] == ["lost", "answered"]
    assert told == [("0", False), ("1", True)]
    assert records[0].held_ms is None and (records[1].held_ms or 0.0) > 1500


def test_a_busy_camera_drops_old_frames_and_the_ledger_closes() -> None:
    arrivals = tuple(k / 1000 for k in range(40))  # a head takes 10 ms: one frame in ten
    told, records = play(arrivals, "damaged", max_age_ms=25.0)
    counts = {
        name: sum(record.outcome == name for record in records) for name in ("answered", "refused", "dropped", "lost")
    }
    assert sum(counts.values()) == len(arrivals) and counts["dropped"] > 20 and counts["answered"] >= 4
    assert [int(number) for number, _ in told] == list(range(len(arrivals)))
    assert all((record.wait_ms or 0.0) <= 25.0 + 1e-6 for record in records if record.outcome == "answered")


def test_frames_that_waited_for_a_server_which_was_away_are_dropped_and_fresh_ones_answered() -> None:
    arrivals = tuple(k / 10 for k in range(60))
    _, records = play(arrivals, *("vanish",) * 6, max_age_ms=300.0)
    outcomes = [record.outcome for record in records]
    assert set(outcomes) == {"answered", "dropped"} and outcomes[-10:] == ["answered"] * 10
    assert all(r.finished_s is not None and r.inference_ms is not None for r in records if r.outcome == "answered")
    waited = [record for record in records if record.outcome == "dropped"]
    assert waited and all("when the server could be asked, limit 300 ms" in record.message for record in waited)
    assert max(record.inference_ms or 0.0 for record in records) <= 300.0 + 31, "none was sent when it was too old"


def test_without_an_order_nothing_is_held() -> None:
    async def scenario() -> list[Record]:
        server = fake_server()
        device = make(server)
        await device.start()
        return await DeviceRun(device, assignment(arrivals=(Capture(0.0, 0),))).run()

    assert [record.held_ms for record in virtual_time.run(scenario())] == [None]
