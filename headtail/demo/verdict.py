"""The end of the demo: four lines that sum it up, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from headtail.demo.answer import Answer, about

#: Commands for what a person would try next; `docs/guide/first-run.md` and the guides it links explain them.
FOLLOWING = """\
your own model      headtail-slice YOUR_TIMM_MODEL            where it can be cut, and what crosses at each cut
your own board      headtail-slice MODEL --profile board.yaml   run it there; then --plan board.yaml for the best cut
your own strategy   examples/own_strategy.py                  copy it; strategy: my_package.my_module:Class
measure             headtail-load --strategy per_slice,continuous,unbatched --rate 50 --duration 10 --out results
a server            headtail-serve server.yaml --name cameras   and headtail-load --server cameras --fleet fleet.yaml
a cluster           docs/guide/cluster-setup.md               the same commands as Ray jobs"""


def verdict(same: Answer, batching: Answer, splitting: Answer) -> tuple[str, ...]:
    """Four lines, from the figures of the answers."""
    exact = "the same answers" if not same.bad else "ANSWERS THAT DIFFER"
    highest = batching.figures["highest_rps"]
    cells: Sequence[dict[str, object]] = splitting.figures["cells"]
    split = sum(cell["verdict"] == "split" for cell in cells)
    merged, tails, whole = (highest[name] for name in ("continuous", "per_tail_shared", "server-only"))
    return (
        f"Exact: {same.figures['same']:,} of {same.figures['asked']:,}: {exact} at every cut and strategy.",
        f"Merging across cuts: {merged / tails:.1f} times the rate of one batch per tail on a busy accelerator "
        "(emulated); nothing when it is idle or gains nothing from batches.",
        f"Splitting relieves a busy server: {about(merged)} requests/s at mixed cuts, {about(whole)} when the server "
        "does all (emulated).",
        f"For the fastest answer do not split as a rule ({len(cells) - split} of {len(cells)} cases, emulated): send a "
        "JPEG while the server is idle, stay on the device where it keeps up.",
    )
