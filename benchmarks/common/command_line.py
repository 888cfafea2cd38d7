"""What the command lines of benchmarks share: a parser, lists with commas, progress on stderr."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NoReturn

_BEGAN_S = time.monotonic()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as of the other commands; argparse would print all flags before it."""
        self.exit(2, f"{self.prog}: {message} (--help shows the flags)\n")


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A script's parser, whose help is the module's docstring as it stands.

    The usage line and the docstring's examples name the script, or `headtail bench NAME` where that runs it (it says so
    in HEADTAIL_CALLED_AS). From now on Ctrl-C shows no stack trace in this process.
    """
    sys.excepthook = _excepthook
    called_as = os.environ.get("HEADTAIL_CALLED_AS") or None
    if called_as is not None and doc is not None:
        doc = re.sub(rf"python \S*/{re.escape(Path(sys.argv[0]).name)}(?!\S)", called_as, doc)
    return _Parser(prog=called_as, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


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
