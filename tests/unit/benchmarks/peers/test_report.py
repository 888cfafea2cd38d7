"""The table and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.peers import cpu_at
from benchmarks.peers.report import draw, lines


def point(rate: float, p50: float | None, valid: bool = True) -> dict[str, Any]:
    return {
        "rate_rps": rate,
        "p50_ms": p50,
        "p99_ms": p50 and 2 * p50,
        "valid": valid,
        "stable": p50 is not None,
        "cpu_us_per_request": 500 + rate,
    }


DOCUMENT: dict[str, Any] = {
    "profile": "launch-bound",
    "emulated": ["accelerator"],
    "rates": [40.0, 330.0],
    "peers": {
        "headtail_continuous": {"40": point(40, 10.0), "330": point(330, 20.0, valid=False)},
        "fastapi": {"40": point(40, 13.0), "330": point(330, None)},
    },
    "rate_within_100ms": {"headtail_continuous": 600.0, "fastapi": 100.0},
    "cpu_us_per_request": {"headtail_continuous": 830, "fastapi": 540},
    "settings": {"headtail_continuous": {}, "fastapi": {}, "triton": {"delay_ms": 1}},
    "skipped": {"litserve": "not installed"},
}


def test_the_table_says_what_was_overrun_what_is_invalid_and_what_was_skipped() -> None:
    text = "\n".join(lines(DOCUMENT))
    assert "| headtail_continuous | 10/20 | 20/40 * | 600/s | 830 |" in text
    assert "| fastapi | 13/26 | - | 100/s | 540 |" in text
    assert "triton: best of its grid: delay_ms 1" in text and "litserve: skipped: not installed" in text
    assert "emulated: accelerator" in text


def test_the_picture_is_drawn_twice(tmp_path: Path) -> None:
    draw(DOCUMENT, tmp_path / "peers")
    assert (tmp_path / "peers.svg").stat().st_size > 1000 and (tmp_path / "peers.png").stat().st_size > 1000


def test_cpu_is_that_at_330_or_at_the_highest_rate_below_that_the_server_bore() -> None:
    assert cpu_at(DOCUMENT["peers"]["headtail_continuous"]) == {"rps": 330, "us": 830}
    assert cpu_at(DOCUMENT["peers"]["fastapi"]) == {"rps": 40, "us": 540}
    assert cpu_at({"40": point(40, None)}) is None
