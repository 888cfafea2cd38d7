"""The commands of devices: `headtail load` drives a fleet, `headtail device` is one device.

Not here: the work (`actors.load`, `actors.device`).
"""

from actors.cli.load_command import main

__all__ = ["main"]
