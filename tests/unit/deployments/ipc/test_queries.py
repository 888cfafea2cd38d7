"""What a front asks a core beside rows: one question a connection, and OSError where there is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.ipc.queries import answer_questions, ask

LIMIT_S = 30.0


def run(work: Callable[[Path], Awaitable[Any]], path: Path) -> Any:
    async def whole() -> Any:
        async def echo(*arguments: Any) -> Any:
            return list(arguments)

        async def fail() -> None:
            raise RuntimeError("no")

        server = await answer_questions(path, {"echo": echo, "fail": fail})
        try:
            return await asyncio.wait_for(work(path), LIMIT_S)
        finally:
            server.close()

    return asyncio.run(whole())


def test_plain_values_of_any_size_go_there_and_back(tmp_path: Path) -> None:
    values = [None, 1, 0.5, "text", b"bytes", {"a": {"b": [True]}}, "long" * 100_000]

    async def work(path: Path) -> None:
        assert await ask(path, "echo", *values[:-1]) == values[:-1]
        answers = await asyncio.gather(*(ask(path, "echo", number) for number in range(50)))
        assert answers == [[number] for number in range(50)]

    run(work, tmp_path / "q")


def test_a_long_answer_comes_whole(tmp_path: Path) -> None:
    async def whole() -> None:
        async def steps(count: int) -> Any:
            return [{"rows": number} for number in range(count)]

        server = await answer_questions(tmp_path / "q", {"steps": steps})
        assert len(await asyncio.wait_for(ask(tmp_path / "q", "steps", 100_000), LIMIT_S)) == 100_000
        server.close()

    asyncio.run(whole())


@pytest.mark.parametrize("name", ["fail", "unknown"])
def test_a_question_that_cannot_be_answered_ends_alone(name: str, tmp_path: Path) -> None:
    async def work(path: Path) -> None:
        with pytest.raises(OSError, match="no answer"):
            await ask(path, name)
        assert await ask(path, "echo") == []

    run(work, tmp_path / "q")


def test_nonsense_ends_its_connection_alone(tmp_path: Path) -> None:
    async def work(path: Path) -> None:
        for nonsense in (b"\xc1", b"\x01", b"\x92\xa4echo\x01", b""):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(nonsense)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        assert await ask(path, "echo", 1) == [1]

    run(work, tmp_path / "q")


def test_a_core_that_is_not_there_or_dies_before_it_has_answered_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        asyncio.run(ask(tmp_path / "nobody", "echo"))

    async def whole(said: bytes) -> None:
        async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.write(said)
            writer.close()

        server = await asyncio.start_unix_server(dies, str(tmp_path / f"q{len(said)}"))
        with pytest.raises(OSError, match="no answer"):
            await asyncio.wait_for(ask(tmp_path / f"q{len(said)}", "echo"), LIMIT_S)
        server.close()

    for said in (b"", b"\x92\x01", b"\xda\xff\xff" + b"x" * 100):  # nothing, and what ends in the middle
        asyncio.run(whole(said))
