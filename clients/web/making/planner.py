"""Plans: random models, devices, links, servers and goals, and what the planner makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from clients.web.making.numbers import Json, Numbers
from slicer.core.codecs.registry import CODECS, IMAGE_CODECS
from slicer.core.codecs.transform.names import NAMES
from slicer.core.planning.cut_planner import (
    Choice,
    DeviceView,
    Goal,
    LinkView,
    ModelFacts,
    ServerView,
    choose,
    estimate_all,
)
from slicer.core.protocol.calibration_index import Measured

#: Each has every cut with every codec, so this is what the file's size depends on.
_CASES = 120

#: Of the choice that is taken. By name, so that a further field of the planner's changes nothing here.
_FIELDS = (
    "device_wait_ms",
    "head_ms",
    "encode_ms",
    "upload_wait_ms",
    "upload_ms",
    "round_trip_ms",
    "server_wait_ms",
    "execution_ms",
    "download_ms",
    "total_ms",
    "payload_bytes",
    "memory_bytes",
    "joules",
    "cost",
)


def vectors() -> list[Json]:
    """What is known, as the planner's classes have it (what is missing has their defaults); all estimates as
    [cut, codec, total_ms, why it is refused]; and the chosen one, or null."""
    numbers = Numbers(17)
    return [_case(numbers) for _ in range(_CASES)]


def _case(numbers: Numbers) -> Json:
    facts = _facts(numbers)
    given: Json = {
        "facts": facts,
        "device": _device(numbers, len(facts["slice_bytes"])),
        "link": _link(numbers),
        "server": _server(numbers, facts["entries"]),
        "goal": _goal(numbers),
    }
    calibrated = facts.pop("calibrated")
    goal = Goal(**given["goal"])
    server = given["server"]
    estimates = estimate_all(
        ModelFacts(**facts, calibrated={Choice(one["cut"], one["codec"]): Measured(**one) for one in calibrated}),
        DeviceView(**given["device"]),
        LinkView(**given["link"]),
        None if server is None else ServerView(**{name: _by_entry(times) for name, times in server.items()}),
        goal,
    )
    best = choose(estimates, goal)
    found = [[one.choice.cut, one.choice.codec, one.total_ms, one.refused] for one in estimates]
    facts["calibrated"] = [
        {name: value for name, value in one.items() if not name.startswith("fidelity")} for one in calibrated
    ]
    return {**given, "estimates": found, "chosen": None if best is None else _chosen(best)}


def _chosen(best: Any) -> Json:
    return {**dataclasses.asdict(best.choice), **{name: getattr(best, name) for name in _FIELDS}}


def _facts(numbers: Numbers) -> Json:
    count = 1 + numbers.below(5)
    square = numbers.one_of((32, 96, 224))
    tokens, width = numbers.one_of(((65, 64), (197, 192), (50, 384)))
    maps = numbers.one_of((False, False, True))
    inner = [[width, 7 + numbers.below(8), 7] if maps else [tokens, width] for _ in range(count - 1)]
    shapes = [[3, square, square], *inner, [numbers.one_of((10, 1000))]]
    known = [*CODECS, *NAMES, *IMAGE_CODECS]
    codecs = ["fp32", *(codec for codec in known[1:] if numbers.below(4))]
    entries = [cut for cut in range(count) if cut == 0 or numbers.below(4)]
    found: Json = {
        "shapes": shapes,
        "slice_bytes": [1000 * (1 + numbers.below(9000)) for _ in range(count)],
        "entries": entries,
        "codecs": codecs,
    }
    if numbers.below(2):
        found["channel_axes"] = [0, *([0 if maps else len(shape) - 1 for shape in inner]), 0]
    if numbers.below(2):
        found["answer_bytes"] = numbers.one_of((4000, 150_000))
    return {**found, "calibrated": _calibrated(numbers, count) if numbers.below(2) else []}


def _calibrated(numbers: Numbers, count: int) -> list[Json]:
    choices = [(cut, codec) for cut in range(1, count) for codec in (*NAMES, "int8")]
    choices += [(0, codec) for codec in IMAGE_CODECS if "-" in codec]
    return [
        {
            "cut": cut,
            "codec": codec,
            "payload_bytes": 100 * numbers.within(8, 300),
            "fidelity": 0.99,
            "fidelity_p10": 0.98,
            "agreement": 1 - numbers.within(0, 1) / 32,
        }
        for cut, codec in choices
        if numbers.below(4)
    ]


def _device(numbers: Numbers, slices: int) -> Json:
    slow = numbers.one_of((1, 8, 40))
    found: Json = {"slices_ms": [numbers.within(0.25, 4) * slow for _ in range(slices)]}
    optional: Json = {
        "preprocess_ms": numbers.within(0, 8),
        "encode_ns": {codec: numbers.within(0, 8) for codec in CODECS if numbers.below(2)},
        "memory_bytes": 1000 * numbers.below(40_000),
        "rate_rps": numbers.one_of((0.0, 1.0, 5.0, 15.0, 30.0)),
        "burst": numbers.within(0, 2),
        "watts": numbers.within(1, 10),
        "joules_per_mb": numbers.within(0, 4),
        "size_ratio": numbers.within(0.5, 2),
        "waiting": numbers.below(6),
        "image_bytes": {codec: 1000 * numbers.within(2, 300) for codec in ("png", "jpeg") if numbers.below(4)},
    }
    return {**found, **{name: value for name, value in optional.items() if numbers.below(3)}}


def _link(numbers: Numbers) -> Json:
    optional: Json = {
        "bytes_per_s": numbers.one_of((2e4, 1.25e5, 1e6, 1.25e7)) * numbers.within(1, 4),
        "round_trip_ms": numbers.within(0, 60),
        "backlog_ms": numbers.one_of((0.0, 3.0, 50.0)),
        "down_bytes_per_s": numbers.one_of((1.25e5, 1e6, 1.25e7)) * numbers.within(1, 4),
    }
    return {name: value for name, value in optional.items() if numbers.below(6)}


def _server(numbers: Numbers, entries: list[int]) -> Json | None:
    if not numbers.below(12):
        return None
    slow = numbers.one_of((1, 10))
    known = [entry for entry in entries if numbers.below(8)]
    return {
        "wait_ms": {str(entry): numbers.within(0, 4) * slow for entry in known},
        "execution_ms": {str(entry): numbers.within(0.5, 6) * slow for entry in known},
    }


def _by_entry(times: Json) -> dict[int, float]:
    """JSON has no whole numbers as names."""
    return {int(entry): value for entry, value in times.items()}


def _goal(numbers: Numbers) -> Json:
    optional: Json = {
        "joule_ms": numbers.within(0, 100),
        "server_ms": numbers.within(0, 3),
        "deadline_ms": numbers.one_of((20.0, 60.0, 200.0, 1000.0)),
        "margin": numbers.within(0, 0.5),
        "agreement": numbers.one_of((0.0, 0.9, 0.98, 0.99, 0.997, 1.0)),
        "measured": {codec: 1 - numbers.within(0, 1) / 32 for codec in CODECS if numbers.below(3)},
    }
    return {name: value for name, value in optional.items() if not numbers.below(3)}
