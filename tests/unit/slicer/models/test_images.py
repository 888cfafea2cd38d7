"""Finding images, the shipped digits, and preprocessing that is timm's own."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from slicer.core.images.folders import find_images
from slicer.core.images.image_files import read_image
from slicer.errors import ImageError
from slicer.models import images, zoo
from slicer.models.images import Preprocess, load_digits, write_digits


def picture(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


# Preprocessing


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
@pytest.mark.parametrize("size", [(300, 200), (50, 400), (224, 224)])
def test_preprocessing_is_exactly_timms(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    file = picture(tmp_path / "a.png", size)
    config = timm.get_pretrained_cfg(name).to_dict()
    timms = create_transform(**timm.data.resolve_data_config(pretrained_cfg=config), is_training=False)
    with Image.open(file) as image:
        expected = timms(image.convert("RGB")).numpy()
    array = Preprocess(zoo.resolve(name))(file)
    assert array.dtype == np.float32 and array.flags["C_CONTIGUOUS"]
    assert np.array_equal(array, expected)


def test_a_built_timm_model_preprocesses_by_its_own_config(tmp_path: Path) -> None:
    module = timm.create_model("vit_tiny_patch16_224", depth=1)
    file = picture(tmp_path / "a.png")
    with Image.open(file) as image:
        expected = create_transform(**resolve_model_data_config(module), is_training=False)(image)
    assert np.array_equal(Preprocess(module)(file), expected.numpy())


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "LA"])
def test_every_kind_of_image_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    file = picture(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode=mode)
    assert Preprocess(zoo.resolve("digits_vit"))(file).shape == (3, 32, 32)


def test_a_model_of_one_channel_gets_luminance(tmp_path: Path) -> None:
    preprocess = Preprocess(zoo.resolve("vit_tiny_patch16_224", kwargs={"in_chans": 1, "img_size": 32}))
    assert preprocess(picture(tmp_path / "a.png")).shape == preprocess.shape == (1, 32, 32)


def test_a_model_of_five_channels_takes_no_images() -> None:
    with pytest.raises(ImageError, match="takes 5 channels"):
        Preprocess(zoo.resolve("vit_tiny_patch16_224", kwargs={"in_chans": 5}))


def test_a_preprocess_travels_to_other_processes(tmp_path: Path) -> None:
    preprocess = Preprocess(zoo.resolve("digits_vit"))
    file = picture(tmp_path / "a.png")
    assert np.array_equal(pickle.loads(pickle.dumps(preprocess))(file), preprocess(file))


def test_digits_as_files_are_the_digits_that_the_models_were_measured_on(tmp_path: Path) -> None:
    found = write_digits(tmp_path / "digits")
    pixels, labels = load_digits()
    preprocess = Preprocess(zoo.resolve("digits_vit"))
    by_number = {int(file.stem): file for file in found.files}
    for index in (0, 17, 359):
        assert np.array_equal(preprocess(by_number[index]), preprocess(Image.fromarray(pixels[index])))
        assert by_number[index].parent.name == str(labels[index])


# Unreadable images


def test_a_text_file_called_png_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png cannot be read"):
        read_image(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    file = picture(tmp_path / f"a{suffix}")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ImageError, match=rf"a\{suffix} cannot be read"):
        read_image(file)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png: there is no such file"):
        read_image(tmp_path / "absent.png")


# Finding


def test_folders_are_classes_and_everything_is_sorted(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.png", "cat/x.JPG"):
        picture(tmp_path / name)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "dog" / ".hidden").write_text("")
    found = find_images(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in found.files] == ["cat/x.JPG", "dog/a.png", "dog/b.png"]
    assert (found.labels, found.classes, len(found)) == ((0, 1, 1), ("cat", "dog"), 3)


def test_numbered_classes_are_sorted_by_value(tmp_path: Path) -> None:
    for name in ("0", "1", "2", "10"):
        picture(tmp_path / name / "a.png")
    assert find_images(tmp_path).classes == ("0", "1", "2", "10")


def test_a_csv_keeps_its_order_and_numbers_are_labels(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    table = tmp_path / "labels.csv"
    table.write_text("file,label\nb.png,7\na.png,3\n\n")
    found = find_images(tmp_path, table)
    assert ([file.name for file in found.files], found.labels) == (["b.png", "a.png"], (7, 3))


def test_a_csv_of_names_numbers_them_in_order(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    table = tmp_path / "labels.csv"
    table.write_text("b.png,dog\na.png,cat\n")
    found = find_images(tmp_path, table)
    assert (found.labels, found.classes) == ((1, 0), ("cat", "dog"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no row"),
        ("file,label\n", "no row"),
        ("a.png\n", "line 1: 'a.png' is not file,label"),
        ("a.png,1\na.png,\n", "line 2"),
        ("absent.png,1\n", "absent.png"),
        ("notes.txt,1\n", "unknown extension '.txt'"),
    ],
)
def test_a_wrong_csv_is_refused_by_line(tmp_path: Path, text: str, says: str) -> None:
    picture(tmp_path / "a.png")
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(ImageError) as caught:
        find_images(tmp_path, table)
    assert says in str(caught.value)


def test_an_absent_or_empty_directory_or_csv_says_what_it_must_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such directory"):
        find_images(tmp_path / "absent")
    with pytest.raises(ImageError, match="DIR/class/file"):
        find_images(tmp_path)
    with pytest.raises(ImageError, match=r"absent\.csv"):
        find_images(tmp_path, tmp_path / "absent.csv")


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "notes.txt").write_text("")
    with pytest.raises(ImageError, match=r"notes\.txt: unknown extension '\.txt'; known are \.png"):
        find_images(tmp_path)


# The shipped digits


def test_digits_are_written_once(tmp_path: Path) -> None:
    first = write_digits(tmp_path / "digits")
    stamps = [file.stat().st_mtime_ns for file in first.files]
    assert write_digits(tmp_path / "digits") == first
    assert [file.stat().st_mtime_ns for file in first.files] == stamps
    assert len(first) == 360 and first.classes == tuple("0123456789")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_several_may_write_the_digits_at_once(tmp_path: Path) -> None:
    results: list[images.LabelledImages] = []
    threads = [threading.Thread(target=lambda: results.append(write_digits(tmp_path / "d"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_directory_with_other_images_is_not_taken_for_the_digits(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    with pytest.raises(ImageError, match="not the digits"):
        write_digits(tmp_path)


def test_the_held_out_digits_are_real_and_balanced() -> None:
    pixels, labels = load_digits()
    assert pixels.shape == (360, 8, 8) and pixels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert torch.from_numpy(pixels).float().std() > 50
