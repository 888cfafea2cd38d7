"""`headtail slice`: show where a model is cut and what each slice costs; write the slices as shards.

Not here: the work; each part of it has a room of its own.
"""

from slicer.cli.slice_command import command, main

__all__ = ["command", "main"]
