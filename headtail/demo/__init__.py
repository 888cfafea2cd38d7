"""The demo: three questions, each answered by a sentence, a table and a picture, in about two minutes without a GPU.

Not here: what it asks. Models, strategies, simulator, planner and Serve application are those of the other packages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def run_demo(out: Path, *, say: Callable[[str], None], json: bool = False, seed: int = 0) -> int:
    """Run all three questions on this machine and write ``index.html``, ``demo.json`` and the pictures to `out`.

    A Ray of its own is started, on two cores without a dashboard, and stopped again.

    Args:
        out: made where it is missing; files of an earlier demo there are replaced.
        say: told each line that is meant for a person, progress included.
        json: also print the document of ``demo.json`` to stdout, as one line at the end.
        seed: of arrivals and of the order of requests.

    Returns:
        0; 1 where an answer differs from the unsliced model's, or a request got none.

    Raises:
        HeadTailError: a server cannot start here; names the remedy.
        OSError: `out` cannot be written.
    """
    from headtail.demo.run import run

    return run(out, say=say, json=json, seed=seed)
