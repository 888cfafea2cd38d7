"""What the command lines of benchmarks share: a parser, lists with commas, progress on stderr."""

from __future__ import annotations

import argparse
import sys
import time

_BEGAN_S = time.monotonic()


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def names(text: str) -> tuple[str, ...]:
    """``a,b``; nothing for an empty text. For argparse's `type`, as the two below."""
    return tuple(filter(None, text.split(",")))


def integers(text: str) -> tuple[int, ...]:
    """``0,1,2``; ValueError for anything else, which argparse turns into its own message."""
    return tuple(map(int, names(text)))


def decimals(text: str) -> tuple[float, ...]:
    """``0.5,1``; ValueError as above."""
    return tuple(map(float, names(text)))


def say(line: str) -> None:
    """Progress, for a person who watches; the seconds are since the process began."""
    print(f"[{time.monotonic() - _BEGAN_S:6.1f} s] {line}", file=sys.stderr, flush=True)
