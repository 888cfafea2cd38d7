"""A results file of the frontier in words: tables in Markdown, and a row for README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.frontier.image_ways import NATIVE, OPPONENT
from benchmarks.frontier.meaning import RATES


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Both tables, and what they do not say."""
    photos = document["photos"]
    yield f"{document['model']}, {photos['test']} images; tables of {photos['calibration']} others"
    yield ""
    yield from at_goal(document)
    yield ""
    yield from rates(document)
    yield ""
    yield f"ms and tails/s: this CPU ({document['cpu']}), one image at a time. A link is its rate alone."


def at_goal(document: Mapping[str, Any]) -> Iterator[str]:
    """Each way at its fewest bytes that reach the goal by the median image."""
    rows = document["means"]
    optional = {"neighbours": "neighbours", "patch_error": "patch error", "top1": "top-1"}
    shown = [key for key in optional if any(row[key] is not None for row in rows)]
    heads = ["way", "cut", "bytes", "cosine", "10th percentile", *(optional[key] for key in shown)]
    heads += ["device ms", "server ms", *(f"ms at {rate} Mbit/s" for rate in RATES), "tails/s"]
    yield _cells(heads)
    yield "|" + "---|" * len(heads)
    for row in rows:
        cells = [row["way"], row["cut"], f"{row['bytes']:,.0f}", f"{row['cosine']:.4f}", f"{row['cosine_p10']:.4f}"]
        cells += ["-" if row[key] is None else f"{row[key]:.3g}" for key in shown]
        cells += [f"{row['device_ms']:.1f}", f"{row['server_ms']:.1f}"]
        cells += [f"{row['inference_ms'][str(rate)]:.0f}" for rate in RATES]
        yield _cells([*cells, f"{row['requests_per_s_of_tail_on_this_cpu_unbatched']:.3g}"])
    missed = sorted({*document["images"], *_of_cuts(document)} - {_named(row) for row in rows})
    if missed:
        yield ""
        yield f"A cosine of {document['goal']} is not reached by: {', '.join(missed)}"


def rates(document: Mapping[str, Any]) -> Iterator[str]:
    """BD-rates of `transform` per cut."""
    names = list(next(iter(document["cuts"].values()))["bd_rate_vs"])
    low, high = document["range"]
    yield f"Bytes of transform against each way, at equal cosine from {low} to {high}: median (95 % interval; images)"
    yield ""
    yield _cells(["cut", *names])
    yield "|" + "---|" * (len(names) + 1)
    for found in document["cuts"].values():
        yield _cells([found["boundary"], *(_rate(found["bd_rate_vs"][name]) for name in names)])


def readme_row(document: Mapping[str, Any], cut: str) -> str | None:
    """A row of README's table of what is gained and where it stops, of one cut; None: it says nothing there."""
    found = document["cuts"][cut]
    size, rate = found["bytes_at"]["0.995"]["median"], found["bd_rate_vs"]
    if size is None or not rate[OPPONENT]["images"]:
        return None
    others = [f"{name} {rate[name]['median']:+.0%}" for name in ("webp", "avif") if rate[name]["images"]]
    if NATIVE in document["images"]:
        others.append(f"in its own size the image takes {document['images'][NATIVE]['points'][0]['bytes']:,.0f} bytes")
    low, high = rate[OPPONENT]["ci95"]
    return _cells(
        [
            f"An activation of {document['model']} after `{found['boundary']}` takes {_bytes(size)} at a cosine "
            f"of .995 by the median image, {found['bytes_over_int8_at_995']:.3f} of int8's; tables of other photos",
            f"Against optimised JPEG of the image {rate[OPPONENT]['median']:+.0%} bytes ({low:+.0%} to {high:+.0%})"
            + "".join(f", {other}" for other in others),
        ]
    )


def _bytes(size: float) -> str:
    return f"{size:.0f} bytes" if size < 1000 else f"{size / 1e3:.1f} kB"


def _rate(found: Mapping[str, Any]) -> str:
    if not found["images"]:
        return "-"
    low, high = found["ci95"]
    return f"{found['median']:+.0%} ({low:+.0%} to {high:+.0%}; {found['images']})"


def _of_cuts(document: Mapping[str, Any]) -> list[str]:
    return [f"{name} at cut {cut}" for cut, found in document["cuts"].items() for name in found["ways"]]


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['way']} at cut {row['cut']}" if row["cut"] else str(row["way"])


def _cells(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
