"""The one reader of YAML files, and of JSON that a user typed: plain data within limits, or one line that says why not.

What YAML would silently turn into something else is refused, too: doubled keys, ``1:30`` (90 to YAML), ``010`` (8),
keys such as ``on`` (true). A date stays the text that it is. A scalar that is refused is never printed: it may be a
secret.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from slicer.errors import ConfigError

#: Of a file; the largest shipped one has 30 kB.
MAX_BYTES = 1 << 20
#: Collections within collections.
MAX_DEPTH = 40
#: Values, those that aliases repeat included.
MAX_NODES = 50_000
#: Of an integer; what 64 bits hold.
MAX_DIGITS = 18
#: Of anything in a message.
MAX_SHOWN = 200

_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))
_ENCODINGS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x00\x00\xfe\xff", "UTF-32"))


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file; None if it is empty. Never blocks, and never reads more than `MAX_BYTES`.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it goes beyond a limit; one line, with the file's name.
    """
    return parse_yaml(_read(path), shown(path))


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
        loader = _Loader(text)
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
        raise ConfigError(f"{where}{place}: cannot be read as YAML: {_problem(error)}") from None
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


def shown(value: Any) -> str:
    """A value for a message, however long it is."""
    text = value if isinstance(value, str) else os.fspath(value) if isinstance(value, Path) else _short_repr(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _short_repr(value: Any, depth: int = 3) -> str:
    """A repr whose cost does not grow with the value."""
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN])
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[:MAX_SHOWN]))
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple):
        if depth == 0:
            return "..."
        first = list(value.items() if isinstance(value, dict) else value)[:8]
        more = ", ..." if len(value) > len(first) else ""
        if isinstance(value, dict):
            inner = ", ".join(f"{_short_repr(k, depth - 1)}: {_short_repr(v, depth - 1)}" for k, v in first)
            return f"{{{inner}{more}}}"
        inner = ", ".join(_short_repr(one, depth - 1) for one in first) + more
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    return repr(value)


def _read(path: str | Path) -> bytes:
    name = shown(path)
    try:
        # Without waiting: a named pipe without a writer would block here.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
                raise ConfigError(f"{name} is {kind}; give a YAML file")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{name}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"{name} is a directory; give a YAML file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: more than {MAX_BYTES >> 20} MiB; that is no configuration")
    return data


class _Refused(yaml.MarkedYAMLError):
    """One of our limits; says where."""

    def __init__(self, mark: yaml.Mark | None, problem: str) -> None:
        super().__init__(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; while it composes, so that nothing large is built first."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._nodes = 0
        self._sizes: dict[str, int] = {}  # how many nodes each finished anchor stands for

    def get_single_data(self) -> Any:
        try:
            return super().get_single_data()
        except yaml.composer.ComposerError as error:
            raise _Refused(error.problem_mark or error.context_mark, "it holds several documents; give one") from None

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _Refused(mark, "an alias (*) without its anchor (&); put text with a * in quotes")
            if event.anchor not in self._sizes:
                raise _Refused(mark, "an anchor that holds itself; write the value out")
            self._count(self._sizes[event.anchor], mark)
            self.get_event()  # type: ignore[no-untyped-call]
            return self.anchors[event.anchor]
        if event.tag not in (None, "!", *_TAGS):
            raise _Refused(mark, "a tag (!) other than YAML's plain ones; remove it, or put the text in quotes")
        before = self._nodes
        self._count(1, mark)
        self._level += 1
        if self._level > MAX_DEPTH:
            raise _Refused(mark, f"more than {MAX_DEPTH} levels deep")
        self.anchors.pop(event.anchor, None)  # may be given again
        self._sizes.pop(event.anchor, None)
        node = super().compose_node(parent, index)
        self._level -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - before
        return node

    def _count(self, nodes: int, mark: yaml.Mark) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _Refused(mark, f"more than {MAX_NODES} values, those that aliases repeat included")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", f"{_TAG}int", f"{_TAG}float"):
                what = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                raise _Refused(key.start_mark, f"{shown(what)} as a key; a key is a word: put it in quotes")
            name = self.construct_object(key)
            if name in seen:
                raise _Refused(
                    key.start_mark, f"key {shown(repr(name))} is there already, in line {seen[name]}; keep one"
                )
            seen[name] = key.start_mark.line + 1
        return node

    def checked_text(self, node: yaml.ScalarNode) -> str:
        """Text that can be printed and stored."""
        text: str = self.construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _Refused(node.start_mark, "half of a surrogate pair (\\uD800 to \\uDFFF); write the character itself")
        return text

    def checked_int(self, node: yaml.ScalarNode) -> int:
        """An integer that means the same to everybody."""
        text = self.construct_scalar(node).replace("_", "").lstrip("+-")
        if ":" in text:
            raise _Refused(node.start_mark, "a number with colons, which YAML counts in sixties; put it in quotes")
        if len(text) > 1 and text[0] == "0" and text[1].isdigit():
            raise _Refused(node.start_mark, "a number that begins with 0, which YAML reads as octal; put it in quotes")
        if len(text) > MAX_DIGITS:
            raise _Refused(node.start_mark, f"a number of {len(text)} digits; at most {MAX_DIGITS}")
        return self._made(self.construct_yaml_int, node)  # type: ignore[no-any-return]

    def checked_float(self, node: yaml.ScalarNode) -> float:
        """A finite number."""
        if ":" in node.value:
            raise _Refused(node.start_mark, "a number with colons, which YAML counts in sixties; put it in quotes")
        number: float = self._made(self.construct_yaml_float, node)
        if number - number != 0:
            raise _Refused(node.start_mark, "a number that is infinite or none (.inf, .nan, 1e400); give a finite one")
        return number

    def checked_date(self, node: yaml.ScalarNode) -> str:
        """A date as text; one that the calendar lacks is a slip."""
        self._made(self.construct_yaml_timestamp, node)
        return str(self.construct_scalar(node))

    def checked_bool(self, node: yaml.ScalarNode) -> bool:
        """True or false."""
        return self._made(self.construct_yaml_bool, node)  # type: ignore[no-any-return]

    def _made(self, construct: Any, node: yaml.ScalarNode) -> Any:
        try:
            return construct(node)
        except (ValueError, OverflowError, AttributeError, KeyError, IndexError):
            kind = node.tag.removeprefix(_TAG).replace("timestamp", "date")
            raise _Refused(node.start_mark, f"no such {kind}; put it in quotes if text is meant") from None


_Loader.add_constructor(f"{_TAG}str", _Loader.checked_text)
_Loader.add_constructor(f"{_TAG}int", _Loader.checked_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.checked_float)
_Loader.add_constructor(f"{_TAG}bool", _Loader.checked_bool)
_Loader.add_constructor(f"{_TAG}timestamp", _Loader.checked_date)

# PyYAML's own rules, without the value "="; and 1e-3 is a number, as everywhere else (PyYAML asks for 1.0e-3).
for _first, _rules in yaml.SafeLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _rules:
        if _tag != f"{_TAG}value":
            _Loader.yaml_implicit_resolvers.setdefault(_first, []).append((_tag, _pattern))
_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "no YAML"
    if "'\\t'" in problem:
        return "a tab at the beginning of a value; indent with spaces"
    if isinstance(error, _Refused):
        return problem
    if isinstance(error, yaml.constructor.ConstructorError):  # quotes the value, which may be a secret
        return "a value of another kind than its tag, or a merge (<<) of something else than mappings"
    return shown(f"{problem}, {error.context}" if error.context and error.problem else problem)


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
