"""`headtail slice`: show where a model is cut and what each slice costs; write the slices as files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from slicer.cli.tables import Exported, boundaries, boundary_table, columns, describe, report
from slicer.common import command_line
from slicer.common.command_line import Command, Parsed, option
from slicer.common.yaml_files import parse_json
from slicer.core.common.error_text import shown
from slicer.core.planning.link_presets import PRESETS
from slicer.core.protocol.outputs import FURTHER
from slicer.errors import ConfigError
from slicer.planning import table as plan_table
from slicer.planning.table import PlanFlags

if TYPE_CHECKING:
    from slicer.slicing.slice_model import SlicedModel

#: The flags that mean nothing without --plan.
PLAN_FLAGS = tuple(one.name for one in fields(PlanFlags))


@dataclass(frozen=True)
class SliceFlags:
    """The flags of `headtail slice`; None: not given. Their help says what they mean."""

    model: str
    slices: int | Literal["all"] | None = None
    at: list[str | int] | None = None
    boundaries: bool | None = None
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    pretrained: bool | None = None
    img_size: int | None = None
    kwargs: dict[str, Any] | None = None
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    seed: int | None = None
    outputs: list[str] | None = None
    export: str | None = None
    format: Literal["safetensors", "onnx"] | None = None
    int8: bool | None = None
    calibrate: str | None = None
    refine: float | None = None
    labels: str | None = None
    profile: str | None = None
    batches: list[int] | None = None
    threads: int | None = None
    plan: str | None = None
    json: bool | None = None
    planner: PlanFlags = field(default_factory=PlanFlags)


def flags_of(given: Mapping[str, Any]) -> SliceFlags:
    """Typed, from what the command line gave."""
    mine = {name: value for name, value in given.items() if name not in PLAN_FLAGS}
    return SliceFlags(**mine, planner=PlanFlags(**{name: given[name] for name in PLAN_FLAGS}))


def run(**given: Any) -> int:
    """The command itself. Raises HeadTailError."""
    print(_run(flags_of(given)))
    return 0


def _run(flags: SliceFlags) -> str:
    _check(flags)
    # Here, so that --help and wrong arguments do not wait for torch.
    with command_line.progress("importing torch"):
        from slicer.models import zoo
        from slicer.slicing.slice_model import slice_spec

    kwargs = flags.kwargs or {}
    if flags.img_size is not None:
        kwargs = {**kwargs, "img_size": flags.img_size}
    spec = zoo.resolve(
        flags.model,
        kwargs=kwargs,
        checkpoint=flags.checkpoint,
        checkpoint_key=flags.checkpoint_key,
        pretrained=bool(flags.pretrained),
        dtype=flags.dtype,
        seed=flags.seed,
        outputs=flags.outputs,
    )
    if flags.seed is not None and (spec.checkpoint or spec.pretrained):
        what = f"the weights of {spec.checkpoint}" if spec.checkpoint else "pretrained weights"
        raise ConfigError(f"--seed {flags.seed} is for random weights, but {flags.model} has {what}; leave it out")
    with command_line.progress(f"building {flags.model} and cutting it"):
        sliced = slice_spec(spec, 4 if flags.slices is None else flags.slices, at=flags.at)
    if flags.boundaries:
        return json.dumps(boundaries(sliced)) if flags.json else boundary_table(flags.model, sliced)
    if flags.profile:
        return _profile(flags, Path(flags.profile), sliced)
    if flags.plan:
        return _plan(flags, flags.plan, sliced)
    exported = _export(flags, flags.export, sliced) if flags.export else None
    if flags.json:
        return json.dumps(describe(flags.model, sliced, exported))
    return report(flags.model, sliced, exported)


def _export(flags: SliceFlags, directory: str, sliced: SlicedModel) -> Exported:
    from slicer import onnx, shards

    labels = _labels(flags, sliced)
    with command_line.progress("slices written", sliced.num_slices) as bar:
        if flags.format == "onnx":
            both = onnx.export(sliced, directory, int8=bool(flags.int8), labels=labels, progress=bar.to)
            exported = Exported(directory, *both)
        else:
            exported = Exported(directory, shards.export(sliced, directory, labels=labels, progress=bar.to))
    if flags.calibrate is None:
        return exported
    from slicer.calibration.calibrate import calibrate

    with command_line.progress("cuts calibrated", sliced.num_slices - 1) as bar:
        refine_s = 60 * (flags.refine or 0.0)
        found = calibrate(sliced, exported.manifest, flags.calibrate, directory, refine_s=refine_s, progress=bar.to)
    return replace(exported, calibration=found.index, left_out=found.left_out, ways=found.ways)


def _labels(flags: SliceFlags, sliced: SlicedModel) -> tuple[str, ...]:
    from slicer.models.labels import given_labels, labels_of

    wanted = given_labels(flags.labels or "auto")
    output = sliced.shape_at(sliced.num_slices)
    return labels_of(wanted, sliced.module, sliced.spec, output, name=flags.model)


def _check(flags: SliceFlags) -> None:
    """Refuse what would do nothing: flags of something that is not asked for, and two answers to one question."""
    all_flags = {**vars(flags), **vars(flags.planner)}
    given = [
        name for name, value in all_flags.items() if name != "planner" and value is not None and value is not False
    ]
    asked = [flag for flag in ("boundaries", "profile", "plan", "export") if flag in given]
    if len(asked) > 1:
        names = " and ".join(f"--{flag}" for flag in asked)
        raise ConfigError(f"{names}: one at a time; run the command once for each")
    for flag in given:
        name = f"--{flag.replace('_', '-')}"
        if flag in ("batches", "threads") and "profile" not in given:
            raise ConfigError(f"{name} is for measuring; give --profile FILE, or leave it out")
        if flag in PLAN_FLAGS and "plan" not in given:
            raise ConfigError(f"{name} is for the planner; give --plan PROFILE, or leave it out")
        if flag == "labels" and "export" not in given:
            raise ConfigError("--labels is for the files of an export; give --export DIR, or leave it out")
        if flag == "format" and "export" not in given:
            raise ConfigError(
                f"--format {flags.format} is for the files of an export; give --export DIR, or leave it out"
            )
        if flag == "calibrate" and "export" not in given:
            raise ConfigError(
                f"--calibrate {flags.calibrate} is for the files of an export; give --export DIR, or leave it out"
            )
        if flag == "refine" and "calibrate" not in given:
            raise ConfigError(f"--refine {flags.refine:g} is for tables; give --calibrate IMAGES, or leave it out")
        if flag == "int8" and flags.format != "onnx":
            raise ConfigError("--int8 is for ONNX files; give --export DIR --format onnx, or leave it out")
        if flag in ("slices", "at") and "boundaries" in given:
            raise ConfigError(f"{name}: --boundaries lists every place where the model can be cut; leave it out")
    if "slices" in given and "at" in given:
        raise ConfigError(f"--slices {flags.slices}: --at says where to cut, and so into how many; leave one out")


def _profile(flags: SliceFlags, path: Path, sliced: SlicedModel) -> str:
    import torch

    from slicer.profiles import measure

    _check_writable(path)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    profile = measure.measure_profile(
        sliced,
        name=path.stem,
        model=_lasting_name(flags.model, sliced),
        batches=flags.batches or [1],
        progress=lambda line: print(f"headtail slice: {line}", file=sys.stderr, flush=True),
    )
    text = measure.to_yaml(profile)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(text)  # what was measured is not lost
        raise ConfigError(f"--profile {path}: cannot be written ({error.strerror}); it is printed above") from error
    if flags.json:
        return json.dumps(profile.model_dump(mode="json"))
    lines = [f"written to {path}; a fleet's group takes it as `profile: {path}`, --plan as `--plan {path}`"]
    if note := measure.unsteady(profile):
        lines.append(f"NOTE: {note}")
    return "\n".join([text, *lines])


def _lasting_name(model: str, sliced: SlicedModel) -> str:
    """What a profile calls a model: of a folder what its manifest says, since a path is of one machine."""
    spec = sliced.spec
    return spec.architecture if spec is not None and spec.kind == "hf" else model


def _check_writable(path: Path) -> None:
    """Before a minute of measuring. Raises ConfigError."""
    try:
        there = path.exists()
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigError(
            f"--profile {path}: cannot be written ({error.strerror}); give a file in a folder that can"
        ) from None


def _plan(flags: SliceFlags, device: str, sliced: SlicedModel) -> str:
    from slicer.profiles.device_profile import load_device_profile

    profile = load_device_profile(device)
    given = flags.planner.server_profile
    on_server = load_device_profile(given) if given is not None else None
    estimates, chosen = plan_table.plan(flags.planner, sliced, profile, on_server)
    n, told = sliced.num_slices, plan_table.told(flags.planner)
    if flags.json:
        return json.dumps(plan_table.document(estimates, chosen, n, told))
    said = f"{flags.model} on device {profile.name!r} ({', '.join(profile.emulated)})"
    if on_server is not None:
        said += f", its rest on {on_server.name!r} ({', '.join(on_server.emulated)})"
    lines = [said, ""]
    lines += columns(plan_table.rows(estimates, chosen, n, told))
    if not told:
        lines += ["", plan_table.UNTOLD]
    elif flags.planner.wait_ms is None:
        lines += ["", "Nobody else uses the server in this table: --wait-ms says how long requests wait in its queues."]
    return "\n".join(lines)


_PLAN = "Plan: which cut and codec a device of a profile would choose, and why"
_MINUTES = Parsed("MINUTES", plan_table.number)
_NUMBER, _NUMBERS = Parsed("X", plan_table.number), Parsed("X0,X1,...", plan_table.numbers)


def _slices(text: str) -> int | Literal["all"]:
    if text != "all" and not text.isdecimal():
        raise ValueError(f"{text!r} is neither a number nor all")
    return "all" if text == "all" else int(text)


def _places(text: str) -> list[str | int]:
    return [int(place) if place.isdecimal() else place for place in (part.strip() for part in text.split(","))]


def _batches(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
        if not all(1 <= size <= 4096 for size in sizes):
            raise ValueError
        return sizes
    except ValueError:
        raise ValueError(f"{text[:50]!r} is no list of batch sizes such as 1,2,4") from None


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= len(text) <= 4 or not 1 <= int(text) <= 1024:
        raise ValueError(f"{text[:50]!r} is no number of threads from 1 to 1024")
    return int(text)


def _kwargs(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text, "JSON")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError(f'{shown(repr(text))} is not a JSON object such as {{"depth": 6}}')
    return value


@click.command(
    "slice",
    cls=Command,
    examples=(
        ("headtail slice deit_tiny_patch16_224", "per slice: parameters, bytes, FLOPs, activation out"),
        ("headtail slice digits_vit --boundaries", "every place where the model can be cut"),
        ("headtail slice digits_vit --export shards/", "one safetensors file per slice and a manifest with sha256"),
        ("headtail slice digits_vit --profile board.yaml", "time each slice on this machine, as a device profile"),
        ("headtail slice digits_vit --plan fast-board --link wifi --execution-ms 2", "the best cut, and why"),
    ),
    notes="Exit status: 0 done; 2 wrong input.",
)
@click.argument("model")
@option("--slices", type=Parsed("N", _slices), metavar="N", help="Even in FLOPs (default 4); or: all.")
@option("--at", type=Parsed("A,B", _places), help="Cut here instead: after these blocks or boundaries.")
@option("--boundaries", is_flag=True, default=None, help="List every place where the model can be cut, and stop.")
@option("--checkpoint", metavar="FILE", help="Weights (.safetensors, .pth, .ckpt, ...).")
@option("--checkpoint-key", metavar="KEY", help="Where in that file they lie, such as model_ema or state_dict.teacher.")
@option("--pretrained", is_flag=True, default=None, help="timm's pretrained weights (model hub or its local cache).")
@option("--img-size", type=int, metavar="PX", help="Side of the square input, if not the model's own.")
@option("--kwargs", type=Parsed("JSON", _kwargs), help='More arguments of the model, such as {"depth": 6}.')
@option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Of weights and activations (default fp32).")
@option("--seed", type=int, metavar="N", help="Of random weights, where none are given (default 0).")
@option("--outputs", type=Parsed("A,B", command_line.names), help=f"Beside its own result: {', '.join(FURTHER)}.")
@option("--export", metavar="DIR", help="Write one safetensors file per slice and a manifest.")
@option(
    "--format",
    type=click.Choice(["safetensors", "onnx"]),
    help="Of --export; onnx: ONNX files as well, for devices without torch. Needs pip install 'headtail[onnx]'.",
)
@option("--int8", is_flag=True, default=None, help="Of --format onnx: also files with weights of 8 bits.")
@option("--calibrate", metavar="IMAGES", help="Of --export: a folder of photos, for codecs of about a JPEG's size.")
@option("--refine", type=_MINUTES, help="Of --calibrate: a learned step of so many minutes, kept where it helps.")
@option("--labels", metavar="FILE", help="Of --export: names of the classes (default: what the checkpoint says).")
@option("--profile", metavar="FILE", help="Time every slice on this machine and write a device profile.")
@option("--batches", type=Parsed("1,2,...", _batches), help="Of --profile (default 1).")
@option("--threads", type=Parsed("N", _threads), help="Of torch, for --profile (default: torch's own).")
@option("--plan", metavar="PROFILE", help="The device: a profile file, or a shipped one's name.", group=_PLAN)
@option("--link", type=click.Choice(sorted(PRESETS)), help="Instead of rates and --round-trip-ms.", group=_PLAN)
@option("--mbit-per-s", type=_NUMBER, help="Rate of the link upwards (default 50).", group=_PLAN)
@option("--down-mbit-per-s", type=_NUMBER, help="Downwards (default: as upwards).", group=_PLAN)
@option("--round-trip-ms", type=_NUMBER, help="Of a small message (default 10).", group=_PLAN)
@option("--rate", type=_NUMBER, help="Images per second that the device takes (default 0).", group=_PLAN)
@option("--execution-ms", type=_NUMBERS, help="Of the server's tail, per entry or one.", group=_PLAN)
@option("--server-profile", metavar="FILE", help="Instead: what --profile wrote on the server.", group=_PLAN)
@option("--wait-ms", type=_NUMBERS, help="In the server's queues, per entry or one.", group=_PLAN)
@option("--deadline-ms", type=_NUMBER, help="Meet it at the least execution on the server.", group=_PLAN)
@option("--agreement", type=_NUMBER, help="Least top-1 agreement of the codec (default 0.99).", group=_PLAN)
@option("--calibration", metavar="DIR", help="What --calibrate wrote: its codecs are offered, too.", group=_PLAN)
@option("--joule-ms", type=_NUMBER, help="Worth of a joule of the device, in ms (default 0).", group=_PLAN)
@option("--server-ms", type=_NUMBER, help="Worth of a ms of the server, in ms (default 0).", group=_PLAN)
@option("--json", is_flag=True, default=None, help="Print one JSON document instead of a table.")
def command(**given: Any) -> int:
    """Show where a model is cut and what each slice costs.

    A device runs the first slices of a model, the server the rest. MODEL is a timm name, package.module:callable, a
    model file (.yaml), a demo model (digits_vit, digits_swin), hf:ORG/NAME of the Hugging Face hub, or a folder that
    transformers saved.
    """
    return run(**given)


def main(argv: Sequence[str] | None = None) -> int:
    """`headtail slice`, and its old name headtail-slice. 0, or 2 after a message on stderr when the input is wrong."""
    return command_line.main(command, argv)
