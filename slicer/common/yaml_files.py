"""The one reader of YAML files, and of JSON that a user typed: plain data within limits, or one line that says why not.

What YAML would silently turn into something else is refused, too: doubled keys, ``1:30`` (90 to YAML), ``010`` (8),
keys such as ``on`` (true). A date stays the text that it is. A scalar that is refused is never printed: it may be a
secret.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from slicer.common.yaml_loader import MAX_DEPTH, MAX_DIGITS, Loader, in_words
from slicer.core.common.error_text import shown
from slicer.errors import ConfigError

#: Of a file; the largest shipped one has 30 kB.
MAX_BYTES = 1 << 20
_ENCODINGS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x00\x00\xfe\xff", "UTF-32"))


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file; None if it is empty. Never blocks, and never reads more than `MAX_BYTES`.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it goes beyond a limit; one line, with the file's name.
    """
    return parse_yaml(read_small(path), shown(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """The content of a YAML text, as `read_yaml`; `where` says in the error what was read."""
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), None)
    if encoding is not None:
        raise ConfigError(f"{where}: it is {encoding}; save it as UTF-8")
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{where}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    try:
        loader = Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise ConfigError(f"{where}, line {line}: {character} cannot stand in YAML; remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{place}: cannot be read as YAML: {in_words(error)}") from None
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: cannot be read as YAML ({type(error).__name__})") from None


def parse_json(text: str, where: str) -> Any:
    """JSON that a user typed: no doubled keys, finite numbers of at most 18 digits, depth at most `MAX_DEPTH`.

    Raises:
        ConfigError: one line; `where` says in it what was read.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: {len(text)} characters; at most {MAX_BYTES}")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant, parse_int=_int, parse_float=_float)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}: {shown(text)} is not JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    except RecursionError:
        data, depth = None, MAX_DEPTH + 1
    else:
        depth = _depth(data)
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: more than {MAX_DEPTH} levels deep")
    return data


def read_small(path: str | Path, wanted: str = "a YAML file") -> bytes:
    """All of a file that a person wrote. Never blocks, and never reads more than `MAX_BYTES`.

    Args:
        wanted: what it should be, for the message.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is too long; one line, with the file's name.
    """
    name = shown(path)
    try:
        # Without waiting: a named pipe without a writer would block here.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
                raise ConfigError(f"{name} is {kind}; give {wanted}")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{name}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"{name} is a directory; give {wanted}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: more than {MAX_BYTES >> 20} MiB, which is too much for {wanted}")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown(repr(key))} is there twice; keep one")
        found[key] = value
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no finite number; give one")


def _int(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits; at most {MAX_DIGITS}")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{shown(text)} is no finite number; give one")
    return number


def _depth(data: Any) -> int:
    depth, layer = 0, [data]
    while layer:
        depth += 1
        layer = [
            one
            for value in layer
            if isinstance(value, dict | list)
            for one in (value.values() if isinstance(value, dict) else value)
        ]
    return depth
