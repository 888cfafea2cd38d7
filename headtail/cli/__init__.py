"""The command `headtail`: it gathers the subcommands, each of which lives beside the work that it starts.

Not here: the work itself, and what all commands share (`slicer.common.command_line`).
"""

from headtail.cli.group import main

__all__ = ["main"]
