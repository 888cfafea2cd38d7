"""A device that goes through all codecs in turn, one image each, so that one run measures the network with all."""

from __future__ import annotations

from actors.device.device import Device
from slicer.core.codecs.activations import CODECS, IMAGE_CODECS
from slicer.core.heads.head_runtime import Computed
from slicer.core.planning.cut_planner import Choice

#: Activations at cut 1, images at cut 0.
CHOICES = [Choice(1, codec) for codec in CODECS] + [Choice(0, codec) for codec in IMAGE_CODECS]


class EveryCodec(Device):
    """Begins as its configuration says, which must be the first of CHOICES."""

    async def compute(self, image: str, choice: Choice) -> Computed:
        computed = await super().compute(image, choice)
        self.cut.choice = CHOICES[(CHOICES.index(choice) + 1) % len(CHOICES)]
        return computed
