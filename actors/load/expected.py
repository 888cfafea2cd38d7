"""What a job's answers are compared with: the unsliced model's own answer to each image, and the image's label."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from actors.load import applications, labels, reference
from actors.load.config import DIGITS, LoadConfig
from slicer.core.images.folders import LabelledImages
from slicer.core.records.record import Record
from slicer.errors import HeadTailError


class Expected:
    """Computed once per job, before anything is measured.

    Attributes:
        top1: the unsliced model's class per image, by model and number of the image; without a model that cannot be
            built here.
        labels: the images' classes as each model numbers them.
        notes: what a person must know of them.
    """

    def __init__(self, config: LoadConfig, images: LabelledImages) -> None:
        self.top1: dict[str, dict[int, int]] = {}
        self.labels: dict[str, labels.Labels] = {}
        self.notes: list[str] = []
        self._config, self._images = config, images

    def compute(self, asked: Mapping[str, set[int]], say: Callable[[str], None]) -> None:
        """Ask the unsliced models.

        Args:
            asked: the numbers of the images that will be asked, by model.
            say: told in a line what was found out about labels.

        Raises:
            ModelError, ImageError: a model does not classify, an image is damaged, a class number is beyond its.
        """
        for model, images in asked.items():
            order = sorted(images)
            classes: int | None = None
            names: tuple[str, ...] = ()
            try:
                if self._config.server is None:
                    module, spec = reference.named_model(model)
                else:
                    served, read = applications.weights(self._config.server, model)
                    if len(set(served.labels)) == len(served.labels):  # else a folder's name could mean several
                        names = served.labels
                    module, spec = reference.served_model(served.manifest_json, read)
            except HeadTailError as error:
                if self._config.server is None and not _of_files(model):
                    raise  # the servers of this job would find the same, a minute later
                self.notes.append(f"no agreement for {model}: the unsliced model cannot be built here: {error}")
            else:
                found = reference.answers(module, spec, [self._images.files[index] for index in order])
                self.top1[model] = dict(zip(order, found.top1, strict=True))
                classes = found.classes
                names = labels.class_names(module, classes or 0) or (names if len(names) == classes else ())
            matched = self.labels[model] = self._match(model, classes, names)
            if matched.note:
                self.notes.append(matched.note)
                say(matched.note)

    def _match(self, model: str, classes: int | None, names: tuple[str, ...]) -> labels.Labels:
        if self._config.video:
            note = "no top-1: the frames of a video have no labels. All other figures hold"
            return labels.Labels((None,) * len(self._images), "", note)
        shipped, csv = self._config.images == DIGITS, self._config.labels is not None
        return labels.match(model, self._images, classes, names, shipped=shipped, csv=csv)

    def add_to(self, record: Record, model: str) -> None:
        """Write both into a record of a device with this model."""
        record.reference_top1 = self.top1.get(model, {}).get(record.image)
        record.label = self.labels[model].of[record.image]


def _of_files(model: str) -> bool:
    """Whether the name stands for something that the cluster's nodes may have and this machine may not."""
    return ":" in model or model.endswith((".yaml", ".yml"))
