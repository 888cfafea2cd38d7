"""What is made of the rows of goodput.py: strategies against each other, a table and a plot for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.results import ratio_figures
from slicer.common.comparison import paired_ratio


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Continuous against every other strategy at each SLO, paired by seed, beside the simulated gain."""
    found = []
    for ours in (row for row in rows if row["strategy"] == "continuous"):
        for other in (row for row in rows if row["slo_x"] == ours["slo_x"] and row is not ours):
            if not all(other["by_seed_rps"]):
                continue
            one: dict[str, Any] = {"slo_x": ours["slo_x"], "continuous_over": other["strategy"]}
            one |= ratio_figures(paired_ratio(ours["by_seed_rps"], other["by_seed_rps"]))
            if other["simulated_by_seed_rps"] and all(other["simulated_by_seed_rps"]):
                simulated = paired_ratio(ours["simulated_by_seed_rps"], other["simulated_by_seed_rps"]).ratio
                one["simulated_ratio"] = round(simulated, 3)
                gain = one["ratio"] - 1
                one["share_of_simulated_gain"] = round(gain / (simulated - 1), 3) if simulated > 1.02 else None
            means = ours["mean_ms_at_half_bound"], other["mean_ms_at_half_bound"]
            if None not in means and other["stable_at_half_bound"]:
                one["mean_at_half_bound"] = round(means[0] / means[1] - 1, 3)
            found.append(one)
    return found


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Goodput over the SLO, a line per strategy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        mine = sorted((row["slo_x"], row["goodput_rps"]) for row in rows if row["strategy"] == strategy)
        axes.plot(*zip(*mine, strict=True), marker="o", label=strategy)
    axes.set(xlabel="SLO (times the unbatched whole model)", ylabel="goodput (requests/s)", title=title)
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def show(document: dict[str, Any]) -> None:
    """The table for people."""
    print(f"emulated: {', '.join(document['emulated'])}; bound {document['bound_rps']:.1f}/s")
    for row in document["results"]:
        mean_ms = row["mean_ms_at_half_bound"]
        half = f"{mean_ms} ms" if row["stable_at_half_bound"] and mean_ms else "unstable" if mean_ms else "-"
        print(f"{row['slo_x']:g}x {row['strategy']:16} {row['goodput_rps']:7.1f}/s {row['ci95']}", end="  ")
        print(f"simulated {row['simulated_rps']}/s  at half of the bound: {half}")
    for one in document["comparisons"]:
        print(
            f"{one['slo_x']:g}x continuous over {one['continuous_over']:16} {one['ratio']:.2f} {one['ci95']}", end="  "
        )
        print(f"simulated {one.get('simulated_ratio')}  mean {one.get('mean_at_half_bound')}")
