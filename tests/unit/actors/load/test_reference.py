"""What the unsliced model says: of a model that gives outputs as well, its classes and nothing else."""

from __future__ import annotations

from pathlib import Path

from actors.load import reference
from slicer.models import zoo
from slicer.models.images import write_digits

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}


def test_further_outputs_are_no_classes(tmp_path: Path) -> None:
    files = write_digits(tmp_path).files[:3]
    found = []
    for outputs in (None, ["features", "tokens"]):
        spec = zoo.resolve("vit_tiny_patch16_224", kwargs=SMALL, outputs=outputs)
        found.append(reference.answers(zoo.build(spec), spec, files))
    assert found[0] == found[1]
    assert found[1].classes == 10
