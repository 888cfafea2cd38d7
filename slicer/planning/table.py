"""`headtail slice --plan`: why the planner chooses what it chooses, as a table over all cuts and codecs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from slicer.core.codecs.registry import CODECS, IMAGE_CODECS
from slicer.core.codecs.transform.names import NAMES
from slicer.core.planning.cut_planner import (
    Choice,
    DeviceView,
    Estimate,
    Goal,
    LinkView,
    ModelFacts,
    ServerView,
    choose,
    estimate_all,
)
from slicer.core.planning.link_presets import PRESETS
from slicer.core.protocol.calibration_index import Measured, load_calibration
from slicer.core.protocol.outputs import bytes_of
from slicer.core.shards.manifest import load_manifest
from slicer.errors import ConfigError

if TYPE_CHECKING:
    from slicer.profiles.device_profile import Profile
    from slicer.slicing.sliced_model import SlicedModel


@dataclass(frozen=True)
class PlanFlags:
    """What --plan goes by; None: not given. The flags are `slicer.cli`'s, and none means anything without --plan.

    Attributes:
        link: a preset, instead of mbit_per_s, down_mbit_per_s (as upwards) and round_trip_ms (of a small message).
        rate: images per second that the device takes.
        execution_ms: of the server's tail, per entry or one; server_profile: a file instead.
        wait_ms: in the server's queues, per entry or one.
        deadline_ms: met at the least execution on the server.
        agreement: least top-1 agreement of the codec with fp32.
        joule_ms, server_ms: worth, in ms, of a joule of the device and of a ms of the server's execution.
        calibration: a folder that --calibrate wrote, whose codecs are offered, too.
    """

    link: str | None = None
    mbit_per_s: float | None = None
    down_mbit_per_s: float | None = None
    round_trip_ms: float | None = None
    rate: float | None = None
    execution_ms: list[float] | None = None
    server_profile: str | None = None
    wait_ms: list[float] | None = None
    deadline_ms: float | None = None
    agreement: float | None = None
    joule_ms: float | None = None
    server_ms: float | None = None
    calibration: str | None = None


#: What stands where a figure hangs on the server's time, or on the size of a camera's image, which nobody told.
UNKNOWN = "?"

UNTOLD = (
    "How long the server takes is not known, so the total of no cut that needs it is, and none is chosen. Give "
    "--server-profile FILE, which headtail slice --profile FILE wrote on the server, or --execution-ms (0: a server "
    "that takes no time worth counting)."
)


def told(flags: PlanFlags) -> bool:
    """Whether anything says how long the server takes."""
    return flags.execution_ms is not None or flags.server_profile is not None


def plan(
    flags: PlanFlags, sliced: SlicedModel, profile: Profile, on_server: Profile | None = None
) -> tuple[list[Estimate], Estimate | None]:
    """All estimates, and the chosen one; None: none is offered, or what the server takes would decide and is not told.

    Args:
        on_server: of the server, in place of --execution-ms.

    Raises:
        ConfigError: a profile does not fit the model, or the server's times are told twice.
    """
    n = sliced.num_slices
    _check("--plan", profile, n)
    execution_ms = _per_entry(flags.execution_ms, n, "--execution-ms")
    if on_server is not None:
        if execution_ms:
            raise ConfigError("--server-profile and --execution-ms both say how long the server takes; give one")
        _check("--server-profile", on_server, n)
        execution_ms = {cut: sum(spread.mean_ms for spread in on_server.slices_ms[cut:]) for cut in range(n)}
    calibrated = _calibrated(flags.calibration, sliced) if flags.calibration is not None else {}
    facts = ModelFacts(
        tuple(tuple(sliced.shape_at(cut)) for cut in range(n + 1)),
        tuple(part.weight_bytes for part in sliced.slices),
        tuple(range(n)),
        # What nobody measured is not listed: it would be refused at every cut.
        (*CODECS, *NAMES, *(name for name, one in IMAGE_CODECS.items() if calibrated or one.agreement)),
        calibrated=calibrated,
        answer_bytes=bytes_of(sliced.outputs, [one.name for one in sliced.outputs[1:]]),
    )
    device = DeviceView(
        tuple(spread.mean_ms for spread in profile.slices_ms),
        profile.preprocess_ms.mean_ms if profile.preprocess_ms else 0.0,
        memory_bytes=profile.memory_budget_bytes,
        rate_rps=flags.rate or 0.0,
        watts=profile.watts,
        joules_per_mb=profile.joules_per_mb,
    )
    agreement = 0.99 if flags.agreement is None else flags.agreement
    goal = Goal(flags.joule_ms or 0.0, flags.server_ms or 0.0, flags.deadline_ms, agreement=agreement)
    server = ServerView(_per_entry(flags.wait_ms, n, "--wait-ms"), execution_ms)
    estimates = estimate_all(facts, device, link_of(flags), server, goal)
    chosen = choose(estimates, goal)
    if chosen is not None and chosen.choice.cut < n and not told(flags):
        chosen = None  # it is the best with a server of 0 ms; what wins against that, the whole device, wins anyway
    return estimates, chosen


def _calibrated(folder: str, sliced: SlicedModel) -> dict[Choice, Measured]:
    """What calibration found at the cuts of a model. Raises HeadTailError: it is another model's, or there is none."""
    index, manifest = load_calibration(folder), load_manifest(folder)
    if index is None or index.manifest != manifest.digest:
        raise ConfigError(
            f"--calibration {folder}: it holds no calibration of its shards; make one: headtail slice MODEL --export "
            f"{folder} --calibrate IMAGES"
        )
    mine = tuple(cut.name for cut in sliced.cuts)
    if manifest.boundaries != mine:
        raise ConfigError(
            f"--calibration {folder} is of a model cut at {', '.join(manifest.boundaries) or 'no place'}, this one is "
            f"cut at {', '.join(mine) or 'no place'}; give the same --slices or --at"
        )
    return {Choice(one.cut, one.codec): one for one in index.measured}


def _check(option: str, profile: Profile, n: int) -> None:
    if profile.kind == "native":
        raise ConfigError(f"{option} native: a native device has no times on file; measure one with --profile FILE")
    if len(profile.slices_ms) != n:
        raise ConfigError(
            f"profile {profile.name!r} has times for {len(profile.slices_ms)} slices, the model is cut into {n}; "
            f"give --slices {len(profile.slices_ms)}, or measure one with --profile FILE"
        )


def link_of(flags: PlanFlags) -> LinkView:
    """The preset, or what the numbers say."""
    if flags.link is None:
        up = 50.0 if flags.mbit_per_s is None else flags.mbit_per_s
        down = up if flags.down_mbit_per_s is None else flags.down_mbit_per_s
        for option, mbit in (("--mbit-per-s", up), ("--down-mbit-per-s", down)):
            if not 0 < mbit < math.inf:
                raise ConfigError(f"{option} {mbit:g}: a rate above 0")
        round_trip_ms = 10.0 if flags.round_trip_ms is None else flags.round_trip_ms
        return LinkView(up * 1e6 / 8, round_trip_ms, down_bytes_per_s=down * 1e6 / 8)
    if any(one is not None for one in (flags.mbit_per_s, flags.down_mbit_per_s, flags.round_trip_ms)):
        raise ConfigError(
            "--link names rates and round trip; leave --mbit-per-s, --down-mbit-per-s and --round-trip-ms out"
        )
    preset = PRESETS[flags.link]
    round_trip_ms = 2 * (preset.delay_ms + preset.jitter_ms)
    return LinkView(preset.mbit_per_s * 1e6 / 8, round_trip_ms, down_bytes_per_s=preset.down_mbit_per_s * 1e6 / 8)


def document(estimates: list[Estimate], chosen: Estimate | None, n: int, told: bool) -> dict[str, Any]:
    """What --json prints. Figures that hang on the server's time are null where that is not told."""
    unknown = dict.fromkeys(("execution_ms", "total_ms", "cost"))
    return {
        "chosen": asdict(chosen.choice) if chosen else None,
        "server_told": told,
        "choices": [
            {
                **asdict(one),
                **asdict(one.choice),
                "choice": None,
                **({} if told or one.choice.cut == n else unknown),
            }
            for one in estimates
        ],
    }


def rows(estimates: list[Estimate], chosen: Estimate | None, n: int, told: bool) -> list[list[str]]:
    """The table's cells, header first; the chosen row is marked. UNKNOWN hangs on what nobody told."""
    head = ["cut", "codec", "bytes", "device", "wait", "upload", "round trip", "server", "download", "total ms"]
    table = [[*head, "memory", "joules", "remark"]]
    for one in estimates:
        mark = "<- chosen" if chosen is not None and one.choice == chosen.choice else one.refused
        known = told or one.choice.cut == n
        sized = one.choice.cut == n or one.payload_bytes > 0
        table.append(
            [
                str(one.choice.cut),
                one.choice.codec if one.choice.cut < n else "-",
                f"{one.payload_bytes:,}" if one.payload_bytes else "-" if sized else UNKNOWN,
                f"{one.head_ms + one.encode_ms:.1f}",
                f"{one.device_wait_ms + one.upload_wait_ms + one.server_wait_ms:.1f}",
                f"{one.upload_ms:.1f}" if sized else UNKNOWN,
                f"{one.round_trip_ms:.1f}",
                f"{one.execution_ms:.1f}" if known else UNKNOWN,
                f"{one.download_ms:.1f}",
                f"{one.total_ms:.1f}" if known and sized else UNKNOWN,
                f"{one.memory_bytes / 1e6:.1f} MB",
                f"{one.joules:.3f}" if one.joules else "-",
                mark,
            ]
        )
    return table


def _per_entry(values: list[float] | None, n: int, option: str) -> dict[int, float]:
    if values is None:
        return {}
    if len(values) == 1:
        values = values * n
    if len(values) != n:
        raise ConfigError(f"{option}: {len(values)} values for {n} entries; give one per entry, or one for all")
    return dict(enumerate(values))


def numbers(text: str) -> list[float]:
    """A list of milliseconds with commas. ValueError says what is wrong."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(0 <= one < math.inf for one in found):
        raise ValueError(f"{text!r} is no list of milliseconds such as 10.8,8.1,5.4,2.7")
    return found


def number(text: str) -> float:
    """A number from 0 on. ValueError says what is wrong."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"{text!r} is no number from 0 on")
    return found
