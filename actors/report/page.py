"""A page of one file: the shell with its CSS, and matplotlib's pictures as SVG in it. No script, nothing from outside.

::

    with drawing() as figure:
        axes = figure.add_subplot()
        axes.plot(x, y, color=strategy_colour("per_slice"))
    text = page("A title", f"<h1>...</h1>{svg(figure)}")

A picture is drawn in the light colours of `palette`; `svg` replaces them by CSS variables, so that it follows the
reader's choice of light or dark. From 360 px on; wide tables scroll in a box of their own (class "scroll"). Where there
is room, two pictures share a row in a box "pictures", and words stand at the side of a picture in a box "beside".
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from actors.report.palette import COLOURS, FAINT, INK, PAPER, RULE, strategy_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawing", "label_decades", "page", "picture", "png", "strategy_colour", "svg", "svg_file", "themed"]

#: Inches of a picture: on a phone one fills a row at about its own size, on a desktop two share one.
WIDTH_IN, HEIGHT_IN = 5.2, 3.4

_STYLE = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "patch.linewidth": 0.0,
    "figure.facecolor": "none",
    "text.parse_math": False,  # a name may hold a dollar
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "svg.hashsalt": "headtail",  # the same picture gives the same file
}

_BASE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem 12px 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:break-word}
@media(min-width:700px){body{padding:1.5rem 24px 4rem}}
h1{font-size:1.5rem;line-height:1.25;margin:.4em 0}
h2{font-size:1.15rem;line-height:1.3;margin:1.6em 0 .4em}
p{margin:.5em 0;max-width:46rem}
.lead{font-size:1.1rem}
.faint,figcaption,.load{color:var(--faint);font-size:.875rem}
.note{background:var(--warn);padding:.4em .8em;font-size:.9rem;border-radius:4px;max-width:none}
.beside{display:grid;grid-template-columns:minmax(0,1fr);gap:1.2rem}
.pictures{column-gap:1.6rem}
figure{margin:0 0 1.4rem;min-width:0;break-inside:avoid}
@media(min-width:900px){.beside{grid-template-columns:repeat(2,minmax(0,1fr))}.pictures{columns:2}
.pictures .wide{column-span:all}}
figure svg{display:block;width:100%;height:auto;max-width:44rem}
figure.wide svg{max-width:none}
svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif!important}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.82rem;white-space:nowrap}
th,td{padding:.3em .7em;border-bottom:1px solid var(--rule)}
th,td.r{text-align:right}td.l,th:first-child{text-align:left}
details{border-top:1px solid var(--rule);padding:.5em 0}
summary{cursor:pointer;font-weight:600;padding:.2em 0}
pre{background:var(--raised);padding:1em;overflow:auto;font-size:.75rem;border-radius:4px}
a{color:var(--c2)}
@media print{details{display:block}}
"""


def page(title: str, body: str) -> str:
    """A whole HTML document, which also reads as XML. `body`: HTML, taken as it is; `title` is escaped."""
    light = "".join(f"--{name}:{value};" for name, (value, _) in COLOURS.items())
    dark = "".join(f"--{name}:{value};" for name, (_, value) in COLOURS.items())
    css = f":root{{color-scheme:light dark;{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{_BASE}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>\n'
        f"<title>{html.escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


@contextlib.contextmanager
def drawing(width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> Iterator[Figure]:
    """An empty picture in our style, which holds while the block draws. No display is needed."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def label_decades(axes: Any) -> None:
    """Write plain numbers on a logarithmic x axis: more of them, the fewer decades it spans."""
    low, high = axes.get_xlim()
    digits = "25" if high > 8 * low else "234568"
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in digits else "")


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The picture as PNG on white, for papers and slides."""
    return _saved(figure, "png", facecolor=PAPER, dpi=dpi)


def svg_file(figure: Figure) -> bytes:
    """The picture as an SVG file on white, for papers."""
    return _saved(figure, "svg", facecolor=PAPER)


def svg(figure: Figure) -> str:
    """The picture as an SVG element for a page: as wide as its place, in the page's colours and font.

    Its text for those who cannot see it is the figure's label (`figure.set_label`).
    """
    return themed(svg_file(figure), str(figure.get_label()))


def themed(drawn: bytes, label: str) -> str:
    """What `svg_file` made, as `svg` gives it, without drawing it again."""
    text = drawn.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    mark = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()  # ids of two pictures on a page must differ
    text = re.sub(r'\bid="([^"]*)"', rf'id="{mark}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{mark}-", text)
    variables = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
    text = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda found: variables.get(found[0], found[0]), text)
    opening = re.compile(r"<svg[^>]*>")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} '
        f'role="img" aria-label="{html.escape(label)}" fill="currentColor">'
    )
    return opening.sub(lambda _: start, text, count=1).strip()


def picture(figure: Figure, caption: str, *, wide: bool = False, drawn: bytes | None = None) -> str:
    """An HTML figure: the picture and its caption, which is escaped.

    Args:
        wide: it takes a row of its own.
        drawn: what `svg_file` made of it already.
    """
    kind = ' class="wide"' if wide else ""
    inside = svg(figure) if drawn is None else themed(drawn, str(figure.get_label()))
    return f"<figure{kind}>{inside}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _saved(figure: Figure, form: str, *, facecolor: str, dpi: float = 72) -> bytes:
    import matplotlib

    into = io.BytesIO()
    # Without a date: the same picture gives the same file.
    metadata = {"Date": None} if form == "svg" else {}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(into, format=form, metadata=metadata, facecolor=facecolor, dpi=dpi)
    return into.getvalue()
