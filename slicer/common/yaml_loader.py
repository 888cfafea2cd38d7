"""PyYAML's loader with limits, refusing what YAML would silently turn into something else (`yaml_files` says what)."""

from __future__ import annotations

import re
from typing import Any

import yaml

from slicer.core.common.error_text import shown

#: Collections within collections.
MAX_DEPTH = 40
#: Values, those that aliases repeat included.
MAX_NODES = 50_000
#: Of an integer; what 64 bits hold.
MAX_DIGITS = 18

_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))


class _Refused(yaml.MarkedYAMLError):
    """One of our limits; says where."""

    def __init__(self, mark: yaml.Mark | None, problem: str) -> None:
        super().__init__(None, None, problem, mark)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; while it composes, so that nothing large is built first."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._nodes = 0
        self._sizes: dict[str, int] = {}  # how many nodes each finished anchor stands for

    def get_single_data(self) -> Any:
        """The one document as plain data."""
        try:
            return super().get_single_data()
        except yaml.composer.ComposerError as error:
            raise _Refused(error.problem_mark or error.context_mark, "it holds several documents; give one") from None

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, within the limits."""
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
        """A mapping whose keys are words, each there once."""
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


Loader.add_constructor(f"{_TAG}str", Loader.checked_text)
Loader.add_constructor(f"{_TAG}int", Loader.checked_int)
Loader.add_constructor(f"{_TAG}float", Loader.checked_float)
Loader.add_constructor(f"{_TAG}bool", Loader.checked_bool)
Loader.add_constructor(f"{_TAG}timestamp", Loader.checked_date)

# PyYAML's own rules, without the value "="; and 1e-3 is a number, as everywhere else (PyYAML asks for 1.0e-3).
for _first, _rules in yaml.SafeLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _rules:
        if _tag != f"{_TAG}value":
            Loader.yaml_implicit_resolvers.setdefault(_first, []).append((_tag, _pattern))
Loader.add_implicit_resolver(f"{_TAG}float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def in_words(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, without the value that is refused."""
    problem = error.problem or error.context or "no YAML"
    if "'\\t'" in problem:
        return "a tab at the beginning of a value; indent with spaces"
    if isinstance(error, _Refused):
        return problem
    if isinstance(error, yaml.constructor.ConstructorError):  # quotes the value, which may be a secret
        return "a value of another kind than its tag, or a merge (<<) of something else than mappings"
    return shown(f"{problem}, {error.context}" if error.context and error.problem else problem)
