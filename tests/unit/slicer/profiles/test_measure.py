"""`headtail slice --profile` and `--plan`: what is measured can be planned with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from slicer import cli
from slicer.profiles import measure
from slicer.profiles.device_profile import Profile, Spread, load_device_profile

MODEL = ["vit_tiny_patch16_224", "--kwargs", '{"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 24}']


def test_a_profile_is_measured_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "here.yaml"
    assert cli.main([*MODEL, "--profile", str(file), "--batches", "1,4"]) == 0
    assert "written to" in capsys.readouterr().out
    profile = load_device_profile(str(file))
    assert (profile.name, len(profile.slices_ms), list(profile.batches_ms)) == ("here", 4, [4])
    assert all(spread.mean_ms > 0 for spread in profile.slices_ms)
    assert profile.source.startswith("measured ")
    assert not profile.hypothetical
    assert profile.activation_bytes[0] == 4 * 3 * 32 * 32
    assert len(profile.slice_bytes) == 4
    assert profile.peak_memory_bytes is not None


def test_a_plan_is_a_table_over_all_cuts_and_codecs_with_the_reason_of_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = [*MODEL, "--plan", "slow-board", "--execution-ms", "8,6,4,2"]
    assert cli.main([*plan, "--link", "wired"]) == 0
    table = capsys.readouterr().out
    assert table.count("<- chosen") == 1
    (jpeg,) = (line.split() for line in table.splitlines() if " jpeg " in line)
    assert jpeg[:3] == ["0", "jpeg", "?"] and jpeg[9] == "?", "neither its bytes nor what hangs on them"
    assert "size of the image not known" in table
    assert "agreement 0.950 is below 0.99" in table
    assert "hypothetical" in table
    assert cli.main([*plan, "--mbit-per-s", "0.001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["cut"] == 4


def test_outputs_come_down_the_link_at_every_cut_but_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    plan = [*MODEL, "--plan", "slow-board", "--execution-ms", "0", "--json"]

    def downloads(*arguments: str) -> dict[int, float]:
        assert cli.main([*plan, *arguments]) == 0
        return {one["cut"]: one["download_ms"] for one in json.loads(capsys.readouterr().out)["choices"]}

    assert set(downloads("--link", "slow-4g").values()) == {0.0}
    told = downloads("--link", "slow-4g", "--outputs", "tokens")  # 17 x 24 float32 at 1.6 Mbit/s
    assert told == pytest.approx({0: 8.16, 1: 8.16, 2: 8.16, 3: 8.16, 4: 0.0})
    assert downloads("--mbit-per-s", "1.6", "--outputs", "tokens") == told, "downwards as upwards"
    twice = downloads("--mbit-per-s", "9", "--down-mbit-per-s", "0.8", "--outputs", "tokens")
    assert twice[0] == pytest.approx(2 * told[0])
    assert cli.main([*plan[:-1], "--link", "slow-4g", "--outputs", "tokens"]) == 0
    head, first = (line.split() for line in capsys.readouterr().out.splitlines()[2:4])
    assert first[head.index("download") - 1] == "8.2"  # "round trip" is two words


def test_without_the_servers_times_no_cut_is_named_as_if_they_were_known(capsys: pytest.CaptureFixture[str]) -> None:
    plan = [*MODEL, "--plan", "slow-board", "--link", "lte"]
    assert cli.main(plan) == 0
    table = capsys.readouterr().out
    assert "<- chosen" not in table
    assert "--server-profile" in table and "--execution-ms" in table
    assert cli.main([*plan, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["chosen"] is None and document["server_told"] is False
    for one in document["choices"]:
        known = one["cut"] == 4
        assert all((one[key] is not None) == known for key in ("execution_ms", "total_ms", "cost"))


def test_a_server_that_takes_no_time_is_one_when_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*MODEL, "--plan", "slow-board", "--link", "lte", "--execution-ms", "0"]) == 0
    table = capsys.readouterr().out
    assert table.count("<- chosen") == 1 and "not known, so" not in table
    assert "--wait-ms" in table, "that nobody else uses it is said as well"


def test_what_wins_even_against_a_server_of_0_ms_is_chosen_without_its_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*MODEL, "--plan", "slow-board", "--mbit-per-s", "0.001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["cut"] == 4


def test_the_servers_times_may_be_a_profile_that_was_measured_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [4.0, 3.0, 2.0, 1.0]
    file = tmp_path / "rack.yaml"
    spreads = tuple(Spread(mean=time, std=0.0) for time in times)
    file.write_text(measure.to_yaml(Profile(name="rack", source="measured somewhere", slices_ms=spreads)))
    assert cli.main([*MODEL, "--plan", "slow-board", "--link", "wifi", "--server-profile", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {one["cut"]: one["execution_ms"] for one in document["choices"]} == {0: 10, 1: 6, 2: 3, 3: 1, 4: 0}
    assert document["chosen"] is not None
    assert cli.main([*MODEL, "--plan", "slow-board", "--link", "wifi", "--server-profile", str(file)]) == 0
    assert "its rest on 'rack'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--plan", "native"], "no times on file"),
        (["--plan", "slow-board", "--slices", "2"], "--slices 4"),
        (["--plan", "slow-board", "--execution-ms", "1,2"], "2 values for 4 entries"),
        (["--plan", "slow-board", "--mbit-per-s", "0"], "--mbit-per-s 0: a rate above 0"),
        (["--plan", "slow-board", "--down-mbit-per-s", "0"], "--down-mbit-per-s 0: a rate above 0"),
        (["--plan", "slow-board", "--link", "lte", "--down-mbit-per-s", "3"], "leave"),
        (["--plan", "slow-board", "--link", "lte", "--mbit-per-s", "3"], "leave"),
        (["--plan", "slow-board", "--server-profile", "native"], "--server-profile native"),
        (["--plan", "slow-board", "--server-profile", "absent"], "no profile 'absent'"),
        (["--plan", "slow-board", "--server-profile", "slow-board", "--execution-ms", "1"], "give one"),
        (["--profile", "/nowhere/x.yaml"], "cannot be written"),
        (["--profile", "x.yaml", "--batches", "2"], "batch 1 must be among them"),
    ],
)
def test_what_cannot_be_measured_or_planned_is_said(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*MODEL, *arguments]) == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--execution-ms", "nan,1,1,1"),
        ("--execution-ms", "-1"),
        ("--wait-ms", "inf"),
        ("--execution-ms", "fast"),
        ("--rate", "nan"),
        ("--round-trip-ms", "-3"),
        ("--deadline-ms", "inf"),
        ("--joule-ms", "much"),
    ],
)
def test_a_number_that_is_none_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*MODEL, "--plan", "slow-board", f"{option}={value}"]) == 2
    assert value in capsys.readouterr().err


def test_where_a_profile_goes_is_looked_at_before_it_is_measured_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "measure_profile", lambda *_, **__: pytest.fail("measured"))
    for bad in (tmp_path, tmp_path / "absent" / "x.yaml", Path("/proc/x.yaml"), tmp_path / ("n" * 300)):
        assert cli.main([*MODEL, "--profile", str(bad)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    def measure_profile(*_: object, **__: object) -> Profile:
        (tmp_path / "x.yaml").mkdir()  # meanwhile
        return Profile(name="x", source="measured", slices_ms=(Spread(mean=1.0, std=0.0),))

    monkeypatch.setattr(measure, "measure_profile", measure_profile)
    assert cli.main([*MODEL, "--profile", str(tmp_path / "x.yaml")]) == 2
    printed = capsys.readouterr()
    assert "printed above" in printed.err and "slices_ms" in printed.out


def test_the_processor_is_named_as_people_name_it(tmp_path: Path) -> None:
    x86, board = tmp_path / "x86", tmp_path / "board"
    x86.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nmodel name\t: another\n")
    board.write_text("processor\t: 0\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B\n")
    assert measure.cpu_name(x86) == "AMD EPYC"
    assert measure.cpu_name(board) == "Raspberry Pi 4 Model B"
    assert measure.cpu_name(tmp_path / "none")


def test_a_file_has_numbers_for_keys_and_unsteady_times_are_told() -> None:
    def board(high: float) -> Profile:
        spread = Spread(quantiles={0.05: 9.0, 0.5: 10.0, 0.95: high})
        return Profile(name="b", source="measured", slices_ms=(spread,), batches_ms={2: (spread,)})

    read = yaml.safe_load(measure.to_yaml(board(12.0)))
    assert read["slices_ms"] == [{"quantiles": {0.05: 9.0, 0.5: 10.0, 0.95: 12.0}}]
    assert list(read["batches_ms"]) == [2]
    assert measure.unsteady(board(12.0)) == ""
    assert measure.unsteady(board(20.0)).startswith("S1: ")


def test_the_mean_of_quantiles_is_that_of_what_is_drawn() -> None:
    import random

    spread = Spread(quantiles={0.05: 10.0, 0.5: 12.0, 0.95: 20.0})
    rng = random.Random(0)
    drawn = [spread.draw_ms(rng) for _ in range(20_000)]
    assert spread.mean_ms == pytest.approx(sum(drawn) / len(drawn), rel=0.01)
