"""Checks a machine or a cluster, and connects to Ray; a failure is one line with its remedy.

Not here: starting an application.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """`headtail doctor`; see `deployments.doctor.cli`."""
    from deployments.doctor import cli

    return cli.main(argv)
