"""A device's turn: one image at work, and how many wait for it."""

from __future__ import annotations

import asyncio

from slicer.core.device.turn import Turn


def test_it_counts_who_waits_and_not_who_is_at_work_or_has_given_up() -> None:
    async def seen() -> list[int]:
        turn, found = Turn(), []
        async with turn:
            found.append(turn.waiting)
            others = [asyncio.create_task(turn.acquire()) for _ in range(3)]
            await asyncio.sleep(0)
            found.append(turn.waiting)
            others[1].cancel()
            await asyncio.wait(others[1:2])
            found.append(turn.waiting)
        await others[0]
        found.append(turn.waiting)
        turn.release()
        await others[2]
        found.append(turn.waiting)
        return found

    assert asyncio.run(seen()) == [0, 3, 2, 1, 0]
