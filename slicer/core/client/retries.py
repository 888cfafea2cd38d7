"""The same question again after a pause, until there is an answer or the time has passed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import RefusedError, ServerError

#: The pauses between attempts: the first, and the longest; each is drawn from half of it to one and a half.
PAUSE_S, MAX_PAUSE_S = 0.25, 2.0

T = TypeVar("T")


async def patiently(
    attempt: Callable[[float], Awaitable[T]],
    *,
    within_s: float,
    again: Callable[[ServerError], bool],
    who: str,
    until_s: float | None = None,
) -> T:
    """What the first successful attempt gives; cancelling cancels the attempt.

    Args:
        attempt: called with the seconds that are left. It may find that time is over by itself.
        within_s: all attempts and pauses together.
        until_s: when that is over, on the loop's clock, where some of it has passed already.
        again: whether another attempt after this error makes sense.
        who: is asked, for the message.

    Raises:
        RefusedError: the last attempt was refused; or ``too_late``, where none ended in time.
        ServerError: what the last attempt raised, and whatever `again` says no to.
    """
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + within_s if until_s is None else until_s
    pause_s, attempts, last = PAUSE_S, 0, False
    seen: ServerError | None = None
    while True:
        attempts += 1
        left_s = until_s - now_s()
        try:
            return await asyncio.wait_for(attempt(left_s), left_s)
        except asyncio.TimeoutError:
            if seen is None:
                raise RefusedError("too_late", f"{who} did not answer within {within_s:g} s; is it up?") from None
            raise _given_up(seen, within_s, attempts) from None
        except ServerError as error:
            if not again(error):
                raise
            seen = error
        left_s = until_s - now_s()
        if last or left_s <= 0:
            raise _given_up(seen, within_s, attempts) from seen
        wait_s = pause_s * random.uniform(0.5, 1.5)
        if wait_s >= left_s:
            wait_s, last = left_s / 2, True
        await asyncio.sleep(wait_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _given_up(seen: ServerError, within_s: float, attempts: int) -> ServerError:
    text = f"{seen}; gave up after {within_s:g} s, {attempts} attempts"
    return RefusedError(seen.code, text, seen.server) if isinstance(seen, RefusedError) else ServerError(text)
