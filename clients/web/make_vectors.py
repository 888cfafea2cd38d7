"""Write the conformance vectors of the JavaScript client: what this repository's Python gives, and JavaScript must.

    python -m clients.web.make_vectors [FOLDER]

The same files come out of every run, whatever the releases of Python, numpy and Pillow: tests compare them with those
in git, byte for byte.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clients.web.making import calibration, codecs, images, link, oip, planner, preprocess, resample, transform

FOLDER = Path(__file__).parent / "vectors"

#: File -> what makes it.
MAKERS: Mapping[str, Callable[[], Any]] = {
    "images.json": images.vectors,
    "resample.json": resample.vectors,
    "preprocess.json": preprocess.vectors,
    "codecs.json": codecs.vectors,
    "oip.json": oip.vectors,
    "planner.json": planner.vectors,
    "link.json": link.vectors,
    "transform.json": transform.vectors,
    "calibration.json": calibration.vectors,
}


def text_of(made: Any) -> str:
    """JSON, one case a line, so that a change shows as the lines that it is."""
    if isinstance(made, list):
        return "[\n" + ",\n".join(json.dumps(case) for case in made) + "\n]\n"
    parts = [f"{json.dumps(name)}: {text_of(cases).rstrip()}" for name, cases in made.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(folder: Path = FOLDER) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MAKERS.items():
        (folder / name).write_text(text_of(make()), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
