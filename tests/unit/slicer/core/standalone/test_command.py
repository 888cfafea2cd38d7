"""`headtail-device`: images, videos and cameras are asked; lines, summary, records and exit status say how it went."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from slicer.core.protocol.messages import Answer, Request
from slicer.core.records.record import Record
from slicer.core.standalone import command, summary
from slicer.core.standalone.records_file import RecordsFile
from slicer.errors import ConfigError
from tests.unit.slicer.core.standalone.conftest import TOKEN, OnnxServer
from tests.unit.video_files import every, make_video

Run = Callable[..., int]

#: Beside the fields of `Record`, as a load job's records.jsonl has them.
ABOUT = {"strategy": "", "seed": 0, "loop": "device"}


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, with a device at cut 1."""
    monkeypatch.setenv("HEADTAIL_TOKEN", TOKEN)

    def ran(*flags: str) -> int:
        return command.main(["--url", url, "--cut", "1", "--cache", str(tmp_path / "cache"), *flags])

    return ran


@pytest.fixture
def by_class(digits: list[str], tmp_path: Path) -> Path:
    """Images of classes 3 and 7: not the first two."""
    for file in map(Path, digits):
        if file.parent.name in ("3", "7") and len(list((tmp_path / "by" / file.parent.name).glob("*"))) < 3:
            (tmp_path / "by" / file.parent.name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "by" / file.parent.name / file.name).symlink_to(file)
    return tmp_path / "by"


@pytest.fixture
def flat(digits: list[str], tmp_path: Path) -> Path:
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(digits[:4]):
        (tmp_path / "flat" / f"{number}{Path(file).suffix}").symlink_to(file)
    (tmp_path / "flat" / "notes.txt").write_text("no image", encoding="utf-8")
    (tmp_path / "flat" / "._0.png").write_bytes(b"what another system left")
    return tmp_path / "flat"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "a.mp4", every(Fraction(1, 20), 6))


def records_of(directory: Path) -> tuple[list[Record], list[Record]]:
    """(of the run, of the warm-up); each line is a `Record` and ABOUT."""
    lines = [json.loads(line) for line in (directory / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    found: tuple[list[Record], list[Record]] = ([], [])
    for line in lines:
        assert {name: line.pop(name) for name in ABOUT} == ABOUT
        found[line.pop("warmup")].append(Record(**line))
    return found


def last_document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_each_image_of_folders_by_class_is_asked_once_and_judged_by_the_folders_number(
    run: Run, by_class: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--images", str(by_class), "--json", "--name", "board") == 0
    found = last_document(capsys)
    assert (found["device"], found["model"], found["cut"]) == ("board", "digits", "1")
    assert (found["requests"], found["answered"], found["top1_right"]) == (6, 6, 6)


def test_files_in_one_folder_have_classes_that_nobody_knows(
    run: Run, flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--images", str(flat), "--json") == 0
    found = last_document(capsys)
    assert (found["requests"], found["answered"], found["top1_right"]) == (4, 4, None)


def test_folders_that_are_named_otherwise_are_not_taken_for_the_models_classes(
    run: Run, by_class: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (by_class / "3").rename(by_class / "cat")
    assert run("--images", str(by_class), "--json") == 0
    assert last_document(capsys)["top1_right"] is None


def test_requests_and_rate_say_how_many_and_when(run: Run, flat: Path, tmp_path: Path) -> None:
    assert run("--images", str(flat), "--rate", "50", "--requests", "6", "--out", str(tmp_path / "out")) == 0
    records, warmup = records_of(tmp_path / "out")
    records.sort(key=lambda record: record.scheduled_s)
    assert [record.scheduled_s for record in records] == pytest.approx([number / 50 for number in range(6)])
    assert [record.image for record in records] == [0, 1, 2, 3, 0, 1]
    assert len(warmup) == 2


def test_duration_ends_a_run(run: Run, flat: Path, tmp_path: Path) -> None:
    assert run("--images", str(flat), "--rate", "40", "--duration", "0.1", "--out", str(tmp_path / "out")) == 0
    assert len(records_of(tmp_path / "out")[0]) == 4
    assert run("--images", str(flat), "--duration", "0.05") == 0


def test_the_ledger_of_the_records_closes_and_a_miss_is_in_the_exit_status(
    run: Run, server: OnnxServer, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusals.extend([[None]] * 2 + [["too_late"]])  # after the two of the warm-up
    (flat / "9.png").write_bytes(b"no image")
    assert run("--images", str(flat), "--out", str(tmp_path / "out"), "--json", "--name", "board") == 2
    records, _ = records_of(tmp_path / "out")
    found = last_document(capsys)
    counts = {outcome: found[outcome] for outcome in ("answered", "refused", "dropped", "lost")}
    assert counts == {"answered": 3, "refused": 2, "dropped": 0, "lost": 0}
    assert [record.outcome for record in records].count("answered") == 3 and len(records) == found["requests"] == 5
    assert {record.code for record in records} == {"", "too_late", "bad_image"}
    assert {record.device for record in records} == {"board"} and len({record.id for record in records}) == 5


def test_the_summary_is_for_people(run: Run, by_class: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--images", str(by_class), "--name", "board") == 0
    said = capsys.readouterr().out
    assert said.startswith("board: digits, cut 1, fp32\n6 answered, 0 refused")
    assert "digit: 3 (3)" in said and "top-1 right: 6 of 6" in said


def test_a_video_is_asked_at_its_timestamps(run: Run, video: Path, tmp_path: Path) -> None:
    status = run("--video", str(video), "--out", str(tmp_path / "out"))
    records, _ = records_of(tmp_path / "out")
    assert sorted(record.scheduled_s for record in records) == pytest.approx([number / 20 for number in range(6)])
    # On a busy machine a frame may be too old when its turn comes.
    assert {record.outcome for record in records} <= {"answered", "dropped"}
    assert status == (0 if all(record.outcome == "answered" for record in records) else 2)


@pytest.mark.parametrize(("flags", "frames"), [(("--requests", "2"), 2), (("--duration", "0.14"), 3)])
def test_a_video_may_be_cut_short(
    run: Run, video: Path, flags: tuple[str, ...], frames: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--video", str(video), "--json", *flags)
    assert last_document(capsys)["requests"] == frames


def test_a_camera_is_asked_for_its_newest_frame(
    run: Run, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--camera", str(video), "--requests", "1", "--json", "--out", str(tmp_path / "out")) == 0
    assert last_document(capsys)["answered"] == 1
    ((record,), warmup) = records_of(tmp_path / "out")
    assert (record.outcome, warmup) == ("answered", [])


def test_a_camera_that_goes_away_leaves_a_summary_and_says_so(
    run: Run, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--camera", str(video), "--json") == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["interrupted"] and found["answered"] == found["requests"] >= 1
    assert printed.err.splitlines()[-1] == f"headtail-device: camera {video}: it gives no more frames"


def test_a_camera_that_runs_for_days_fills_no_memory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("slicer.core.common.clock.Clock.now_s", lambda self: float(next(clock)))  # a line per image
    monkeypatch.setattr(command, "KEPT", 2)
    kept: list[int] = []
    line = summary.second_line
    monkeypatch.setattr(summary, "second_line", lambda ended, *rest: kept.append(len(ended)) or line(ended, *rest))
    still = make_video(tmp_path / "still.mp4", every(Fraction(1, 20), 1))
    monkeypatch.setattr(command, "Camera", lambda which: Still(which))

    assert run("--camera", str(still), "--requests", "9", "--out", str(tmp_path / "out")) == 0

    printed = capsys.readouterr()
    assert max(kept) == 4
    assert "9 answered, 0 missed" in printed.err.splitlines()[-1]
    assert printed.out.splitlines()[-1] == "of the last 3 images; before them: 6 answered"
    assert len(records_of(tmp_path / "out")[0]) == 9


class Still(command.Camera):
    """Always its first frame."""

    def newest(self) -> Any:
        if not hasattr(self, "_first"):
            self._first = super().newest()
        return self._first


def test_an_interrupted_run_ends_with_its_summary_and_records(
    run: Run,
    server: OnnxServer,
    flat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = server.infer_parcel

    async def infer_parcel(requests: list[Request]) -> list[Answer]:
        if len(server.calls) == 4:  # two of the warm-up, two of the run
            os.kill(os.getpid(), signal.SIGINT)
        return await before(requests)

    monkeypatch.setattr(server, "infer_parcel", infer_parcel)
    assert run("--images", str(flat), "--duration", "100", "--json", "--out", str(tmp_path / "out")) == 130
    found = last_document(capsys)
    records, _ = records_of(tmp_path / "out")
    assert found["interrupted"] and 2 <= found["answered"] == len(records)


def test_an_interrupt_before_the_first_image_says_nothing(
    run: Run, server: OnnxServer, flat: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = server.describe

    async def describe(model: str) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return await before(model)

    monkeypatch.setattr(server, "describe", describe)
    assert run("--images", str(flat)) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "one of the arguments --images --camera --video is required"),
        (("--images", "x", "--video", "y"), "not allowed with argument"),
        (("--images", "x", "--speed", "9"), "unrecognized arguments: --speed 9"),
        (("--images", "x", "--req", "9"), "unrecognized arguments: --req 9"),
        (("--images", "x", "--rate", "fast"), "invalid float value: 'fast'"),
        (("--images", "x", "--rate", "nan"), "--rate nan: give a positive number"),
        (("--images", "x", "--requests", "0"), "--requests 0: give a positive number"),
        (("--images", "x", "--threads", "-1"), "--threads -1: give a positive number"),
        (("--images", "x", "--duration", "1", "--requests", "1"), "both say when to stop"),
        (("--camera", "0", "--rate", "3"), "--rate is for --images"),
        (("--images", "nowhere"), "images nowhere: there is no such directory"),
        (("--images", "EMPTY"), "no image found; it must hold DIR/class/file, or files"),
        (("--video", "nowhere.mp4"), "video nowhere.mp4: there is no such file"),
        (("--camera", "no-camera"), "camera no-camera: cannot be opened"),
        (("--images", "FLAT", "--cut", "9"), "cuts are 0 to 4"),
        (("--images", "FLAT", "--codec", "jpeg"), "only cut 0"),
        (("--images", "FLAT", "--model", "cats"), "no model 'cats'"),
        (("--images", "FLAT", "--token", "wrong"), "token"),
        (("--images", "FLAT", "--provider", "NpuProvider"), "no NpuProvider"),
        (("--images", "FLAT", "--memory-mb", "0.001"), "budget 1000 bytes"),
        (("--images", "FLAT", "--out", "/dev/null"), "--out /dev/null: records.jsonl cannot be written"),
    ],
)
def test_what_does_not_go_is_one_line_and_exit_2(
    run: Run, flags: tuple[str, ...], said: str, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"FLAT": str(flat), "EMPTY": str(tmp_path / "empty")}
    try:
        status: Any = run(*(places.get(flag, flag) for flag in flags))
    except SystemExit as ended:  # argparse's way
        status = ended.code
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("headtail-device: ") and said in line


def test_no_server_is_one_line_and_exit_2(flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--url", "http://127.0.0.1:9/x", "--images", str(flat)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headtail-device: http://127.0.0.1:9/x cannot be reached")


def test_a_full_disk_costs_no_answers_but_is_told(
    run: Run, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "records.jsonl").symlink_to("/dev/full")
    assert run("--images", str(flat), "--json", "--out", str(tmp_path / "full")) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["answered"] == 4
    assert "No space left on device" in printed.err.splitlines()[-1]


def test_records_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("of another run", encoding="utf-8")
    file = RecordsFile(tmp_path)
    file.write(Record("a/0", "a", "g", cut=1, image=0, label=None, scheduled_s=0.0))
    assert len(records_of(tmp_path)[0]) == 1  # at once, for whoever follows the file
    file.close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--out"):
        RecordsFile(tmp_path / "file" / "below")
