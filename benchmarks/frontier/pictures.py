"""A picture per question, of a results file of the frontier: bytes, time over a link, bytes over int8 at each cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.report.page import drawing, label_decades, png, svg_file
from actors.report.palette import COLOURS, FAINT, entry_colour
from benchmarks.frontier.image_ways import OPPONENT
from benchmarks.frontier.meaning import GOAL, RATES, inference_ms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COSINES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
_IMAGES = {
    "jpeg": ("c5", ":"),
    OPPONENT: ("c5", "-"),
    "jpeg 4:4:4": ("c5", "--"),
    "webp": ("c6", "-"),
    "avif": ("c4", "-"),
    "jpeg of 3/4 side": ("c9", "--"),
    "jpeg of 1/2 side": ("c9", ":"),
}
_MARKERS = {"fp16": "^", "int8": "s", "int4": "D"}

#: No more than this of int8's bytes is what was set out for.
_SIXTH = 1 / 6


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """``frontier_QUESTION.svg`` and ``.png`` in a folder, which is made; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    questions: dict[str, Callable[[Mapping[str, Any], Any], None]] = {
        "bytes": _bytes,
        "time": _time,
        "int8": _over_int8,
    }
    written = []
    for question, plot in questions.items():
        with drawing(7.2, 4.2) as figure:
            plot(document, figure)
            for suffix, made in ((".svg", svg_file(figure)), (".png", png(figure))):
                written.append(folder / f"frontier_{question}{suffix}")
                written[-1].write_bytes(made)
    return written


def _bytes(document: Mapping[str, Any], figure: Figure) -> None:
    """Cosine over bytes: a line per codec of images, and per cut."""
    figure.set_label("Cosine of the answer to the exact one over the bytes that are sent, a line per way")
    axes = figure.add_subplot()
    for name, found in document["images"].items():
        colour, line = _IMAGES.get(name, ("c7", "-"))
        marker = "x" if len(found["points"]) == 1 else ""
        style = {"linestyle": line, "linewidth": 1.2, "marker": marker, "label": name}
        axes.plot(*_line(found["points"]), color=COLOURS[colour][0], **style)
    for number, found in enumerate(document["cuts"].values()):
        colour = entry_colour(number)
        points = found["ways"]["transform"]
        axes.plot(*_line(points), color=colour, marker="o", ms=3.5, label=f"transform, {found['boundary']}")
    for name, marker in _MARKERS.items():
        points = [point for found in document["cuts"].values() for point in found["ways"][name]]
        style = {"marker": marker, "markersize": 4.5, "linestyle": "none", "label": f"{name}, each cut"}
        axes.plot(*_line(points), color=FAINT, **style)
    axes.set(xscale="log", xlabel="kB that are sent, median", ylabel="cosine to the exact answer, median")
    words = [f"{cosine:g}".lstrip("0") for cosine in _COSINES]
    axes.set_yticks([_height(cosine) for cosine in _COSINES], [*words[:-1], f"{words[-1]} or more"])
    axes.set_ylim(_height(_COSINES[0]), _height(_COSINES[-1]) + 0.1)
    label_decades(axes)
    axes.set_title(_title(document))
    figure.legend(loc="outside right upper", fontsize=8)


def _time(document: Mapping[str, Any], figure: Figure) -> None:
    """Inference time over the rate of the link, at the goal."""
    figure.set_label("Inference time in ms over the rate of the link in Mbit/s, a line per way")
    axes = figure.add_subplot()
    over = np.geomspace(RATES[0], RATES[-1], 60)
    cuts = list(document["cuts"])
    for row in document["means"]:
        way, cut = row["way"], str(row["cut"])
        if cut != "0" and way in ("int8", "transform"):
            number = cuts.index(cut)
            colour, line = entry_colour(number), "-" if way == "transform" else (0, (5, 2))
            label = f"{way}, {document['cuts'][cut]['boundary']}"
        elif cut == "0" and way in (OPPONENT, "webp", "avif"):
            colour, line, label = COLOURS[_IMAGES[way][0]][0], ":", way
        else:
            continue
        heights = [inference_ms(row, float(rate)) for rate in over]
        axes.plot(over, heights, color=colour, linestyle=line, label=label)
    axes.set(xscale="log", yscale="log", xlabel="Mbit/s of the link, computed: no delay")
    axes.set_ylabel("ms: device, link, server; this CPU is both")
    low, high = axes.get_ylim()
    digits = "25" if high > 8 * low else "1234568"
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in digits else "")
    label_decades(axes)
    axes.set_title(f"{_title(document)}, at a cosine of {GOAL:g}".replace(" 0.", " ."), fontsize=10)
    figure.legend(loc="outside right upper", fontsize=8)


def _over_int8(document: Mapping[str, Any], figure: Figure) -> None:
    """Bytes over int8's, per cut."""
    figure.set_label("Bytes over those of int8 at each cut: transform, and the codecs of images")
    axes = figure.add_subplot()
    cuts = list(document["cuts"].values())
    int8 = np.array([one["ways"]["int8"][0]["bytes"] for one in cuts])
    places = np.arange(len(cuts))
    for goal, line, inside in (("0.99", "--", "none"), ("0.995", "-", None)):
        sizes = np.array([_known(one["bytes_at"][goal]) for one in cuts])
        label = f"transform at {goal.lstrip('0')}"
        style: dict[str, Any] = {"linestyle": line, "marker": "o", "markerfacecolor": inside}
        axes.plot(places, sizes / int8, color=COLOURS["c1"][0], label=label, **style)
    for name in (OPPONENT, "webp", "avif"):
        size = _known(document["images"][name]["bytes_at"]["0.995"])
        colour, line = _IMAGES[name]
        axes.plot(places, size / int8, linestyle=line, marker=".", color=COLOURS[colour][0], label=f"{name} at .995")
    axes.axhline(_SIXTH, color=FAINT, linewidth=1, linestyle=":")
    axes.text(0.01, _SIXTH, " a sixth", fontsize=8, va="bottom", transform=axes.get_yaxis_transform())
    axes.set_xticks(places, [one["boundary"] for one in cuts])
    axes.set_ylim(bottom=0)
    axes.set(ylabel="bytes over int8's at the cut", xlabel="cut after")
    axes.set_title(_title(document))
    figure.legend(loc="outside right upper", fontsize=8)


def _line(points: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    ordered = sorted(points, key=lambda point: float(point["bytes"]))
    return [point["bytes"] / 1e3 for point in ordered], [_height(point["cosine"]) for point in ordered]


def _height(cosine: float) -> float:
    """Errors a tenth as large lie equally far apart; none lies above the last tick."""
    return float(-np.log10(max(1 - cosine, 1 - _COSINES[-1])))


def _known(found: Mapping[str, Any]) -> float:
    return float("nan") if found["median"] is None else float(found["median"])


def _title(document: Mapping[str, Any]) -> str:
    return f"{document['model']}, {document['photos']['test']} images"
