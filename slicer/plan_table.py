"""`headtail-slice --plan`: why the planner chooses what it chooses, as a table over all cuts and codecs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slicer import codec as codecs
from slicer.errors import ConfigError
from slicer.link_presets import PRESETS
from slicer.planner import DeviceView, Estimate, Facts, Goal, LinkView, ServerView, choose, estimate_all

if TYPE_CHECKING:
    from slicer.profiles import Profile
    from slicer.sliced import SlicedModel


#: What add_arguments adds beside --plan; none of them means anything without it.
FLAGS: tuple[str, ...] = (
    "link",
    "mbit_per_s",
    "round_trip_ms",
    "rate",
    "execution_ms",
    "wait_ms",
    "deadline_ms",
    "agreement",
    "joule_ms",
    "server_ms",
)


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What --plan goes by."""
    group = p.add_argument_group("plan", "which cut and codec a device of a profile would choose, and why")
    group.add_argument("--plan", metavar="PROFILE", help="the device: a profile file, or a shipped one's name")
    group.add_argument("--link", choices=sorted(PRESETS), help="a preset, instead of --mbit-per-s and --round-trip-ms")
    group.add_argument("--mbit-per-s", type=float, help="rate of the link upwards (default 50)")
    group.add_argument("--round-trip-ms", type=float, help="of a small message (default 10)")
    group.add_argument("--rate", type=float, help="images per second that the device takes (default 0)")
    group.add_argument("--execution-ms", type=_numbers, metavar="E0,E1,...", help="of the server's tail, per entry")
    group.add_argument("--wait-ms", type=_numbers, metavar="W0,W1,...", help="in the server's queues, per entry or one")
    group.add_argument("--deadline-ms", type=float, help="meet it at the least execution on the server")
    group.add_argument("--agreement", type=float, help="least top-1 agreement of the codec with fp32 (default 0.99)")
    group.add_argument("--joule-ms", type=float, help="worth of a joule of the device, in ms (default 0)")
    group.add_argument("--server-ms", type=float, help="worth of a ms of the server's execution, in ms (default 0)")


def plan(args: argparse.Namespace, sliced: SlicedModel, profile: Profile) -> tuple[list[Estimate], Estimate | None]:
    """All estimates, and the chosen one. Raises ConfigError for a profile that does not fit the model."""
    n = sliced.num_slices
    if profile.kind == "native":
        raise ConfigError("--plan native: a native device has no times on file; measure one with --profile FILE")
    if len(profile.slices_ms) != n:
        raise ConfigError(
            f"profile {profile.name!r} has times for {len(profile.slices_ms)} slices, the model is cut into {n}; "
            f"give --slices {len(profile.slices_ms)}, or measure one with --profile FILE"
        )
    facts = Facts(
        tuple(tuple(sliced.shape_at(cut)) for cut in range(n + 1)),
        tuple(part.weight_bytes for part in sliced.slices),
        tuple(range(n)),
        codecs.CODECS + codecs.IMAGE_CODECS,
    )
    device = DeviceView(
        tuple(spread.mean_ms for spread in profile.slices_ms),
        profile.preprocess_ms.mean_ms if profile.preprocess_ms else 0.0,
        memory_bytes=profile.memory_budget_bytes,
        rate_rps=args.rate or 0.0,
        watts=profile.watts,
        joules_per_mb=profile.joules_per_mb,
    )
    agreement = 0.99 if args.agreement is None else args.agreement
    goal = Goal(args.joule_ms or 0.0, args.server_ms or 0.0, args.deadline_ms, agreement=agreement)
    server = ServerView(_per_entry(args.wait_ms, n, "--wait-ms"), _per_entry(args.execution_ms, n, "--execution-ms"))
    estimates = estimate_all(facts, device, link_of(args), server, goal)
    return estimates, choose(estimates, goal)


def link_of(args: argparse.Namespace) -> LinkView:
    """The preset, or what the numbers say."""
    if args.link is None:
        mbit = 50.0 if args.mbit_per_s is None else args.mbit_per_s
        if mbit <= 0:
            raise ConfigError(f"--mbit-per-s {mbit:g}: a rate above 0")
        return LinkView(mbit * 1e6 / 8, 10.0 if args.round_trip_ms is None else args.round_trip_ms)
    if args.mbit_per_s is not None or args.round_trip_ms is not None:
        raise ConfigError("--link names rate and round trip; leave --mbit-per-s and --round-trip-ms out")
    preset = PRESETS[args.link]
    return LinkView(preset.mbit_per_s * 1e6 / 8, 2 * (preset.delay_ms + preset.jitter_ms))


def document(estimates: list[Estimate], chosen: Estimate | None) -> dict[str, Any]:
    """What --json prints."""
    return {
        "chosen": asdict(chosen.choice) if chosen else None,
        "choices": [{**asdict(one), **asdict(one.choice), "choice": None} for one in estimates],
    }


def rows(estimates: list[Estimate], chosen: Estimate | None) -> list[list[str]]:
    """The table's cells, header first; the chosen row is marked."""
    head = ["cut", "codec", "bytes", "device", "wait", "upload", "round trip", "server", "total ms", "memory", "joules"]
    table = [[*head, "remark"]]
    for one in estimates:
        mark = "<- chosen" if chosen is not None and one.choice == chosen.choice else one.refused
        table.append(
            [
                str(one.choice.cut),
                one.choice.codec if one.payload_bytes else "-",
                f"{one.payload_bytes:,}" if one.payload_bytes else "-",
                f"{one.head_ms + one.encode_ms:.1f}",
                f"{one.device_wait_ms + one.upload_wait_ms + one.server_wait_ms:.1f}",
                f"{one.upload_ms:.1f}",
                f"{one.round_trip_ms:.1f}",
                f"{one.execution_ms:.1f}",
                f"{one.total_ms:.1f}",
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


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 10.8,8.1,5.4,2.7") from None
