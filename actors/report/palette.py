"""Colours of pictures and pages. Each has a light and a dark value; a picture is drawn in the light ones.

Strategies have colours that people who see few colours can tell apart (Okabe and Ito), and line styles beside them.
Entries are ordered, so theirs go from dark to bright.
"""

from __future__ import annotations

import zlib

#: Name of a CSS variable (without dashes): its value on a light page, on a dark one.
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#23272b", "#e6e6e6"),
    "faint": ("#6b7278", "#9aa2a9"),
    "rule": ("#d5d9dc", "#3a4147"),
    "paper": ("#fefefe", "#15191c"),
    "raised": ("#f3f5f6", "#20262a"),
    "warn": ("#fff1cf", "#41350f"),
    # strategies
    "c1": ("#d55e00", "#ff8b3d"),
    "c2": ("#0072b2", "#52a9e8"),
    "c3": ("#009e73", "#2cc99b"),
    "c4": ("#cc79a7", "#e79ac5"),
    "c5": ("#767d83", "#a3abb1"),
    "c6": ("#b38600", "#e3c14a"),
    "c7": ("#56b4e9", "#a8dcff"),
    "c8": ("#7a4fb5", "#b394e6"),
    "c9": ("#8c3b1f", "#d08a6c"),
    # entries of rows, from cut 0 on
    "e1": ("#35276d", "#8b78e6"),
    "e2": ("#2b6c9e", "#4b9fdc"),
    "e3": ("#1fa187", "#2fc6a8"),
    "e4": ("#7bb83a", "#9bd65a"),
    "e5": ("#e0b400", "#f5d547"),
    "e6": ("#ef7f3b", "#ff9f66"),
    # phases: the device's, the network, the server's
    "p1": ("#b7d7a9", "#54794a"),
    "p2": ("#6aa850", "#6fae55"),
    "p3": ("#38761e", "#9ad283"),
    "p4": ("#999a99", "#8a8f93"),
    "p5": ("#ffe49a", "#7d6520"),
    "p6": ("#f6b16c", "#c98237"),
    "p7": ("#cc4126", "#f0694c"),
}

#: The light values, which pictures are drawn in.
INK, FAINT, RULE, PAPER = (COLOURS[name][0] for name in ("ink", "faint", "rule", "paper"))

_OF = {
    "continuous": "c1",
    "per_slice": "c2",
    "per_tail_shared": "c3",
    "per_tail": "c8",
    "unbatched": "c5",
    "serve_batch": "c6",
    "lazy": "c7",
    "server_only": "c4",
    "device_only": "c9",
}
_SPARE = ("c4", "c9", "c8", "c7")
_Line = str | tuple[int, tuple[int, ...]]
_DASHES: dict[str, _Line] = {"c1": "-", "c2": "--", "c3": "-.", "c5": ":", "c6": (0, (5, 1)), "c7": (0, (3, 1, 1, 1))}
_ENTRIES = ("e1", "e2", "e3", "e4", "e5", "e6")


def strategy_colour(name: str) -> str:
    """The light colour (#rrggbb) of a strategy, the same in every picture; an own strategy gets one by its name."""
    return COLOURS[_variable(name)][0]


def strategy_line(name: str) -> _Line:
    """The line style (matplotlib's) that goes with the strategy's colour, for those who cannot see it."""
    return _DASHES.get(_variable(name), "-")


def _variable(name: str) -> str:
    plain = name.replace("-", "_").replace(" ", "_")
    return _OF.get(plain) or _SPARE[zlib.crc32(name.encode()) % len(_SPARE)]


def entry_colour(entry: int) -> str:
    """The light colour of rows that entered at cut `entry`; from the seventh on they repeat."""
    return COLOURS[_ENTRIES[entry % len(_ENTRIES)]][0]


def css(light: str) -> str:
    """The CSS of a light colour of ours, for a page: it follows the reader's choice of light or dark."""
    return next((f"var(--{name})" for name, (value, _) in COLOURS.items() if value == light), light)
