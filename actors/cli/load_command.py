"""`headtail load`, also `python -m actors`: the load job's command line."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from actors.load import applications
from actors.load.config import FRAME_AGE_MS, VIDEO, LoadConfig
from actors.report import report_tables
from actors.report.result import Result, document
from slicer.common import command_line
from slicer.common.command_line import Command, Parsed, option, say
from slicer.core.codecs.activations import CODECS
from slicer.core.protocol.outputs import FURTHER, LOGITS
from slicer.errors import ConfigError

#: What `--demo` means where a flag does not say otherwise; everything else has the defaults of the flags.
DEMO: dict[str, Any] = {
    "strategy": ",".join(applications.DEMO_STRATEGIES),
    # Emulated boards of tens of ms: on two cores a generator that is late by 1 ms is more than 5 % of a native head.
    "fleet": "emulated",
    "device_rate": 4.0,
    "arrivals": "poisson",
    "duration": 3.0,
    "warmup": 0.5,
    "drain": 15.0,
    "resident": "all",
    "out": "report",
    "overwrite": True,  # of an earlier demo's report, so that `headtail load --demo` can be given again
}

#: Defaults of the flags, where neither the command line nor `--demo` says otherwise.
DEFAULTS: dict[str, Any] = {
    "strategy": "",
    "fleet": "demo",
    "arrivals": "poisson",
    "warmup": 2.0,
    "drain": 30.0,
    "resident": "one",
    "think_ms": 0.0,
    "seeds": "1",
    "images": "digits",
    "top_k": 5,
    "slices": 4,
    "accelerator": "auto",
    "max_batch": 32,
}


@dataclass(frozen=True)
class LoadFlags:
    """The flags of `headtail load`; None: not given, so that a default is never taken for a wish."""

    demo: bool | None = None
    server: str | None = None
    address: str | None = None
    fleet: str | None = None
    model: str | None = None
    strategy: str | None = None
    rate: float | None = None
    device_rate: float | None = None
    arrivals: str | None = None
    concurrency: int | None = None
    think_ms: float | None = None
    duration: float | None = None
    requests: int | None = None
    warmup: float | None = None
    drain: float | None = None
    seeds: str | None = None
    max_age_ms: float | None = None
    deadline_ms: float | None = None
    images: str | None = None
    video: tuple[str, ...] = ()
    more_video: tuple[str, ...] = ()
    labels: str | None = None
    top_k: int | None = None
    codec: str | None = None
    outputs: list[str] | None = None
    slices: int | None = None
    accelerator: str | None = None
    accelerator_profile: str | None = None
    max_batch: int | None = None
    resident: str | None = None
    out: str | None = None
    overwrite: bool | None = None
    json: bool | None = None


def config_of(flags: LoadFlags) -> LoadConfig:
    """What the flags mean.

    Raises:
        ConfigError: a value is wrong or contradicts another; the message names it and the remedy.
    """

    def value(name: str) -> Any:
        given = getattr(flags, name)
        if given is not None:
            return given
        return DEMO[name] if flags.demo and name in DEMO else DEFAULTS.get(name)

    _refuse_idle(flags)
    video = (*flags.video, *flags.more_video)
    if flags.more_video and not flags.video:
        raise ConfigError(f"{flags.more_video[0]!r} follows no flag; is it a file of --video?")
    rates = (flags.rate, flags.device_rate, flags.concurrency)
    load_given = any(rate is not None for rate in rates) or (flags.arrivals or "").startswith("trace:") or bool(video)
    return LoadConfig(
        strategies=strategies_of(value("strategy"), flags.server),
        fleet=value("fleet"),
        model=flags.model,
        server=flags.server,
        rate_rps=flags.rate,
        device_rate_rps=flags.device_rate if load_given else value("device_rate"),
        concurrency=flags.concurrency,
        think_ms=value("think_ms"),
        arrivals=flags.arrivals or VIDEO if video else value("arrivals"),
        duration_s=flags.duration if flags.requests is not None else value("duration"),
        requests=flags.requests,
        warmup_s=value("warmup"),
        drain_s=value("drain"),
        seeds=seeds_of(value("seeds")),
        images=flags.images or VIDEO if video else value("images"),
        video=video,
        labels=flags.labels,
        max_age_ms=(flags.deadline_ms or FRAME_AGE_MS) if video and flags.max_age_ms is None else flags.max_age_ms,
        deadline_ms=flags.deadline_ms,
        slices=value("slices"),
        accelerator=value("accelerator"),
        accelerator_profile=flags.accelerator_profile,
        max_batch=value("max_batch"),
        resident=value("resident"),
        top_k=value("top_k"),
        codec=flags.codec,
        outputs=None if flags.outputs is None else tuple(flags.outputs),
        out=folder_of(value("out")),
        overwrite=bool(value("overwrite")),
        # The demo needs nothing else at hand; within a Ray job it stays in that job's cluster.
        address="local" if flags.demo and flags.address is None and "RAY_ADDRESS" not in os.environ else flags.address,
    )


def _refuse_idle(flags: LoadFlags) -> None:
    """Refuse flags that would do nothing beside others. Raises ConfigError.

    A flag that is not given is None, so a default is never taken for a wish.
    """
    idle = {
        "slices": flags.server and f"the server {flags.server} runs already, cut as it is",
        "max_batch": flags.server and f"the server {flags.server} runs already, with batches of its own",
        "accelerator": (flags.server and f"the server {flags.server} runs already, where it is")
        or (flags.accelerator_profile and "the accelerator of --accelerator-profile is emulated, on the CPU"),
        "accelerator_profile": flags.server
        and f"the server {flags.server} runs already, on its own accelerator (executor_options in its file)",
        "resident": flags.server and f"the server {flags.server} runs already, and stays",
        "arrivals": flags.concurrency is not None and "a closed loop (--concurrency) has no arrivals of its own",
        "think_ms": flags.concurrency is None and "only a closed loop (--concurrency) has pauses",
        "warmup": flags.concurrency is not None
        and flags.requests is not None
        and "a closed loop that ends by --requests has no warm-up by time",
    }
    for name, why in idle.items():
        given = getattr(flags, name)
        if why and given is not None and not (name == "warmup" and given == 0):  # 0 is what it comes to
            shown = f"{given:g}" if isinstance(given, float) else given
            raise ConfigError(f"--{name.replace('_', '-')} {shown} would do nothing: {why}; leave it out")


def strategies_of(text: str, running: str | None) -> tuple[str, ...]:
    """A comma-separated list, or all; empty with a running server: whatever it runs.

    Raises:
        ConfigError: an unknown strategy, or a list that names nothing.
    """
    known = applications.ALL_STRATEGIES
    if text == "all":
        return known
    names = tuple(applications.current_name(name.strip()) for name in text.split(",") if name.strip())
    for name in names:
        if name not in known and ":" not in name:
            raise ConfigError(f"unknown strategy {name!r}; this build has {', '.join(known)}, or package.module:Class")
    if text and not names:
        raise ConfigError(f"--strategy {text!r} names none; give some of {', '.join(known)}, or all")
    return names if names or running else ("per_tail_shared",)


def folder_of(text: str | None) -> Path | None:
    """The folder of the report. Raises ConfigError: its name is none."""
    if text is None:
        return None
    try:
        if text and "\0" not in text:
            return Path(text).expanduser()
    except RuntimeError:  # ~somebody
        pass
    raise ConfigError(f"--out {text!r} names no folder; give a path such as results/first")


def seeds_of(text: str) -> tuple[int, ...]:
    """`N` is how many (0 to N-1), `A,B,...` are the seeds themselves.

    Raises:
        ConfigError: no whole numbers.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: give how many (5), or a list of whole numbers (3,7)") from None
    if len(numbers) > 1:
        return numbers
    if not 1 <= numbers[0] <= 1000:
        raise ConfigError(f"--seeds {numbers[0]}: give 1 to 1000 seeds, or a list of them")
    return tuple(range(numbers[0]))


_WHO = "Who"
_LOAD = "Load: open loop (a rate) or closed loop (clients), never both"
_WHAT = "Images and answers"
_OWN = "Own servers"


@click.command(
    "load",
    cls=Command,
    examples=(
        ("headtail load --rate 20 --duration 10", "the shipped fleet against a server of its own"),
        ("headtail load --strategy per_slice,unbatched --rate 50 --duration 10 --seeds 3", "own servers, compared"),
        (
            "headtail load --accelerator-profile launch-bound --strategy continuous,per_tail --rate 100 --duration 10",
            "the same on an emulated accelerator",
        ),
        (
            "headtail load --server cameras --fleet fleet.yaml --rate 20 --duration 30 --out results/cameras",
            "a server that runs, a fleet of your own, a report",
        ),
        ("headtail load --server cameras --video a.mp4 b.mp4 --duration 30", "devices that are cameras"),
    ),
    notes="On a terminal tables are printed; elsewhere the last line of stdout is one JSON document. "
    "Exit status: 0 measured; 2 wrong input, no server, or one that went away; 130 interrupted.",
    interrupted="interrupted; everything it started is taken down",
)
@option("--demo", is_flag=True, default=None, help="Eight devices at cuts 0 to 4, six strategies, shipped digits.")
@option("--server", metavar="NAME", help="Use this running application; default: start own ones.", group=_WHO)
@option("--address", help="Ray cluster; default: a running one, else one here; local: always here.", group=_WHO)
@option("--fleet", metavar="FILE", help="Fleet YAML, or a shipped one: demo (default), emulated.", group=_WHO)
@option("--model", metavar="M", help="Model of the fleet; default: what the fleet file says.", group=_WHO)
@option(
    "--strategy",
    metavar="A,B,...",
    help="Strategies to compare, or all; with --server: must be its.",
    group=_WHO,
    shell_complete=command_line.among((*applications.ALL_STRATEGIES, "all")),
)
@option("--rate", type=float, metavar="R", help="Open loop: images per second of the whole fleet.", group=_LOAD)
@option("--device-rate", type=float, metavar="R", help="Open loop: images per second of each device.", group=_LOAD)
@option("--arrivals", metavar="KIND", help="Open loop: poisson (default), periodic or trace:FILE.", group=_LOAD)
@option("--concurrency", type=int, metavar="N", help="Closed loop: clients of the whole fleet.", group=_LOAD)
@option("--think-ms", type=float, metavar="MS", help="Closed loop: pause after an answer.", group=_LOAD)
@option("--duration", type=float, metavar="S", help="Length of the measured window.", group=_LOAD)
@option("--requests", type=int, metavar="N", help="Instead of --duration: images of the whole fleet.", group=_LOAD)
@option("--warmup", type=float, metavar="S", help="Load before the window, not counted (default 2).", group=_LOAD)
@option("--drain", type=float, metavar="S", help="Wait for open requests after the window (default 30).", group=_LOAD)
@option("--seeds", metavar="N", help="How many seeds (default 1), or a list such as 3,7.", group=_LOAD)
@option(
    "--max-age-ms",
    type=float,
    metavar="MS",
    help="Devices drop images older than this: misses. With --video: the deadline, else 1000.",
    group=_LOAD,
)
@option("--deadline-ms", type=float, metavar="MS", help="An answer later than this is refused: a miss.", group=_LOAD)
@option("--images", metavar="DIR", help="DIR/class/file, or digits (default).", group=_WHAT)
@option(
    "--video",
    type=click.Path(),
    multiple=True,
    metavar="FILE...",
    shell_complete=command_line.files,
    help="Each device is a camera that plays one of these files (in turn, again at the end): a frame is asked at its "
    "timestamp. Instead of a rate and --images. Needs pip install 'headtail[video]'.",
    group=_WHAT,
)
@click.argument("more_video", nargs=-1, metavar="", type=click.Path())
@option("--labels", metavar="CSV", help="Rows of file,label instead of class directories.", group=_WHAT)
@option("--top-k", type=int, metavar="K", help="Classes in an answer (default 5).", group=_WHAT)
@option(
    "--codec",
    metavar="C",
    help=f"Of all devices: {', '.join(CODECS)}, transform-995; default: as the fleet file says.",
    group=_WHAT,
)
@option(
    "--outputs",
    type=Parsed("A,B", command_line.names),
    help=f"Whole outputs instead of classes: {', '.join((LOGITS, *FURTHER))}; default: as the fleet file says.",
    group=_WHAT,
)
@option("--slices", type=int, metavar="N", help="Number of slices (default 4).", group=_OWN)
@option("--accelerator", type=click.Choice(["auto", "cuda", "cpu"]), help="Default auto.", group=_OWN)
@option(
    "--accelerator-profile",
    metavar="NAME",
    help="Emulate an accelerator with the times of this cost profile, a file or a shipped one (launch-bound, edge-gpu, "
    "cpu-like, ...). Its answers are real, its times emulated, and every figure says so.",
    group=_OWN,
)
@option("--max-batch", type=int, metavar="N", help="Most rows in one step (default 32).", group=_OWN)
@option(
    "--resident",
    type=click.Choice(["one", "all"]),
    help="One application at a time (default), or all at once.",
    group=_OWN,
)
@option("--out", metavar="DIR", help="Write report.html, report.md, records.jsonl and plots there.")
@option("--overwrite", is_flag=True, default=None, help="Replace the report of an earlier job there.")
@option("--json", is_flag=True, default=None, help="Print the JSON document on a terminal, too.")
def command(**given: Any) -> int:
    """Drive a fleet of devices against strategies, and say what was measured."""
    flags = LoadFlags(**given)
    config = config_of(flags)
    # Ray and torch are imported only once the input is known to be right.
    say("importing Ray and torch")
    from actors.load.job import Job, run_job
    from actors.report.files import reserved

    job = Job(config)
    with reserved(config.out, job.requests, overwrite=config.overwrite, say=say):
        result = run_job(job)
    return finish(result, config.out, json_wanted=bool(flags.json))


def main(argv: Sequence[str] | None = None) -> int:
    """`headtail load`, also headtail-load and `python -m actors`.

    0: measured; 2: wrong input, no server, or one that went away; 130: interrupted.
    """
    return command_line.main(command, argv)


def finish(result: Result, out: Path | None, *, json_wanted: bool = False, called: str = "headtail load") -> int:
    """Write the report, print the tables and, as the last line, the JSON document; on a terminal only where wanted.

    2 if a run failed (the server went away, a device died), a strategy answered nothing, or something could not be
    written; all else is written and printed all the same.
    """
    from actors.report import files as report_files

    failures = [
        f"{failure}; what was measured is above, start the server again for the rest" for failure in result.failures
    ]
    found = document(result)
    silent = [name for name, figures in found["strategies"].items() if not figures["answered"]]
    if silent:
        failures.append(
            f"no request was answered by {', '.join(silent)}; the remarks above say why, "
            "`serve status` what the server does"
        )
    at: Path | None = None
    written = ""
    if out is not None:
        problems = report_files.write(result, out)
        failures += problems
        if problems:
            written = f"\nreport: {out}, but not all of it, see below"
        else:
            written = f"\nreport: {out / 'report.html'}, report.md, records.jsonl (every request), plots"
            at = out / "result.json"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path in a remark need not fit the terminal's encoding
    try:
        print(report_tables.text(result))
        if written:
            print(written)
        print(json.dumps(found) if json_wanted or not sys.stdout.isatty() else _where(at), flush=True)
    except OSError as error:  # a full disk, or nobody who reads: `| head`
        failures.append(f"stdout cannot be written ({error.strerror})")
        command_line.give_up_stdout()
    for failure in failures:
        print(f"{called}: {failure}", file=sys.stderr)
    return 2 if failures else 0


def _where(at: Path | None) -> str:
    """Instead of the 40 kB of the document, which would sweep a terminal clean."""
    return (
        f"JSON document: {at}" if at is not None else "--json prints all figures as one JSON document, --out keeps it"
    )
