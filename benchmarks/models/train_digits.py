"""Train the demo models on scikit-learn's digits and write slicer/models/demo/ again.

    pip install -e .[train]
    python benchmarks/models/train_digits.py                # both; about 5 minutes on one core
    python benchmarks/models/train_digits.py digits_swin    # one

1797 real 8x8 digits are split 1437/360, stratified. Only the 1437 are trained on; the 360 are measured once, at the
end, through the same preprocessing as serving, with the weights as they are stored (fp16), and shipped as images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from slicer.models import zoo
from slicer.models.images import Preprocess

DEMO = Path(zoo.__file__).parent / "demo"


@dataclass(frozen=True)
class Recipe:
    epochs: int
    batch: int
    shift_px: int


RECIPES = {"digits_vit": Recipe(60, 32, 4), "digits_swin": Recipe(15, 64, 3)}


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """uint8 images (n, 8, 8) and labels: trained on, held out."""
    from sklearn.datasets import load_digits  # the extra `train`, which --help must not need
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, heldout = train_test_split(np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0)
    heldout = np.sort(heldout)
    return images[train], digits.target[train], images[heldout], digits.target[heldout]


def shifted(x_BCHW: torch.Tensor, most_px: int, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to `most_px` pixels in both directions; black comes in."""
    size = x_BCHW.shape[-1]
    padded = functional.pad(x_BCHW, [most_px] * 4, value=-1.0)
    offsets = torch.randint(0, 2 * most_px + 1, (len(x_BCHW), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, offsets, strict=True)])


def train(name: str, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    recipe = RECIPES[name]
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = recipe.epochs * -(-len(inputs) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    for epoch in range(recipe.epochs):
        total = 0.0
        for rows in torch.randperm(len(inputs), generator=generator).split(recipe.batch):
            logits = model(shifted(inputs[rows], recipe.shift_px, generator))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(
            f"{name} epoch {epoch + 1}/{recipe.epochs} loss {total / len(inputs):.4f} "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(RECIPES)}; all by default")
    names = parser.parse_args().models or list(RECIPES)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train_images, train_labels, heldout_images, heldout_labels = split()
    np.savez_compressed(DEMO / "digits_heldout.npz", images=heldout_images, labels=heldout_labels.astype(np.uint8))
    for name in names:
        spec = zoo.resolve(name)
        preprocess = Preprocess(spec)
        inputs = torch.from_numpy(np.stack([preprocess(Image.fromarray(image)) for image in train_images]))
        model = zoo.build(replace(spec, checkpoint=None)).train().requires_grad_(True)
        train(name, model, inputs, torch.from_numpy(train_labels))
        state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
        save_file(state, DEMO / f"{name}.safetensors")
        stored = zoo.build(spec)
        heldout = torch.from_numpy(np.stack([preprocess(Image.fromarray(image)) for image in heldout_images]))
        with torch.inference_mode():
            right = int((stored(heldout).argmax(1).numpy() == heldout_labels).sum())
        print(f"{name}: {right} of {len(heldout_labels)} held-out digits right ({right / len(heldout_labels):.1%})")


if __name__ == "__main__":
    main()
