"""`headtail`: one command; a subcommand's module is imported only when that subcommand runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence

import click

from slicer.common import command_line
from slicer.core.common.version import headtail_version

#: Subcommand -> (module, what it does); in the order of the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "slice": (
        "slicer.cli.slice_command",
        "Show where a model is cut and what each slice costs.",
    ),
    "serve": ("deployments.cli", "Serve the tails of sliced models on this machine or a Ray cluster."),
    "load": ("actors.cli.load_command", "Drive a fleet of devices against strategies, and say what was measured."),
    "device": ("actors.cli.device_command", "Be one device: send images to a server that runs."),
    "report": (
        "actors.cli.report_command",
        "Make tables and pictures from records.jsonl, of a load job or of devices on their own.",
    ),
    "doctor": ("deployments.doctor.cli", "Check this machine, or every node of a cluster, and say what to do."),
    "demo": (
        "headtail.cli.demo_command",
        "Show what splitting and batching gain, and where they do not.",
    ),
    "bench": ("headtail.cli.bench_command", "Run one of the project's benchmarks by name."),
}


class Lazy(click.Group):
    """A group that knows its commands by name, and imports one when it is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Alone it shows its help, and fails: nothing was done."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(command_line.WRONG)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises click.UsageError: there is no such command; the message names the ones that are alike."""
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, COMMANDS, n=2)
            meant = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(COMMANDS)}"
            ctx.fail(f"No such command {name!r}; {meant}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None: there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By the table above: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"headtail {headtail_version()}")
        ctx.exit()


headtail = Lazy(
    "headtail",
    help="Split vision models between devices and a server, and batch the tails of all devices together.",
    epilog='`headtail COMMAND --help` has examples. Completion: eval "$(_HEADTAIL_COMPLETE=bash_source headtail)" in '
    "~/.bashrc (zsh_source, fish_source for others). Values come from the flag, else from the environment "
    "(HEADTAIL_LOAD_RATE for `headtail load --rate`), else from a file, else from the default.",
    params=[
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show it.")
    ],
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return command_line.main(headtail, argv, "headtail")
