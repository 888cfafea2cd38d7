"""What all commands share: help with examples, groups of flags, values from the environment, errors, progress.

A command is of class `Command` and stands beside the work that it starts; `headtail` gathers them. A value comes from
its flag, else from the environment (``HEADTAIL_LOAD_RATE`` for ``headtail load --rate``), else from a file where the
command has one, else from its default.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from slicer.errors import HeadTailError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Exit status: wrong input; a mistake of ours; Ctrl-C.
WRONG, BUG, INTERRUPTED = 2, 1, 130

_DEBUG = "headtail.debug"


class Option(click.Option):
    """A flag that the help shows under the title `group`."""

    def __init__(self, *args: Any, group: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell, which completes a file itself."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell, which completes a folder itself."""
    return [CompletionItem(incomplete, type="dir")]


def among(names: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """For the shell: one of these names, or one more of them behind a comma."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(begun)]

    return complete


_BY_METAVAR = {"FILE": files, "DIR": folders}


def option(*names: str, group: str = "", **attributes: Any) -> Callable[[Any], Any]:
    """A flag of a command; see `click.option`. None stands for "not given": a default is never taken for a wish.

    The shell completes files and folders where the metavar is FILE or DIR.
    """
    attributes.setdefault("shell_complete", _BY_METAVAR.get(attributes.get("metavar", "")))
    return click.option(*names, cls=Option, group=group, **attributes)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4, not before
    """A value that `parse` makes of a text; its ValueError says what is wrong with it."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click asks for it: a value that is no text was made already."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def names(text: str) -> list[str]:
    """A list of names with commas. ValueError: there is none between two commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise ValueError(f"{text[:50]!r} is no list of names such as a,b")
    return found


class Command(click.Command):
    """A subcommand of `headtail`.

    Args:
        name: such as ``load``.
        examples: (command, what for), at the end of the help.
        notes: exit status and the like, below the flags.
        interrupted: what Ctrl-C is answered with.

    Its callback returns the exit status. A HeadTailError is one line on stderr and exit status 2, any other exception
    one line and 1, with --debug a stack trace in both cases; Ctrl-C is 130.
    """

    def __init__(
        self,
        name: str,
        *,
        examples: Sequence[tuple[str, str]] = (),
        notes: str = "",
        interrupted: str = "interrupted",
        **attributes: Any,
    ) -> None:
        settings = {
            "auto_envvar_prefix": environment_prefix(name),
            "max_content_width": 110,
            "help_option_names": ["-h", "--help"],
            **attributes.pop("context_settings", {}),
        }
        super().__init__(name, context_settings=settings, **attributes)
        self.examples, self.notes, self.interrupted = tuple(examples), notes, interrupted
        self.params.append(
            Option(
                ["--debug"],
                is_flag=True,
                default=None,
                expose_value=False,
                callback=_keep_debug,
                help="Show the stack trace of an error.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The flags by their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                groups.setdefault(getattr(param, "group", ""), []).append(record)
        for title, rows in groups.items():
            with formatter.section(title or "Options"):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, notes, the environment."""
        if self.examples:
            with formatter.section("Examples"):
                for command, why in self.examples:
                    formatter.write(f"  {command}\n      {why}\n")
        prefix = ctx.auto_envvar_prefix
        formatter.write_paragraph()
        told = f"Each flag may stand in the environment: {prefix}_DEBUG=1 is --debug. A flag wins over it."
        formatter.write_text(f"{self.notes} {told}".strip())

    def invoke(self, ctx: click.Context) -> int:
        """Run the callback; errors become lines and an exit status."""
        for line in _idle_variables(ctx):
            _print_error(ctx.command_path, line)
        try:
            status = int(super().invoke(ctx) or 0)
            sys.stdout.flush()  # here, where a full disk still is an error of the command
            return status
        except HeadTailError as error:
            _trace(ctx)
            _print_error(ctx.command_path, f"{error}{_from_environment(ctx, str(error))}")
            return WRONG
        except KeyboardInterrupt:
            _print_error(ctx.command_path, self.interrupted)
            return INTERRUPTED
        except BrokenPipeError:  # nobody reads any more: `| head`
            give_up_stdout()
            return BUG
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            _trace(ctx)
            if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
                if error.filename is None:
                    give_up_stdout()
                _print_error(ctx.command_path, f"{error.filename or 'what it printed'}: {error.strerror}")
                return WRONG
            last = traceback.extract_tb(error.__traceback__)[-1]
            _print_error(
                ctx.command_path,
                f"this is a bug, not your mistake: {type(error).__name__}: {' '.join(str(error).split())} "
                f"({Path(last.filename).name}:{last.lineno}); please report it with the command and what --debug shows",
            )
            return BUG


def environment_prefix(name: str) -> str:
    """What the environment variables of a subcommand begin with."""
    return f"HEADTAIL_{name.upper().replace('-', '_')}"


def main(command: click.Command, argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Run a command as a process does and return its exit status; wrong flags are one line on stderr and 2.

    Own models, strategies, ... in the current folder are found, as with ``python -m``. Ray's workers take it over.

    Args:
        argv: what follows the command; None: of this process.
        prog: how messages call it; default: ``headtail`` and its name.
    """
    prog = prog or f"headtail {command.name}"
    if "" not in sys.path:
        sys.path.append("")
    try:
        return int(command.main(None if argv is None else list(argv), prog_name=prog, standalone_mode=False) or 0)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else prog
        said = " ".join(error.format_message().split())
        came = _from_environment(error.ctx, said) if isinstance(error, click.UsageError) and error.ctx else ""
        _print_error(path, f"{said}{came} ({path} --help shows the flags)")
        return WRONG
    except (click.Abort, KeyboardInterrupt):
        _print_error(prog, "interrupted")
        return INTERRUPTED


def values(command: click.Command, argv: Sequence[str]) -> dict[str, Any]:
    """What flags, environment and defaults come to; nothing is run. Raises click.UsageError."""
    return command.make_context(command.name, list(argv)).params


def _keep_debug(ctx: click.Context, _: click.Parameter, value: bool | None) -> None:
    ctx.meta[_DEBUG] = bool(value)


def _trace(ctx: click.Context) -> None:
    if ctx.meta.get(_DEBUG):
        traceback.print_exc()


def give_up_stdout() -> None:
    """What stdout still holds goes nowhere, so that the flush at exit works."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(path: str, message: str) -> None:
    print(f"{path}: {message}", file=sys.stderr, flush=True)


def _from_environment(ctx: click.Context, message: str) -> str:
    """Where the flags that a message names come from, if not from the command line."""
    names = {
        flag: f"{ctx.auto_envvar_prefix}_{param.name.upper()}"
        for param in ctx.command.params
        if param.name and ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT
        for flag in param.opts
        if flag in re.split(r"[\s,:']+", message)
    }
    return "".join(f" ({flag} comes from {variable})" for flag, variable in names.items())


def _idle_variables(ctx: click.Context) -> list[str]:
    """One line for each variable that looks like a flag of the command and is none: mistyped, it would do nothing."""
    if ctx.ignore_unknown_options:  # what follows may have variables of its own
        return []
    known = [f"{ctx.auto_envvar_prefix}_{param.name.upper()}" for param in ctx.command.params if param.name]
    lines = []
    for name in sorted(os.environ):
        if name.startswith(f"{ctx.auto_envvar_prefix}_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{name} is no flag's variable and does nothing" + f"; did you mean {close[0]}?" * bool(close))
    return lines


def say(line: str, since_s: float = time.monotonic()) -> None:
    """One line for the person who waits; never on stdout, whose last line may be a document."""
    print(f"[{time.monotonic() - since_s:5.1f} s] {line}", file=sys.stderr, flush=True)


class Bar:
    """A progress bar with counts on stderr; without a task it shows nothing."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task

    def to(self, done: float, note: str = "") -> None:
        """So much is done of the total; `note` stands behind the counts."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)


@contextlib.contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Bar]:
    """A bar for as long as the block runs, where stderr is a terminal; else nothing is shown.

    Args:
        total: what `Bar.to` counts to; None: it is not known, and the bar says only that work goes on.
    """
    if not sys.stderr.isatty():
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counts = () if total is None else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(*columns, note, console=Console(stderr=True), transient=True) as shown:
        yield Bar(shown, shown.add_task(what, total=total, note=""))
