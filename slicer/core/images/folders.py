"""Finding images: a folder per class, or a CSV of files and labels."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError

#: What is taken for an image in a directory; other files in it are refused by name, hidden ones are skipped.
EXTENSIONS: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class LabelledImages:
    """Files and their classes, in a fixed order.

    Attributes:
        files: sorted by class, then by name (labels CSV: in the order of the file).
        labels: index of each file's class; the same length.
        classes: names of the classes, sorted; for a CSV of whole numbers, the numbers themselves as labels.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


def find_images(directory: str | Path, labels_csv: str | Path | None = None) -> LabelledImages:
    """The images of ``directory/class/file``, or of a CSV of ``file,label`` with files relative to `directory`.

    Only names are read here; a damaged image is found when it is opened.

    Raises:
        ImageError: the directory or CSV is missing, empty, or names a file that is no image or does not exist.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ImageError(f"images {root}: there is no such directory")
    return _from_folders(root) if labels_csv is None else _from_csv(root, Path(labels_csv))


def _from_folders(root: Path) -> LabelledImages:
    folders = sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_natural)
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        for file in sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=_natural):
            _check_extension(file)
            files.append(file)
            labels.append(label)
    if not files:
        raise ImageError(f"images {root}: no image found; it must hold DIR/class/file; or give a labels CSV")
    return LabelledImages(tuple(files), tuple(labels), tuple(folder.name for folder in folders))


def _from_csv(root: Path, table: Path) -> LabelledImages:
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"labels {table} cannot be read ({error}); it must be a CSV of file,label") from error
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["file", "label"]:
        rows = rows[1:]
    if not rows:
        raise ImageError(f"labels {table}: no row; each row is file,label")
    files: list[Path] = []
    names: list[str] = []
    for number, row in rows:
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise ImageError(f"labels {table}, line {number}: {','.join(row)!r} is not file,label")
        file = root / row[0].strip()
        _check_extension(file)
        if not file.is_file():
            raise ImageError(f"labels {table}, line {number}: there is no file {file}; paths are relative to {root}")
        files.append(file)
        names.append(row[1].strip())
    if all(name.isdecimal() for name in names):  # class indices, as the model counts them
        if longest := next((name for name in names if len(name) > 6), ""):
            raise ImageError(f"labels {table}: {_short(longest)} is no class number; the highest is 999999")
        return LabelledImages(tuple(files), tuple(map(int, names)), tuple(map(str, range(max(map(int, names)) + 1))))
    classes = sorted(set(names))
    return LabelledImages(tuple(files), tuple(classes.index(name) for name in names), tuple(classes))


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:20]}..."


def _check_extension(file: Path) -> None:
    if file.suffix.lower() not in EXTENSIONS:
        raise ImageError(f"image {file}: unknown extension {file.suffix!r}; known are {', '.join(EXTENSIONS)}")


def _natural(path: Path) -> tuple[int, int, str]:
    """Whole numbers by value before other names, so that class folders 0..10 are classes 0..10."""
    return (0, int(path.stem), path.name) if path.stem.isdecimal() else (1, 0, path.name)
