"""Real images: finding them, the shipped digits as files, and a model's own preprocessing (timm's).

Whatever an image is (grey, palette, 16 bits, on its side), `slicer.core.images.pixels` makes it upright 8-bit RGB
first, as a model of three channels wants; one of one channel gets luminance.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from slicer.core.images.folders import LabelledImages, find_images
from slicer.core.images.image_files import plain_image
from slicer.core.shards.spec import ModelSpec
from slicer.errors import ImageError
from slicer.models.data_config import EXIF_KEY, data_config

_HELDOUT = Path(__file__).parent / "demo" / "digits_heldout.npz"


class Preprocess:
    """One image to one model input: timm's own evaluation transform for this model.

    `slicer.core.images.preprocessing.Preprocessing` gives the same bits without torch.

    Args:
        model: a spec; or a built timm module, whose attached config is used as it is.

    Attributes:
        shape: (channels, height, width) of every result.
        mode: PIL's, of the image that the transform is given: RGB or L.
        upright: images are turned as their EXIF orientation says; `exif_orientation: false` of the spec's data_config
            leaves them as timm has them.

    Thread-safe after construction; picklable. Raises ImageError for a model of neither three channels nor one.
    """

    def __init__(self, model: ModelSpec | nn.Module) -> None:
        from timm.data import create_transform, resolve_model_data_config

        config = data_config(model) if isinstance(model, ModelSpec) else resolve_model_data_config(model)
        self.shape: tuple[int, int, int] = tuple(config["input_size"])
        if self.shape[0] not in (1, 3):
            raise ImageError(f"the model takes {self.shape[0]} channels; images become 3 (RGB) or 1 (in_chans=1)")
        self.mode = "L" if self.shape[0] == 1 else "RGB"
        self.upright = not isinstance(model, ModelSpec) or bool(model.data_config.get(EXIF_KEY, True))
        self._transform: Any = create_transform(**config, is_training=False)

    def __call__(self, image: str | Path | Image.Image) -> npt.NDArray[np.float32]:
        """The image as float32, `shape`, contiguous.

        Raises:
            ImageError: the file cannot be read as an image, or `slicer.core.images.pixels` cannot make it what the
                model takes.
        """
        array = np.ascontiguousarray(self._transform(self.plain(image)).numpy(), dtype=np.float32)
        if array.shape != self.shape:
            raise ImageError(f"the image became {array.shape}, the model takes {self.shape}; check its data_config")
        return array

    def plain(self, image: str | Path | Image.Image) -> Image.Image:
        """The image upright and in `mode`, of its own size. Raises ImageError, with the name of a file."""
        return plain_image(image, self.mode, upright=self.upright)

    def crop(self, image: str | Path | Image.Image) -> Image.Image:
        """The first part of timm's transform, resize and crop: an image in `mode` of the model's size, still uint8.

        Raises:
            ImageError: the transform does not end in to-tensor and normalise, or leaves another size.
        """
        resized = self.plain(image)
        for step in self._split()[0]:
            resized = step(resized)
        if (resized.height, resized.width) != self.shape[1:]:
            raise ImageError(f"the image became {resized.height}x{resized.width}, the model takes {self.shape[1:]}")
        return resized

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The rest of it, a batch at once: uint8 [B, H, W, C] to float32 [B, C, H, W].

        ``normalise(crop(image))`` has the bits of ``self(image)``: the same operations in the same order.
        """
        scale = self._split()[1]
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)).div_(255)
        mean, std = (torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1) for value in (scale.mean, scale.std))
        normalised: npt.NDArray[np.float32] = batch.sub_(mean).div_(std).numpy()
        return normalised

    def _split(self) -> tuple[list[Any], Any]:
        """(steps on the image, the Normalize that follows to-tensor)."""
        *steps, to_tensor, scale = self._transform.transforms
        if not type(to_tensor).__name__.endswith("ToTensor") or type(scale).__name__ != "Normalize":
            raise ImageError(f"the model's transform {self._transform} does not end in ToTensor and Normalize")
        return steps, scale


def load_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The shipped held-out digits that no demo model was trained on: images (360, 8, 8) of 0..255, labels (360,)."""
    with np.load(_HELDOUT, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"].astype(np.int64)


def write_digits(directory: str | Path) -> LabelledImages:
    """Write the shipped held-out digits as ``directory/class/NNN.png``, once, and find them.

    Atomic: another process sees all of them or none, and several may write at once. An existing directory is used as
    it is when it is complete.

    Raises:
        ImageError: the directory holds something else already.
    """
    root = Path(directory)
    images, labels = load_digits()
    if not root.exists() or not any(root.iterdir()):
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        try:
            temporary.chmod(0o755)
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                folder = temporary / str(label)
                folder.mkdir(exist_ok=True)
                Image.fromarray(image).save(folder / f"{index:03d}.png")
            try:
                temporary.replace(root)
            except OSError:
                if not any(root.iterdir()):
                    raise
                # Another process was first; what it wrote is checked below like any other.
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = find_images(root)
    if len(found) != len(images) or found.classes != tuple("0123456789"):
        raise ImageError(f"{root} holds {len(found)} images that are not the digits; give an empty or a new directory")
    return found
