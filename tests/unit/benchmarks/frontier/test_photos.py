"""Images of the frontier: tables never see what is sent, and a limit takes some of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.frontier.photos import from_folders, shipped_digits
from slicer import errors
from slicer.calibration.photos import crops
from slicer.models import zoo
from slicer.models.images import Preprocess


def photo(file: Path, colour: int, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(file)


def test_a_photo_that_is_in_both_folders_is_refused_whatever_its_name(tmp_path: Path) -> None:
    photo(tmp_path / "tables" / "a.png", 10)
    photo(tmp_path / "sent" / "b.png", 10)
    with pytest.raises(errors.ConfigError, match=r"1 files of .*tables.* remove them"):
        from_folders(tmp_path / "tables", tmp_path / "sent", labelled=False, limit=None)


def test_labels_are_the_folders_and_a_limit_is_spread_over_them(tmp_path: Path) -> None:
    photo(tmp_path / "tables" / "a.png", 200)
    for label, name in enumerate(("cat", "dog")):
        for number in range(4):
            photo(tmp_path / "sent" / name / f"{number}.png", 10 * label + number)
    found = from_folders(tmp_path / "tables", tmp_path / "sent", labelled=True, limit=4)
    assert found.labels == (0, 0, 1, 1)
    assert [image.getpixel((0, 0))[0] for image in found.test] == [0, 2, 10, 12]  # type: ignore[index]


def test_without_labels_all_files_below_the_folder_are_sent(tmp_path: Path) -> None:
    photo(tmp_path / "tables" / "a.png", 200)
    photo(tmp_path / "sent" / "one" / "a.png", 1)
    photo(tmp_path / "sent" / "b.png", 2)
    found = from_folders(tmp_path / "tables", tmp_path / "sent", labelled=False, limit=None)
    assert (len(found.test), len(found.calibration), found.labels) == (2, 1, None)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "sent" / "b.png", 2)
    with pytest.raises(errors.ConfigError, match="there is no image"):
        from_folders(tmp_path, tmp_path / "sent" / "none", labelled=False, limit=None)


def test_no_digit_is_fitted_on_and_sent() -> None:
    found = shipped_digits(None)
    assert (len(found.calibration), len(found.test), found.crops) == (120, 240, 1)
    assert found.labels is not None and set(found.labels) == set(range(10))
    assert len({image.tobytes() for image in found.calibration} & {image.tobytes() for image in found.test}) == 0


def test_crops_begin_with_the_models_own_and_have_its_size() -> None:
    preprocess = Preprocess(zoo.resolve("digits_vit"))
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    found = crops(Image.fromarray(pixels), preprocess, np.random.default_rng(0), 4)
    assert [crop.size for crop in found] == [(32, 32)] * 4
    assert found[0].tobytes() == preprocess.crop(Image.fromarray(pixels)).tobytes()
    assert len({crop.tobytes() for crop in found}) == 4
