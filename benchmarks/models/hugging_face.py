"""Cut a small model of each family of Hugging Face, and three of torchvision, at every boundary: where is it exact?

    python benchmarks/models/hugging_face.py                     # all, ten minutes on one core
    python benchmarks/models/hugging_face.py --families ViT Swin

Each model is made at random (seeded, every parameter moved), saved by transformers' own save_pretrained and found again
as a folder. At every boundary k, tail(k) of head(k) must equal what transformers' own model gives, bit for bit, fp32,
two images, one thread. Then it is exported at every boundary and the folder is removed. A fresh process that has the
export alone must give the same bits, slice by slice (load_slices) and by load_span at three cuts. Results:
tests/data/coverage_hugging_face.json, and docs/models.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.command_line import new_parser
from slicer import shards
from slicer.errors import HeadTailError
from slicer.slicing.slice_model import SlicedModel, slice_model

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "data" / "coverage_hugging_face.json"
ROW_TOLERANCE = 1e-4

#: The test that serves every family.
SERVED_BY = "tests/unit/deployments/replica/ingress/test_hugging_face.py"

_VIT = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
_VIT_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_VIT_TINY |= {"image_size": 32, "patch_size": 8}
_SWIN_TINY = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
}
_SEGFORMER_TINY = {
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
_STAGES_TINY = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1], "image_size": 32}


@dataclass(frozen=True)
class Family:
    """A class of transformers, and its configs.

    Attributes:
        name: of the table's row.
        made: the class.
        config: what differs from transformers' defaults, a small model for images of `px`.
        tiny: the same for the unit tests, for images of 32.
        output: the field that is the answer.
    """

    name: str
    made: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)
    output: str = "logits"
    px: int = 224


def _vit(name: str, made: str, output: str = "logits", px: int = 224, **more: Any) -> Family:
    return Family(name, made, {**_VIT, **more}, {**_VIT_TINY, **more}, output, px)


FAMILIES: tuple[Family, ...] = (
    _vit("ViT", "ViTForImageClassification"),
    _vit("ViT tower", "ViTModel", "pooler_output"),
    _vit("DeiT", "DeiTForImageClassification"),
    _vit("DeiT, distilled", "DeiTForImageClassificationWithTeacher"),
    Family("Swin", "SwinForImageClassification", {}, _SWIN_TINY),
    Family("Swinv2", "Swinv2ForImageClassification", {"image_size": 256, "window_size": 8}, _SWIN_TINY, px=256),
    _vit("DINOv2", "Dinov2ForImageClassification"),
    _vit("DINOv2 tower", "Dinov2Model", "pooler_output"),
    _vit("DINOv2 with registers", "Dinov2WithRegistersForImageClassification"),
    _vit("BEiT", "BeitForImageClassification", use_relative_position_bias=True),
    _vit("CLIP tower", "CLIPVisionModelWithProjection", "image_embeds", projection_dim=24),
    _vit("SigLIP tower", "SiglipVisionModel", "pooler_output"),
    Family("SegFormer", "SegformerForImageClassification", {}, _SEGFORMER_TINY),
    Family("SegFormer, dense", "SegformerForSemanticSegmentation", {}, _SEGFORMER_TINY),
    Family("ConvNeXt", "ConvNextForImageClassification", {}, _STAGES_TINY),
    _vit("Data2Vec", "Data2VecVisionForImageClassification", use_relative_position_bias=True),
    _vit("DINOv3 tower", "DINOv3ViTModel", "pooler_output"),
    _vit("ViT-MSN", "ViTMSNForImageClassification"),
)

TORCHVISION: tuple[str, ...] = ("vit_b_16", "swin_t", "swin_v2_t")

#: What a fresh process does with an export: all slices one by one; head and tail at three cuts, the files alone.
_FRESH = """
import sys, torch
from slicer import shards
torch.set_num_threads(1)
folder, x, whole = sys.argv[1], *torch.load(sys.argv[2])
n = shards.load_manifest(folder).num_slices
slices = shards.load_slices(folder, 0, n)
with torch.inference_mode():
    value = x
    for one in slices:
        value = one(value)
    if not torch.equal(value, whole):
        sys.exit("slice by slice not exact in a fresh process")
    for k in (1, n // 2, n - 1):
        if not torch.equal(shards.load_span(folder, k, n)(shards.load_span(folder, 0, k)(x)), whole):
            sys.exit(f"not exact in a fresh process at cut {k}")
"""


def save_random(family: Family, folder: Path, *, tiny: bool = False, classes: int = 7) -> nn.Module:
    """A random model of the family in eval mode, saved into `folder` as transformers does."""
    import transformers

    made = getattr(transformers, family.made)
    given: dict[str, Any] = dict(family.tiny if tiny else family.config)
    config = made.config_class(**{"image_size": 32 if tiny else family.px, **given, "num_labels": classes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = made(config).eval().requires_grad_(False)
        for parameter in model.parameters():  # what begins at zero would hide a mistake
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)  # type: ignore[operator]
    size = 32 if tiny else family.px
    transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return model


def answer(family: Family, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What transformers' own model says, through none of our code."""
    with torch.inference_mode():
        result: torch.Tensor = getattr(model(pixel_values=x), family.output)
    return result


def check_boundaries(sliced: SlicedModel, x: torch.Tensor, whole: torch.Tensor) -> dict[str, Any]:
    """Of each cut, whether its head and tail give `whole`; and how much a row alone differs."""
    wrong, row = [], 0.0
    with torch.inference_mode():
        for k in range(sliced.num_slices + 1):
            crossing = sliced.head(k)(x)
            if not torch.equal(sliced.tail(k)(crossing), whole):
                wrong.append(f"not exact at cut {k}")
            if k % 4 == 1:
                alone = sliced.tail(k)(crossing[1:2].contiguous())
                row = max(row, float((alone - whole[1:2]).abs().max() / whole.abs().max().clamp(min=1.0)))
    if row > ROW_TOLERANCE:
        wrong.append(f"a row alone differs by {row:.2g}")
    return {"row_difference": row, "reason": "; ".join(wrong), "outcome": "wrong" if wrong else "exact"}


def in_fresh_process(export: Path, x: torch.Tensor, whole: torch.Tensor) -> str:
    """What is wrong with an export at any cut; empty if nothing is."""
    values = export.parent / "values.pt"
    torch.save((x, whole), values)
    done = subprocess.run(
        [sys.executable, "-c", _FRESH, str(export), str(values)], cwd=ROOT, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it died"])[-1]


def check_family(family: Family) -> dict[str, Any]:
    started = time.monotonic()
    row: dict[str, Any] = {"class": family.made, "px": family.px, "output": family.output}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        try:
            model = save_random(family, folder)
            sliced = slice_model(str(folder), "all")
        except HeadTailError as error:
            return {**row, "outcome": "refused", "reason": str(error)}
        assert sliced.spec is not None
        row |= {"attention": sliced.spec.kwargs["attention"], "boundaries": len(sliced.boundaries)}
        x = torch.randn((2, *sliced.input_shape), generator=torch.Generator().manual_seed(2))
        return {**row, **_checked(sliced, folder, x, answer(family, model, x), started)}


def check_torchvision(name: str) -> dict[str, Any]:
    import torchvision

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        sliced = slice_model(f"torchvision.models:{name}", "all")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(torchvision.models, name)().eval()
        x = torch.randn((2, *sliced.input_shape), generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            whole = model(x)
        row = {"class": f"torchvision.models:{name}", "px": sliced.input_shape[1], "output": "logits"}
        row |= {"attention": "", "boundaries": len(sliced.boundaries)}
        return {**row, **_checked(sliced, Path(scratch) / "model", x, whole, started)}


def _checked(sliced: SlicedModel, folder: Path, x: torch.Tensor, whole: torch.Tensor, started: float) -> dict[str, Any]:
    """The boundaries here, then with the folder gone from an export in a fresh process."""
    found = check_boundaries(sliced, x, whole)
    shards.export(sliced, folder.parent / "export")
    shutil.rmtree(folder, ignore_errors=True)
    if said := in_fresh_process(folder.parent / "export", x, whole):
        found |= {"outcome": "wrong", "reason": f"{found['reason']}; {said}".strip("; ")}
    return {**found, "seconds": round(time.monotonic() - started, 1)}


def lines(report: Mapping[str, Any]) -> list[str]:
    """The part of docs/models.md."""
    rows = report["families"]
    exact = sum(row["outcome"] == "exact" for row in rows.values())
    text = [
        "",
        "# Models of Hugging Face and torchvision",
        "",
        f"Made by `python benchmarks/models/hugging_face.py` on {report['date']}, with transformers "
        f"{report['transformers']}, torchvision {report['torchvision']} and torch {report['torch']}.",
        f"**{exact} of {len(rows)} are bit-exact in fp32 at every boundary they offer**, in the process that cut",
        "them and in a fresh one that has the export alone.",
        "",
        "*Exact*: at every boundary, head and tail give what the library's own model gives; in the fresh process,",
        "slice by slice and with `load_span` at three cuts. All parameters are random and seeded, also those that",
        "begin at zero. *A row alone*: as above.",
        "",
        f"All families of transformers below, and ConvNeXt V2, are also served as folders: `{SERVED_BY}`",
        "posts an image file and activations at every cut. Labels, their order and the logits are those that",
        "transformers' own processor and model give for the folder. A dense answer is asked for as `class_map` and as",
        "`logits`: 56x56 places for 224 px, as transformers gives them before it resizes them to the image.",
        "",
        "| family | class | answer | attention | boundaries | result | a row alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        said = row["outcome"] if row["outcome"] == "exact" else f"{row['outcome']}: {row['reason']}".replace("|", "\\|")
        alone = f"{row['row_difference']:.0e}" if "row_difference" in row else ""
        text.append(
            f"| {name}, {row['px']} px | {row['class']} | {row['output']} | {row.get('attention', '')} | "
            f"{row.get('boundaries', 0)} | {' '.join(said.split())} | {alone} |"
        )
    return text


def main() -> None:
    import torchvision
    import transformers

    from benchmarks.models import coverage

    parser = new_parser(__doc__)
    parser.add_argument("--families", nargs="*", help="only these rows of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    versions = {library.__name__: library.__version__ for library in (transformers, torchvision, torch)}
    if any(report.get(name) != version for name, version in versions.items()):
        report = {"families": {}, **versions}
    checks = {family.name: lambda family=family: check_family(family) for family in FAMILIES}
    checks |= {f"torchvision {name}": lambda name=name: check_torchvision(name) for name in TORCHVISION}
    for name in options.families or checks:
        row = checks[name]()
        report["families"] = {
            key: {**report["families"], name: row}[key] for key in checks if key in {*report["families"], name}
        }
        report["date"] = f"{datetime.now(timezone.utc):%Y-%m-%d}"
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        coverage.write_table(json.loads(coverage.RESULTS.read_text()))
        print(name, row.get("boundaries", 0), row["outcome"], row.get("seconds"), row["reason"], flush=True)


if __name__ == "__main__":
    main()
