"""--out: reserved before anything is measured, and what was measured outlives whatever happens to it at the end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import cli
from actors.load import job as load
from actors.report import files as report_files
from actors.report.files import FILES, PICTURES, reserved
from actors.report.plots import draw
from actors.report.result import document
from slicer.errors import ConfigError
from tests.paths import ROOT
from tests.unit.actors.report.test_result import two_strategies

FINISH = """
import sys
from pathlib import Path
from actors import cli
from tests.unit.actors.report.test_result import two_strategies
sys.exit(cli.finish(two_strategies(), Path(sys.argv[1])))
"""


def hold(directory: Path, overwrite: bool = False, requests: int = 10) -> None:
    with reserved(directory, requests, overwrite=overwrite):
        assert directory.is_dir()


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel lets this process write no larger file, which stands here for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_folder_is_made_and_left_empty_for_the_report(tmp_path: Path) -> None:
    hold(tmp_path / "deep" / "down")
    assert list((tmp_path / "deep" / "down").iterdir()) == []


def test_what_a_failed_job_made_is_gone_again_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError), reserved(tmp_path / "mine" / "a" / "b", 1, overwrite=False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"] and list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("file", "File exists"),
        ("file/below", "Not a directory"),
        ("/proc/nowhere", "no folder can be made there"),
        ("dangling", "no folder can be made there"),
        ("loop/x", "no folder can be made there"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_place_where_no_folder_can_be_is_refused_in_one_line(at: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "absent" / "far")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConfigError, match=says) as refused:
        hold(tmp_path / at)
    assert str(refused.value).startswith("--out ") and "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        hold(tmp_path / "mine")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".headtail-load").mkdir()  # in the way, also for root
    with pytest.raises(ConfigError, match="cannot be written"):
        hold(tmp_path)


def test_a_disk_without_room_for_the_report_is_refused_with_the_amount(tmp_path: Path) -> None:
    with files_of_at_most(3_000_000), pytest.raises(ConfigError, match="no room for a report of about 4 MB"):
        hold(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with files_of_at_most(5_000_000):
        hold(tmp_path / "out", requests=900)
        with pytest.raises(ConfigError, match="about 6 MB"):
            hold(tmp_path / "out", requests=2000)


def test_two_jobs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with reserved(tmp_path, 1, overwrite=False), pytest.raises(ConfigError, match="another job is writing there"):
        hold(tmp_path)
    hold(tmp_path)


def test_what_a_killed_job_leaves_does_not_keep_the_next_one_out(tmp_path: Path) -> None:
    (tmp_path / ".headtail-load").write_bytes(b"\0" * 100)
    hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("notes.txt",), ("report.md",), ("result.json", "notes.txt"), ("sub/x",)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_replaced(names: tuple[str, ...], overwrite: bool, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    with pytest.raises(ConfigError, match="holds other files"):
        hold(tmp_path, overwrite)


def test_an_earlier_report_is_replaced_only_when_that_is_asked_for_and_it_is_said(tmp_path: Path) -> None:
    report_files.write(two_strategies(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds the report of an earlier job.*--overwrite"):
        hold(tmp_path)
    said: list[str] = []
    with reserved(tmp_path, 1, overwrite=True, say=said.append):
        assert (tmp_path / "result.json").is_file(), "it stays until the new one is there"
    assert said == [f"the earlier report in {tmp_path} will be replaced"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_a_full_disk_left_of_a_report_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").touch()
    with pytest.raises(ConfigError, match="--overwrite"):
        hold(tmp_path)
    hold(tmp_path, overwrite=True)


def test_no_folder_no_reservation() -> None:
    with reserved(None, 10**15, overwrite=False):
        pass


# ---- at the end ----


def test_a_full_disk_costs_only_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_of_at_most(20_000):  # records and page are larger
        assert cli.finish(two_strategies(), tmp_path) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["strategies"], "the figures are printed all the same"
    assert "records.jsonl cannot be written (File too large)" in printed.err and "Traceback" not in printed.err
    there = {path.name for path in tmp_path.iterdir()}
    assert "report.md" in there and "records.jsonl" not in there
    assert there <= set(FILES), "no piece of a file is left"


def test_plots_that_fail_cost_the_plots_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(draw, "draw", fail)
    assert cli.finish(two_strategies(), tmp_path) == 2
    printed = capsys.readouterr()
    assert "the plots cannot be drawn (RuntimeError: no font)" in printed.err
    assert {path.name for path in tmp_path.iterdir()} == set(FILES) - set(PICTURES)
    json.loads(printed.out.splitlines()[-1])


def test_a_folder_that_is_gone_by_then_is_made_again_and_a_file_in_its_place_costs_the_report_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.finish(two_strategies(), tmp_path / "again") == 0
    (tmp_path / "file").touch()
    assert cli.finish(two_strategies(), tmp_path / "file") == 2
    printed = capsys.readouterr()
    assert "cannot be made" in printed.err and json.loads(printed.out.splitlines()[-1])


def test_nothing_of_an_earlier_report_stays_beside_new_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report_files.write(two_strategies(), tmp_path)
    monkeypatch.setattr(draw, "draw", lambda *_: [])
    assert report_files.write(two_strategies(), tmp_path) == []
    assert not (tmp_path / "phases.png").exists()


def test_a_path_that_is_no_utf8_is_a_path(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    hold(out)
    done = subprocess.run([sys.executable, "-c", FINISH, os.fsencode(out)], cwd=ROOT, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("stdout", ["/dev/full", "closed pipe"])
def test_a_stdout_that_takes_nothing_is_one_line_and_the_report_is_there(stdout: str, tmp_path: Path) -> None:
    if stdout == "/dev/full":
        target = os.open(stdout, os.O_WRONLY)
    else:
        reading, target = os.pipe()
        os.close(reading)
    with os.fdopen(target, "wb") as sink:
        done = subprocess.run(
            [sys.executable, "-c", FINISH, str(tmp_path)], cwd=ROOT, stdout=sink, stderr=subprocess.PIPE, timeout=120
        )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("headtail-load: stdout cannot be written")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "report.html").is_file()


# ---- before the start, from the command line ----


def test_a_bad_out_ends_the_command_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "run_job", lambda job: pytest.fail("measured"))
    (tmp_path / "file").touch()
    for out, says in (
        (str(tmp_path / "file"), "File exists"),
        ("", "names no folder"),
        ("~nobody-here/x", "no folder"),
    ):
        assert cli.main(["--rate", "5", "--duration", "1", "--out", out]) == 2
        assert says in capsys.readouterr().err
    assert cli.main(["--rate", "5", "--duration", "1", "--overwrite"]) == 2
    assert "--overwrite replaces the report in --out DIR" in capsys.readouterr().err


def test_the_demo_can_be_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "run_job", lambda job: two_strategies())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--demo"]) == 0
    assert cli.main(["--demo"]) == 0
    assert cli.main(["--rate", "5", "--duration", "1", "--out", "report"]) == 2
    assert cli.main(["--rate", "5", "--duration", "1", "--out", "report", "--overwrite"]) == 0


def test_a_failure_in_a_later_run_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--rate", "5", "--duration", "1", "--strategy", "per_slice,unbatched", "--seeds", "2"]
    job = load.Job(cli.config_of(cli.parser().parse_args(flags)))
    done: list[tuple[int, str]] = []

    def run_one(fleet: object, seed: int, strategy: str) -> None:
        if len(done) == 2:
            raise ConfigError("the fleet broke")
        done.append((seed, strategy))
        job._runs += two_strategies().runs[:1]

    monkeypatch.setattr(job, "run_one", run_one)
    job.run_all(None)  # type: ignore[arg-type]
    assert len(done) == 2
    assert "the fleet broke" in job.result().failures[0]
    job._runs.clear()
    with pytest.raises(ConfigError, match="the fleet broke"):
        job.run_all(None)  # type: ignore[arg-type]


# ---- on a terminal ----


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_last_line_says_where_the_document_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(out: Path | None) -> str:
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        cli.finish(two_strategies(), out)
        assert max(map(len, screen.getvalue().splitlines())) < 300
        return screen.getvalue().splitlines()[-1].removeprefix("JSON document: ")

    assert last(tmp_path / "out") == str(tmp_path / "out" / "result.json")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    elsewhere = Path(last(None))
    assert elsewhere.parent == tmp_path
    assert json.loads(elsewhere.read_text()) == json.loads(json.dumps(document(two_strategies())))


def test_on_a_terminal_an_older_document_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "result.json").mkdir()  # what is in its place cannot be replaced
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert cli.finish(two_strategies(), tmp_path) == 2
    at = Path(screen.getvalue().splitlines()[-1].removeprefix("JSON document: "))
    assert at.name.startswith("headtail-load-") and json.loads(at.read_text())
