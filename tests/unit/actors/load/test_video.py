"""`--video`: cameras that play files; when which frame is asked, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from actors.cli import load_command
from actors.load import schedule
from actors.load.config import LoadConfig
from actors.load.video import Cameras, read_clip
from slicer.common.command_line import values
from slicer.core.video.frames import parse_name
from slicer.errors import ConfigError, ImageError
from tests.unit.video_files import every, make_video

TENTH = Fraction(1, 10)


def config(*flags: str) -> LoadConfig:
    return load_command.config_of(load_command.LoadFlags(**values(load_command.command, flags)))


def cameras(*files: Path, **changes: Any) -> Cameras:
    fields: dict[str, Any] = {"strategies": ("per_slice",), "images": "video", "arrivals": "video", "warmup_s": 0.0}
    return Cameras(LoadConfig(**{**fields, "video": tuple(map(str, files)), **changes}))


def played(made: Cameras, seed: int = 0, devices: tuple[str, ...] = ("a",)) -> list[list[float]]:
    """Each device's times after its first frame."""
    arrivals = made.arrivals(devices, seed)
    return [[c.at_s - arrivals[device][0].at_s for c in arrivals[device]] for device in devices]


def test_frames_come_at_their_timestamps_whatever_rate_and_beginning_the_file_has(tmp_path: Path) -> None:
    uneven = [Fraction(n, 1000) for n in (0, 40, 100, 500, 520, 900)]
    for number, (start_s, times) in enumerate([(0, every(TENTH, 6)), (0, uneven), (100, uneven)]):
        file = make_video(tmp_path / f"{number}.mkv", [start_s + time_s for time_s in times], codec="libx264")
        [found] = played(cameras(file, duration_s=0.95))
        assert found[:6] == pytest.approx([float(time_s) for time_s in times], abs=1e-3)


def test_cameras_begin_within_a_frames_time_as_the_seed_draws(tmp_path: Path) -> None:
    made = cameras(make_video(tmp_path / "a.mp4", every(TENTH, 5)), duration_s=2.0)
    begins = [made.arrivals(("a", "b"), seed)[device][0].at_s for seed in (0, 1) for device in ("a", "b")]
    assert len(set(begins)) == 4 and all(0 <= begin_s < 0.1 for begin_s in begins)
    assert made.arrivals(("a", "b"), 1) == made.arrivals(("a", "b"), 1)


def test_a_file_that_is_shorter_than_the_run_begins_again_and_says_so(tmp_path: Path) -> None:
    made = cameras(make_video(tmp_path / "a.mp4", every(TENTH, 5)), duration_s=1.2)
    captures = made.arrivals(("a",), 0)["a"]
    assert [capture.image for capture in captures] == [k % 5 for k in range(len(captures))]
    gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(captures)]
    assert len(captures) in (11, 12) and gaps == pytest.approx([0.1] * len(gaps), abs=1e-3)
    assert [note for note in made.notes if "0.50 s long, played again" in note]
    assert not cameras(tmp_path / "a.mp4", duration_s=0.4).notes


def test_without_a_duration_the_longest_file_is_played_once_with_its_beginning_as_warm_up(tmp_path: Path) -> None:
    short, long = make_video(tmp_path / "s.mp4", every(TENTH, 5)), make_video(tmp_path / "l.mp4", every(TENTH, 20))
    made = cameras(short, long, warmup_s=0.5)
    assert made.duration_s == pytest.approx(1.5, abs=1e-3)
    with pytest.raises(ConfigError, match=r"0.50 s are not longer than the warm-up of 2 s; give --warmup 0"):
        cameras(short, warmup_s=2.0)


def test_files_are_given_to_devices_in_turn_and_the_same_frame_has_one_number(tmp_path: Path) -> None:
    files = [make_video(tmp_path / name, every(TENTH, count)) for name, count in (("a.mp4", 4), ("b.mp4", 3))]
    made = cameras(*files, duration_s=0.3)
    arrivals = made.arrivals(("x", "y", "z"), 0)
    names = {device: {parse_name(made.images.files[c.image]) for c in mine} for device, mine in arrivals.items()}
    of_file = {device: {found[0] for found in mine if found} for device, mine in names.items()}
    assert of_file == {"x": {str(files[0])}, "y": {str(files[1])}, "z": {str(files[0])}}
    assert [c.image for c in arrivals["x"]][:2] == [c.image for c in arrivals["z"]][:2]
    with pytest.raises(ConfigError, match="2 files for 1 devices"):
        made.arrivals(("x",), 0)


def test_only_what_the_run_needs_is_read(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mp4", every(TENTH, 50))
    assert len(read_clip(str(file), 1.0).pts) == 10 and read_clip(str(file), 1.0).length_s is None
    assert len(read_clip(str(file), None).pts) == 50


def test_a_file_that_breaks_off_is_played_until_there(tmp_path: Path) -> None:
    file = make_video(tmp_path / "a.mkv", every(TENTH, 20), codec="ffv1")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    clip = read_clip(str(file), None)
    assert 5 < len(clip.pts) < 15 and clip.at_s[-1] == pytest.approx((len(clip.pts) - 1) / 10)
    assert len(clip.notes) == 1 and str(file) in clip.notes[0] and "ffmpeg" in clip.notes[0]


def test_a_single_picture_is_no_camera(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"holds 1 frame; give one with at least two, or pictures by --images"):
        read_clip(str(make_video(tmp_path / "a.mp4", [Fraction(0)])), None)


def test_an_assignment_of_a_camera_keeps_the_order_and_warms_up_at_its_first_frame(tmp_path: Path) -> None:
    load = config("--video", str(make_video(tmp_path / "a.mp4", every(TENTH, 5))), "--duration", "1", "--warmup", "0")
    made = Cameras(load)
    mine = schedule.assignments(load, None, ["a"], made.images.files, 0, made)["a"]
    assert mine.in_order and mine.max_age_ms == 1000.0
    assert set(mine.warmup) == {mine.arrivals[0].image} and mine.closed is None


def test_the_flag_takes_several_files() -> None:
    assert config("--video", "a.mp4", "b.mp4").video == ("a.mp4", "b.mp4")
    assert config("--video", "a.mp4", "--seeds", "2", "--video", "b.mp4").video == ("a.mp4", "b.mp4")
    assert config("--video", "a.mp4").describe(3).startswith("open loop: frames of a.mp4 at their timestamps, from 3 ")


def test_old_frames_are_dropped_at_the_deadline_or_after_a_second() -> None:
    assert config("--video", "a.mp4").max_age_ms == 1000.0
    assert config("--video", "a.mp4", "--deadline-ms", "250").max_age_ms == 250.0
    assert config("--video", "a.mp4", "--deadline-ms", "250", "--max-age-ms", "80").max_age_ms == 80.0


@pytest.mark.parametrize(
    "flags",
    [
        ("--rate", "20"),
        ("--device-rate", "2"),
        ("--concurrency", "4"),
        ("--arrivals", "poisson"),
        ("--images", "pictures"),
        ("--labels", "a.csv"),
        ("--requests", "9"),
    ],
)
def test_what_contradicts_a_video_is_refused(flags: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{flags[0]} {flags[1]} beside --video a.mp4: .* leave out {flags[0]}"):
        config("--video", "a.mp4", *flags)


def test_a_word_that_follows_no_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a.mp4' follows no flag"):
        config("a.mp4", "--rate", "3", "--duration", "1")
