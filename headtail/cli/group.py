"""`headtail`: one command; a subcommand's module is imported only when that subcommand runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

#: Subcommand -> (module, what it does); in the order of the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "slice": ("slicer.cli", "Show where a model is cut and what each slice costs; export, profile, plan."),
    "serve": ("deployments.cli", "Serve the tails of sliced models on this machine or a Ray cluster."),
    "load": ("actors.cli", "Drive a fleet of devices against strategies, and say what was measured."),
    "doctor": ("deployments.doctor.cli", "Check this machine, or every node of a cluster, and say what to do."),
}


class Lazy(click.Group):
    """A group that knows its commands by name, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None: there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]

        def run(arguments: tuple[str, ...]) -> None:
            sys.exit(importlib.import_module(module).main(list(arguments)))

        return click.Command(
            cmd_name,
            help=summary,
            callback=run,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={"ignore_unknown_options": True},
            add_help_option=False,
        )


headtail = Lazy("headtail", help="Split vision models between devices and a server, and batch the tails together.")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return int(headtail.main(args=argv, prog_name="headtail", standalone_mode=False) or 0)
