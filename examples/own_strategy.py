"""An own batching strategy, outside the packages: the fullest tail goes first, but nobody waits for ever.

Big batches use an accelerator well, so this one prefers the entry with the most rows. By itself that would let a rare
cut starve, so a row that has waited for `patience_s` goes first whatever the queues look like.

Name it where a strategy is named, as ``module:Class``, with its folder on PYTHONPATH (cluster: in the working_dir):

    models:
      - name: digits_vit
        strategy: own_strategy:FullestTail
        options: {patience_s: 0.05}
        max_batch: 32

A strategy decides two things only: which rows form the next step (`next`), and which weights must be resident
(`residents`, here inherited: one copy that all entries share). Queues in order of arrival, deadlines, cancellation,
failing rows and counters come with `QueuePolicy`, the scheduler and the engine; any class with the methods of
`deployments.scheduling.scheduler.Policy` will do.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.scheduling import SHARED, QueuePolicy, Step
from slicer.errors import ConfigError


@dataclass
class FullestTail(QueuePolicy):
    """The whole tail of the entry with the most rows, until somebody has waited for too long.

    Args:
        patience_s: a row that arrived so long ago goes first, with those that wait beside it.

    Raises:
        ConfigError: `patience_s` is negative.
    """

    patience_s: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.patience_s >= 0:
            raise ConfigError(f"patience_s {self.patience_s} of {self.model}: set 0 seconds or more")

    def next(self, now_s: float) -> Step | None:
        """The oldest row's queue if it lost patience, else the fullest (of equal ones the oldest row's)."""
        entry = self.oldest_queue()
        if entry is None:
            return None
        oldest = self.queues[entry][0]
        if now_s - oldest.arrival_s < self.patience_s:
            entry = max(self.queues, key=lambda queue: (len(self.queues[queue]), queue == entry))
        return Step(self.model, SHARED, entry, self.num_slices, self.take(entry))
