"""What a front asks a core beside rows: its status and its last steps. One question per connection, in msgpack."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack

logger = logging.getLogger("headtail.ipc")

#: How long an answer may take.
PATIENCE_S = 10.0

#: Longer than any question.
_MOST_BYTES = 1 << 16


async def answer_questions(path: Path, answers: Mapping[str, Callable[..., Awaitable[Any]]]) -> asyncio.Server:
    """Listen there, and answer each question by the function of its name; its answers are plain values."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            name, arguments = msgpack.unpackb(await reader.read(_MOST_BYTES))
            writer.write(msgpack.packb(await answers[name](*arguments)))
            await writer.drain()
        except Exception:  # whoever asks sees the end of the connection
            logger.exception("a question was not answered")
        finally:
            writer.close()

    return await asyncio.start_unix_server(one, str(path))


async def ask(path: Path, name: str, *arguments: Any) -> Any:
    """The answer of a core.

    Raises:
        OSError: it does not answer, or not within `PATIENCE_S`.
    """
    return await asyncio.wait_for(_ask(path, name, arguments), PATIENCE_S)


async def _ask(path: Path, name: str, arguments: Any) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(msgpack.packb((name, arguments)))
        writer.write_eof()
        answer = await reader.read()
        try:
            return msgpack.unpackb(answer, strict_map_key=False)
        except ValueError:  # nothing, or what ends in the middle, since the core died
            raise OSError(f"no answer to {name!r} from {path}") from None
    finally:
        writer.close()
