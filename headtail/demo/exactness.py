"""Is the answer the same? What the strategies said of every held-out image, beside the unsliced model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.report.tables import Table
from headtail.demo.answer import Answer

Logits = npt.NDArray[np.float32]

QUESTION = "Is the answer the same, wherever the model is cut and however the server batches?"


@dataclass(frozen=True)
class Heard:
    """What was asked and answered.

    Attributes:
        whole: logits of the unsliced model, [images, classes]; `labels`: true classes.
        alone: logits of a device that runs all slices itself, which needs no server.
        served: by strategy, by cut: logits that came through Serve.
    """

    whole: Logits
    labels: Sequence[int]
    alone: Logits
    served: Mapping[str, Mapping[int, Logits]]

    def same(self, logits: Logits) -> int:
        """Of how many images the top-1 is the unsliced model's; the lower class on ties."""
        return int((logits.argmax(axis=1) == self.whole.argmax(axis=1)).sum())

    @property
    def images(self) -> int:
        """How many."""
        return len(self.whole)

    @property
    def cuts(self) -> tuple[int, ...]:
        """At which the server was asked."""
        return tuple(sorted(next(iter(self.served.values()))))

    def counts(self) -> dict[str, dict[int, int]]:
        """Images with the same top-1, by strategy and cut."""
        return {name: {cut: self.same(logits) for cut, logits in by.items()} for name, by in self.served.items()}

    def farthest(self) -> float:
        """The largest difference of a logit from the unsliced model's."""
        everything = [self.alone, *(logits for by in self.served.values() for logits in by.values())]
        return max(float(np.abs(logits - self.whole).max()) for logits in everything)


def answer(heard: Heard, model: str) -> Answer:
    """In words."""
    counts, images, cuts = heard.counts(), heard.images, heard.cuts
    alone = heard.same(heard.alone)
    asked = images * len(cuts) * len(counts)
    same = sum(sum(by.values()) for by in counts.values())
    right = float(np.mean(heard.whole.argmax(axis=1) == np.asarray(heard.labels)))
    if same == asked and alone == images:
        sentence = (
            f"Yes: {same:,} of {asked:,} answers through Ray Serve name the unsliced model's class, {images} held-out "
            f"digits at {len(cuts)} cuts by {len(counts)} strategies; so do {alone} of {images} on a device alone."
        )
        bad: tuple[str, ...] = ()
    else:
        sentence = (
            f"NO: only {same:,} of {asked:,} answers through Ray Serve name the unsliced model's class, and {alone} of "
            f"{images} on a device alone. This is a fault: please report it."
        )
        bad = (f"{asked - same + images - alone} answers differ from the unsliced model's",)
    rows = tuple((name, *(f"{by[cut]}/{images}" for cut in cuts)) for name, by in counts.items())
    header = ("strategy", *(f"cut {cut}" for cut in cuts))
    return Answer(
        key="same",
        question=QUESTION,
        sentence=sentence,
        tables=(Table(f"images with the unsliced model's class, {model}", header, rows),),
        notes=(
            "Real here: images, trained weights, Ray Serve, torch on this CPU. Nothing is emulated.",
            "Cut k: the device runs the first k of 4 slices, the server the rest. Requests of all cuts come mixed, so "
            "batches hold rows of several cuts.",
            f"The model itself is right on {right:.1%} of the digits. "
            f"The largest difference of a logit is {_below(heard.farthest())}: other batch sizes round otherwise.",
        ),
        caption="Real images, weights, Ray Serve and torch; nothing is emulated.",
        figures={
            "images": images,
            "cuts": list(cuts),
            "same": same,
            "asked": asked,
            "alone_same": alone,
            "by_strategy": {name: {str(cut): count for cut, count in by.items()} for name, by in counts.items()},
            "accuracy": round(right, 4),
            "largest_logit_difference": heard.farthest(),
        },
        bad=bad,
    )


def _below(value: float) -> str:
    """A bound in words that noise does not move."""
    for bound in (1e-5, 1e-4, 1e-3, 1e-2):
        if value < bound:
            return f"below {bound:g}"
    return f"{value:.2g}"
