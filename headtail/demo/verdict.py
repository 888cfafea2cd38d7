"""The end of the demo: four lines that sum it up, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from headtail.demo.answer import Answer, about

#: What a person would try next: (purpose, commands or files, where it is explained).
NEXT: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Where can your own model be cut, and what crosses?", ("headtail slice deit_small_patch16_224",), "README.md"),
    (
        "The best cut for your own board: time it there, then plan",
        (
            "headtail slice deit_small_patch16_224 --profile board.yaml",
            "headtail slice deit_small_patch16_224 --plan board.yaml --server-profile board.yaml --link wifi",
        ),
        "README.md",
    ),
    (
        "Your own strategy: copy examples/own_strategy.py, then compare it",
        ("PYTHONPATH=examples headtail load --strategy own_strategy:FullestTail,continuous --rate 50 --duration 10",),
        "docs/strategies.md",
    ),
    (
        "Your own server, devices and images",
        ("headtail serve server.yaml --name cameras", "headtail load --server cameras --rate 20 --duration 30"),
        "docs/guide/serve-and-load.md",
    ),
    ("A cluster: the same commands as Ray jobs", (), "docs/guide/cluster-setup.md"),
)


def following() -> str:
    """`NEXT` as text."""
    lines = []
    for purpose, commands, where in NEXT:
        lines += [f"- {purpose} ({where})", *(f"    {command}" for command in commands)]
    return "\n".join(lines)


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
