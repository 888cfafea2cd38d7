"""`python -m headtail.demo --out report`: what `make demo` runs."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from headtail.demo import run_demo
from slicer.errors import HeadTailError


def main(argv: list[str] | None = None) -> int:
    """The demo's exit status; 2 for what the user can put right."""
    parser = argparse.ArgumentParser(prog="python -m headtail.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="default: report")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, what people read on stderr")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals; default 0")
    args = parser.parse_args(argv)
    say = partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    try:
        return run_demo(args.out, say=say, json=args.json, seed=args.seed)
    except (HeadTailError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
