"""benchmarks/frontier/frontier.py from end to end, on some digits, with few qualities."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.results import manifest
from benchmarks.frontier import activation_ways, frontier, image_ways, photos, tables

FEW = {name: replace(way, qualities=way.qualities[:: len(way.qualities) // 2]) for name, way in image_ways.WAYS.items()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("frontier"), io.StringIO()
    flags = ["--model", "digits_vit", "--digits", "--at", "5", "--limit", "8", "--out", str(folder / "out.json")]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(frontier, "WAYS", FEW)
        patch.setattr(activation_ways, "STEPS", (0.5, 1.0, 2.0, 4.0))
        patch.setattr(photos, "_DIGITS_SENT", 14)
        assert frontier.main([*flags, "--pictures", str(folder / "pictures")]) == 0
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def document(ran: tuple[Path, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran[0] / "out.json").read_text(encoding="utf-8"))
    return found


def test_the_last_line_is_the_document(ran: tuple[Path, str], document: dict[str, Any]) -> None:
    assert json.loads(ran[1].splitlines()[-1]) == document
    assert document["photos"] == {"test": 8, "calibration": 24, "crops": 1, "digits": True}
    assert document["top1_exact"] == 1


def test_each_cut_says_how_it_stands_against_jpeg_and_int8(document: dict[str, Any]) -> None:
    cut = document["cuts"]["1"]
    assert cut["boundary"] == "blocks.5"
    assert set(cut["bd_rate_vs"]) == set(FEW)
    assert cut["bd_rate_vs_jpeg"] == cut["bd_rate_vs"][image_ways.OPPONENT]
    assert {"bytes_over_int8_at_995", "decode_over_jpeg_decode"} <= set(cut)
    assert cut["decode_over_jpeg_decode"] > 0
    assert cut["ways"]["int8"][0]["bytes"] == 16 * 96 + 2 * 96


def test_every_point_has_times_of_both_sides(document: dict[str, Any]) -> None:
    ways = [found["points"] for found in document["images"].values()] + list(document["cuts"]["1"]["ways"].values())
    for one in (one for points in ways for one in points):
        assert one["joint_ms"] == pytest.approx(one["device_ms"] + one["server_ms"], abs=0.002)
        assert one["device_ms"] >= one["encode_ms"] and one["server_ms"] > one["decode_ms"]
        assert 0 <= one["neighbours"] <= 1 and one["patch_error"] >= 0 and 0 <= one["top1"] <= 1


def test_coarser_steps_give_fewer_bytes_and_larger_errors_of_patches(document: dict[str, Any]) -> None:
    points = document["cuts"]["1"]["ways"]["transform"]
    for key, rising in (("bytes", False), ("patch_error", True)):
        values = [one[key] for one in points]
        assert values == sorted(values, reverse=not rising) and len(set(values)) == len(values), key


def test_the_digits_go_in_their_own_size_too(document: dict[str, Any]) -> None:
    (own,) = document["images"][image_ways.NATIVE]["points"]
    assert (own["bytes"], own["cosine"], own["top1"]) == (64, 1, 1)


def test_pictures_are_drawn_and_drawn_again_alike(
    ran: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(f"frontier_{what}{suffix}" for what in ("bytes", "time", "int8") for suffix in (".svg", ".png"))
    assert frontier.main(["--from", str(ran[0] / "out.json"), "--pictures", str(tmp_path)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (ran[0] / "pictures" / name).read_bytes()
    lines = [text.split("Pictures:")[0] for text in (capsys.readouterr().out, ran[1])]
    assert lines[0] == lines[1] != ""


def test_the_table_has_a_row_per_way_that_is_good_enough(document: dict[str, Any]) -> None:
    lines = list(tables.at_goal(document))
    assert sum(line.startswith("| ") for line in lines) == 1 + len(document["means"])
    assert any(line.startswith("| int8 | 1 | 1,728 |") for line in lines)


def test_the_row_for_readme_holds_figures_or_is_not_there(document: dict[str, Any]) -> None:
    assert tables.readme_row({**document, "cuts": {"1": _with_figures(document["cuts"]["1"])}}, "1") == (
        "| An activation of digits_vit after `blocks.5` takes 6.2 kB at a cosine of .995 by the median image, 0.062 of "
        "int8's; tables of other photos | Against optimised JPEG of the image -10% bytes (-20% to +0%), webp -10%, "
        "avif -10%, in its own size the image takes 64 bytes |"
    )
    few = {**_with_figures(document["cuts"]["1"]), "bytes_at": {"0.995": {"median": 48.4, "images": 8}}}
    assert "takes 48 bytes at" in str(tables.readme_row({**document, "cuts": {"1": few}}, "1"))
    nothing = {"median": None, "images": 0}
    cut = {**document["cuts"]["1"], "bytes_at": {"0.99": nothing, "0.995": nothing}}
    assert tables.readme_row({**document, "cuts": {"1": cut}}, "1") is None


def _with_figures(cut: dict[str, Any]) -> dict[str, Any]:
    rate = {"median": -0.1, "ci95": [-0.2, 0.0], "images": 8}
    return {
        **cut,
        "bytes_at": {"0.995": {"median": 6200.0, "images": 8}},
        "bytes_over_int8_at_995": 0.062,
        "bd_rate_vs": dict.fromkeys(cut["bd_rate_vs"], rate),
    }


def test_a_model_file_is_named_without_its_place(tmp_path: Path) -> None:
    (file := tmp_path / "own.yaml").touch()
    assert [frontier._name(model) for model in (str(file), "digits_vit", "hf:org/name")] == [
        "own.yaml",
        "digits_vit",
        "hf:org/name",
    ]
    args = frontier.parser().parse_args(["--model", str(file), "--images", str(tmp_path), "--calibrate", str(tmp_path)])
    assert str(tmp_path) not in json.dumps(manifest(args, without=frontier._PATHS))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--digits"], "give --model NAME"),
        (["--model", "digits_vit", "--images", "sent"], "give --calibrate DIR"),
        (["--model", "digits_vit", "--digits", "--calibrate", "seen"], "leave out --calibrate"),
        (["--model", "digits_vit", "--digits", "--embedding"], "leave out --embedding"),
        (["--model", "digits_vit", "--digits", "--limit", "0"], "--limit 0"),
        (["--model", "digits_vit"], "--images --labelled --digits --from is required"),
        (["--from", "nothing.json"], "cannot be read"),
    ],
)
def test_flags_that_make_no_run_are_refused_with_what_to_do(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        frontier.main(flags)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
