"""`headtail bench`: the benchmarks by name; each is a script that answers one question."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import click

from slicer.common.command_line import Command, option
from slicer.errors import ConfigError


@dataclass(frozen=True)
class Benchmark:
    """One script.

    Attributes:
        module: what ``python -m`` runs.
        question: that it answers.
        takes: how long it takes as it stands.
        checkout: whether it writes into the sources, and so needs them.
    """

    module: str
    question: str
    takes: str
    checkout: bool = False


BENCHMARKS: dict[str, Benchmark] = {
    "goodput": Benchmark(
        "benchmarks.goodput.goodput",
        "How many requests per second are answered on time, by strategy, through the real Serve stack? Emulated.",
        "4 to 20 minutes for each strategy and seed; --quick: a smoke test",
    ),
    "peers": Benchmark(
        "benchmarks.peers.peers",
        "How does HeadTail compare with Triton, LitServe, @serve.batch and a FastAPI loop? Emulated.",
        "14 minutes; --setup once before; --quick: a smoke test",
    ),
    "paper": Benchmark(
        "benchmarks.paper.paper",
        "Where are the paper's 67 %? Emulated.",
        "90 seconds; --full: half an hour for each model, and memory",
    ),
    "planner": Benchmark(
        "benchmarks.planner.planner",
        "How far is the online planner from an executed oracle? Virtual time.",
        "minutes",
    ),
    "frontier": Benchmark(
        "benchmarks.frontier.frontier",
        "Is an activation that is coded by transform smaller than the image as JPEG, at equal fidelity?",
        "a quarter of an hour, and minutes for each cut; two folders of photos, real weights; --digits: a minute",
    ),
    "codecs": Benchmark(
        "benchmarks.models.codecs",
        "Do codecs keep the answer, and is their time well spent?",
        "minutes",
    ),
    "overhead": Benchmark(
        "benchmarks.serving.overhead",
        "What does a request cost the server in CPU and latency, beside an older commit's? In a clone.",
        "9 minutes and the engine's share; --quick: a smoke test",
    ),
    "protocol-cost": Benchmark(
        "benchmarks.serving.protocol_cost",
        "What does the open protocol cost beside the packet that it replaced?",
        "5 minutes; --quick: a smoke test",
    ),
    "engine-cost": Benchmark(
        "benchmarks.serving.engine_cost",
        "What does the engine itself cost per row, and what did it cost at another commit? Virtual time.",
        "five minutes: --rounds of every case",
        checkout=True,
    ),
    "fleet-scale": Benchmark(
        "benchmarks.serving.fleet_scale",
        "Does one server take 10, 100 and 1,000 devices? Emulated.",
        "three sizes of 40 s and their starts",
    ),
    "outage": Benchmark(
        "benchmarks.outage.outage",
        "What becomes of requests while the server is gone for 20 s? Emulated.",
        "three ways of 45 s and their starts",
    ),
    "simulate": Benchmark(
        "benchmarks.accelerator.simulate",
        "What do the scheduler and a strategy do in virtual time?",
        "seconds to minutes",
    ),
    "validate": Benchmark(
        "benchmarks.accelerator.validate",
        "Is the simulator right?",
        "minutes; the calibration alone 30 s",
    ),
    "head-memory": Benchmark(
        "benchmarks.serving.head_memory",
        "Does a device's process hold its head and no more?",
        "minutes",
    ),
    "coverage": Benchmark(
        "benchmarks.models.coverage",
        "Which models of timm can be cut, and is every cut exact?",
        "half an hour to an hour; goes on where it stopped",
        checkout=True,
    ),
    "hugging-face": Benchmark(
        "benchmarks.models.hugging_face",
        "Which families of Hugging Face and torchvision can be cut, and is every cut exact?",
        "a quarter of an hour",
        checkout=True,
    ),
}


class _Bench(Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Benchmarks"):
            formatter.write_dl([(name, f"{one.question} ({one.takes})") for name, one in BENCHMARKS.items()])
        super().format_options(ctx, formatter)


@click.command(
    "bench",
    cls=_Bench,
    examples=(
        ("headtail bench goodput --help", "what a benchmark does, and its flags"),
        ("headtail bench simulate --profile edge-gpu --strategies continuous --rate 100", "seconds, in virtual time"),
        ("headtail bench goodput --profile launch-bound --strategies continuous --quick", "a smoke test of the stack"),
    ),
    notes="Measure with nothing else running (docs/measuring.md). Exit status: the script's own; 2 wrong input.",
    # What follows the name is the script's.
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name", type=click.Choice(list(BENCHMARKS)), metavar="NAME")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@option("--json", is_flag=True, default=None, help="Print the JSON document on a terminal, too.")
def command(name: str, arguments: tuple[str, ...], json: bool | None) -> int:
    """Run one of the project's benchmarks by name.

    ARGS go to its script; `headtail bench NAME --help` shows them. It prints tables, and as the last line of stdout one
    JSON document, on a terminal only with --json.
    """
    wanted = bool(json) or "--json" in arguments or not sys.stdout.isatty()
    call = [sys.executable, "-m", module_of(name), *(one for one in arguments if one != "--json")]
    # Its tables as they come, and its help by the name that it has here.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HEADTAIL_CALLED_AS": f"headtail bench {name}"}
    with subprocess.Popen(call, stdout=None if wanted else subprocess.PIPE, text=True, env=environment) as script:
        try:
            if script.stdout is not None:
                show_without_document(script.stdout, sys.stdout)
            return script.wait()
        except KeyboardInterrupt:
            script.communicate()  # the script got Ctrl-C, too, and takes down what it started
            raise


def module_of(name: str) -> str:
    """What to run. Raises ConfigError: it is not installed, or needs the sources."""
    benchmark = BENCHMARKS[name]
    package = benchmark.module.rpartition(".")[0]
    try:
        found = find_spec(benchmark.module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise ConfigError(f"{name}: {package} is not here; install the project again, or run from its folder")
    root = Path(found.origin).parents[2]
    if benchmark.checkout and not (root / "pyproject.toml").exists():
        raise ConfigError(f"{name} writes into the project's sources, and {root} holds none; run it in a clone")
    return benchmark.module


def show_without_document(lines: IO[str], screen: IO[str]) -> None:
    """Copy lines as they come, but not the last one where it is a JSON document: a wall on a terminal."""
    held = ""
    for line in lines:
        screen.write(held)
        screen.flush()
        held = line
        if not line.startswith("{"):
            screen.write(held)
            screen.flush()
            held = ""
    if held:
        screen.write("--json prints all figures as one JSON document\n")
