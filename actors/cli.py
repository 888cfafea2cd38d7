"""`headtail-load`, also `python -m actors`: the load job's command line."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.load import applications
from actors.load.config import LoadConfig
from actors.report import report_tables
from actors.report.result import Result, document
from slicer.codecs.activations import CODECS
from slicer.errors import ConfigError, HeadTailError

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
    "overwrite": True,  # of an earlier demo's report, so that `make demo` can be given again
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


def parser() -> argparse.ArgumentParser:
    """The command line; also what the README's test reads."""
    p = argparse.ArgumentParser(
        prog="headtail-load",
        description="Drive a fleet of devices against one strategy or several, and say what was measured. "
        "The last line of stdout is one JSON document; on a terminal it goes to a file.",
        epilog="Exit status: 0 measured; 2 wrong input, no server, or one that went away; 130 interrupted.",
    )
    p.add_argument("--demo", action="store_true", help="eight devices at cuts 0 to 4, six strategies, shipped digits")
    who = p.add_argument_group("who")
    who.add_argument("--server", metavar="NAME", help="use this running application; default: start own ones")
    who.add_argument("--address", help="Ray cluster to join; default: a running one, else one here; local: always here")
    who.add_argument("--fleet", metavar="FILE", help="fleet YAML, or a shipped one: demo (default), emulated")
    who.add_argument("--model", help="model of the fleet; default: what the fleet file says")
    who.add_argument("--strategy", metavar="A,B,...", help="strategies to compare, or all; with --server: must be its")
    load = p.add_argument_group("load: open loop (a rate) or closed loop (clients), never both")
    load.add_argument("--rate", type=float, metavar="R", help="open loop: images per second of the whole fleet")
    load.add_argument("--device-rate", type=float, metavar="R", help="open loop: images per second of each device")
    load.add_argument("--arrivals", metavar="KIND", help="open loop: poisson (default), periodic or trace:FILE")
    load.add_argument("--concurrency", type=int, metavar="N", help="closed loop: clients of the whole fleet")
    load.add_argument("--think-ms", type=float, metavar="MS", help="closed loop: pause after an answer")
    load.add_argument("--duration", type=float, metavar="S", help="length of the measured window")
    load.add_argument("--requests", type=int, metavar="N", help="instead of --duration: images of the whole fleet")
    load.add_argument("--warmup", type=float, metavar="S", help="load before the window, not counted (default 2)")
    load.add_argument("--drain", type=float, metavar="S", help="wait for open requests after the window (default 30)")
    load.add_argument("--seeds", metavar="N", help="how many seeds (default 1), or a list such as 3,7")
    load.add_argument("--max-age-ms", type=float, metavar="MS", help="devices drop images older than this: misses")
    load.add_argument("--deadline-ms", type=float, metavar="MS", help="an answer later than this is refused: a miss")
    what = p.add_argument_group("images and answers")
    what.add_argument("--images", metavar="DIR", help="DIR/class/file, or digits (default)")
    what.add_argument("--labels", metavar="CSV", help="rows of file,label instead of class directories")
    what.add_argument("--top-k", type=int, metavar="K", help="classes in an answer (default 5)")
    what.add_argument("--codec", help=f"of the whole fleet: {', '.join(CODECS)}; default: as the fleet file says")
    own = p.add_argument_group("own servers")
    own.add_argument("--slices", type=int, help="number of slices (default 4)")
    own.add_argument("--accelerator", choices=("auto", "cuda", "cpu"), help="default auto")
    own.add_argument("--max-batch", type=int, help="most rows in one step (default 32)")
    own.add_argument("--resident", choices=("one", "all"), help="one application at a time (default), or all at once")
    p.add_argument("--out", metavar="DIR", help="write report.html, report.md, records.jsonl and plots there")
    p.add_argument("--overwrite", action="store_true", default=None, help="replace the report of an earlier job there")
    return p


def config_of(args: argparse.Namespace) -> LoadConfig:
    """What the flags mean.

    Raises:
        ConfigError: a value is wrong or contradicts another; the message names it and the remedy.
    """

    def value(name: str) -> Any:
        given = getattr(args, name)
        if given is not None:
            return given
        return DEMO[name] if args.demo and name in DEMO else DEFAULTS.get(name)

    _refuse_idle(args)
    rates = (args.rate, args.device_rate, args.concurrency)
    load_given = any(rate is not None for rate in rates) or (args.arrivals or "").startswith("trace:")
    return LoadConfig(
        strategies=strategies_of(value("strategy"), args.server),
        fleet=value("fleet"),
        model=args.model,
        server=args.server,
        rate_rps=args.rate,
        device_rate_rps=args.device_rate if load_given else value("device_rate"),
        concurrency=args.concurrency,
        think_ms=value("think_ms"),
        arrivals=value("arrivals"),
        duration_s=args.duration if args.requests is not None else value("duration"),
        requests=args.requests,
        warmup_s=value("warmup"),
        drain_s=value("drain"),
        seeds=seeds_of(value("seeds")),
        images=value("images"),
        labels=args.labels,
        max_age_ms=args.max_age_ms,
        deadline_ms=args.deadline_ms,
        slices=value("slices"),
        accelerator=value("accelerator"),
        max_batch=value("max_batch"),
        resident=value("resident"),
        top_k=value("top_k"),
        codec=args.codec,
        out=folder_of(value("out")),
        overwrite=bool(value("overwrite")),
        # The demo needs nothing else at hand; within a Ray job it stays in that job's cluster.
        address="local" if args.demo and args.address is None and "RAY_ADDRESS" not in os.environ else args.address,
    )


def _refuse_idle(args: argparse.Namespace) -> None:
    """Refuse flags that would do nothing beside others. Raises ConfigError.

    A flag that is not given is None in `args`, so a default is never taken for a wish.
    """
    idle = {
        "slices": args.server and f"the server {args.server} runs already, cut as it is",
        "max_batch": args.server and f"the server {args.server} runs already, with batches of its own",
        "accelerator": args.server and f"the server {args.server} runs already, where it is",
        "resident": args.server and f"the server {args.server} runs already, and stays",
        "arrivals": args.concurrency is not None and "a closed loop (--concurrency) has no arrivals of its own",
        "think_ms": args.concurrency is None and "only a closed loop (--concurrency) has pauses",
        "warmup": args.concurrency is not None
        and args.requests is not None
        and "a closed loop that ends by --requests has no warm-up by time",
    }
    for name, why in idle.items():
        given = getattr(args, name)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 0: measured; 2: wrong input, no server, or one that went away; 130: interrupted."""
    args = parser().parse_args(argv)
    try:
        config = config_of(args)
    except HeadTailError as error:
        print(f"headtail-load: {error}", file=sys.stderr)
        return 2
    # Ray and torch are imported only once the input is known to be right.
    from actors.load.job import Job, run_job, say
    from actors.report.files import reserved

    try:
        job = Job(config)
        with reserved(config.out, job.requests, overwrite=config.overwrite, say=say):
            result = run_job(job)
    except HeadTailError as error:
        print(f"headtail-load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("headtail-load: interrupted; everything it started is taken down", file=sys.stderr)
        return 130
    return finish(result, config.out)


def finish(result: Result, out: Path | None) -> int:
    """Write the report, print the tables and, as the last line, the JSON document; on a terminal, where it is.

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
        print(_last_line(found, at), flush=True)
    except OSError as error:  # a full disk, or nobody who reads: `| head`
        failures.append(f"stdout cannot be written ({error.strerror})")
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left must not fail at exit again
    for failure in failures:
        print(f"headtail-load: {failure}", file=sys.stderr)
    return 2 if failures else 0


def _last_line(found: Mapping[str, Any], at: Path | None) -> str:
    """The document in one line; on a terminal, which its 40 kB would sweep clean, the file that holds it.

    Args:
        at: where it is written already; None: nowhere.
    """
    text = json.dumps(found)
    if not sys.stdout.isatty():
        return text
    if at is None:
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", prefix="headtail-load-", suffix=".json", delete=False
            ) as file:
                file.write(text + "\n")
        except OSError:
            return text
        at = Path(file.name)
    return f"JSON document: {at}"
