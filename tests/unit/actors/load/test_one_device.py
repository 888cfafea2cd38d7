"""`headtail device`: which device it is, what it sends when, and what it says of that."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.cli import device_command as cli
from actors.fleet.config import parse_fleet
from actors.load import one_device
from actors.testing.fake_server import FakeServer
from slicer.common.command_line import main, values
from slicer.core.codecs.registry import CODECS
from slicer.core.device.device_run import DeviceRun
from slicer.core.images.folders import LabelledImages
from slicer.core.protocol.messages import ServedModel
from slicer.core.records.record import Record
from slicer.core.standalone import one_run, summary
from slicer.errors import ConfigError, ServerError
from slicer.models.images import write_digits
from slicer.shards.save import export
from slicer.slicing.slice_model import slice_model

URL = "http://127.0.0.1:8000/headtail"
FLEET = parse_fleet(
    {
        "model": "digits_swin",
        "groups": [
            {"name": "camera", "count": 3, "cut": 1},
            {"name": "board", "cut": 2, "codec": "int8", "profile": "fast-board", "link": "wifi"},
            {"name": "crowd", "count": 9, "cut": 2, "profile": "fast-board", "virtual": True},
        ],
    }
)
THREE = LabelledImages((Path("a.png"), Path("b.png"), Path("c.png")), (0, 1, 0), ("cat", "dog"))


def changes(*flags: str) -> dict[str, Any]:
    given = cli.DeviceFlags(**values(cli.command, flags))
    cli.check(given)
    return cli.changes(given)


def test_a_device_of_a_fleet_keeps_its_keys_but_those_that_flags_change() -> None:
    plain = one_device.choose_device(FLEET, "board-0", changes("--url", URL))
    assert (plain.model, plain.cut, plain.codec, plain.link) == ("digits_swin", 2, "int8", "emulated")
    assert (plain.transport, plain.url, plain.profile.name) == ("http", URL, "fast-board")
    changed = one_device.choose_device(FLEET, "board-0", changes("--url", URL, "--cut", "3", "--model", "digits_vit"))
    assert (changed.model, changed.cut, changed.codec) == ("digits_vit", 3, "int8")
    assert one_device.choose_device(FLEET, None, changes("--server", "x")).name == "camera-0"


@pytest.mark.parametrize(
    ("device", "flags", "says"),
    [
        ("camera-3", (), "--device camera-3: the fleet has camera-0, camera-1"),
        ("crowd-0", (), "crowd-0 is a virtual device"),
        ("camera-0", ("--codec", "png"), "codec png carries images, so it goes with cut 0 only"),
    ],
)
def test_a_device_that_cannot_be_is_refused(device: str, flags: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        one_device.choose_device(FLEET, device, changes("--url", URL, *flags))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "no server; give --url"),
        (["--url", URL, "--server", "x"], "both say where the server is"),
        (["--url", URL, "--address", "auto"], "--address auto is the Ray cluster of --server"),
        (["--server", "x", "--token", "abc"], "--token is for HTTP"),
        (["--url", URL, "--device", "camera-0"], "--device camera-0 is a device of --fleet"),
        (["--url", URL, "--duration", "3", "--requests", "3"], "both say when to stop"),
        (["--url", URL, "--rate", "0"], "--rate 0: give a positive number"),
        (["--url", URL, "--requests", "0"], "--requests 0: give a whole number from 1 on"),
        (["--url", "localhost"], "localhost"),
        (["--url", URL, "--images", "/absent"], "/absent: there is no such directory"),
    ],
)
def test_wrong_flags_are_one_line_before_anything_is_sent(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(cli.command, flags) == 2
    assert says in capsys.readouterr().err


def plan(**given: Any) -> Any:
    return one_run.assignment_of(
        THREE, **{"rate_rps": None, "duration_s": None, "requests": None, "top_k": 5, "labelled": True, **given}
    )


def test_without_a_rate_each_image_is_sent_once_one_after_the_other() -> None:
    made = plan()
    assert (made.closed.images, made.closed.clients, made.closed.requests) == ((0, 1, 2), 1, 3)
    assert made.labels == (0, 1, 0) and plan(labelled=False).labels == (None,) * 3
    assert plan(duration_s=9.0).closed.duration_s == 9.0


def test_with_a_rate_images_come_at_equal_distances_and_begin_again() -> None:
    assert [(one.at_s, one.image) for one in plan(rate_rps=2.0, duration_s=2.0).arrivals] == [
        (0.0, 0),
        (0.5, 1),
        (1.0, 2),
        (1.5, 0),
    ]
    assert len(plan(rate_rps=2.0).arrivals) == 3
    assert len(plan(rate_rps=2.0, requests=7).arrivals) == 7


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """What the device of a test sends to: it serves digits_vit, and answers with the cut."""
    manifest = export(slice_model("digits_vit", 4), tmp_path / "shards")
    shards = {shard.sha256: (tmp_path / "shards" / shard.file).read_bytes() for shard in manifest.shards}
    served = ServedModel(
        "digits_vit", manifest.digest, manifest.to_json(), 4, (0, 1, 2, 3), "per_tail_shared", tuple(CODECS)
    )
    server = FakeServer({"digits_vit": served}, shards=shards)

    async def is_there(url: str) -> None:
        pass

    monkeypatch.setattr(one_device, "HttpTransport", lambda url, token: server)
    monkeypatch.setattr(one_device, "check_application", is_there)
    return server


def test_a_wrong_name_of_the_application_is_said_before_anything_waits_for_it(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def is_none(url: str) -> None:
        raise ServerError(f"no application at {url}; there are others")

    monkeypatch.setattr(one_device, "check_application", is_none)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(cli.command, ["--url", URL]) == 2
    assert capsys.readouterr().err.endswith(f"no application at {URL}; there are others\n") and not server.requests


@pytest.mark.usefixtures("server")
def test_images_go_through_a_real_device_and_its_server(tmp_path: Path) -> None:
    fleet = parse_fleet({"cache": {"directory": str(tmp_path / "cache")}, "groups": [{"name": "device", "cut": 1}]})
    config = one_device.choose_device(fleet, None, changes("--url", URL))
    images = write_digits(tmp_path / "digits")
    made = one_run.assignment_of(images, rate_rps=None, duration_s=None, requests=5, top_k=1, labelled=True)
    sent = asyncio.run(one_device.send(config, made))
    found = summary.document(config, sent)
    assert (found["requests"], found["answered"], found["lost"]) == (5, 5, 0)
    assert found["top1_right"] == sum(label == 1 for label in images.labels[:5]), "it answers with the cut, 1"
    assert found["phases_mean_ms"]["head"] > 0
    assert found["classes"] == [{"class": 1, "label": None, "answers": 5}]
    assert "5 answered, 0 refused" in summary.summary(found)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_shows_what_has_ended_until_then(
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    def say(line: str) -> None:
        if "answered" in line:  # the first second has gone by
            signal.raise_signal(signal.SIGINT)

    # A shell starts what runs in its background with SIGINT ignored, and Python leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(cli, "say", say)
    monkeypatch.setenv("HOME", str(tmp_path))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("groups: [{name: device, cut: 1, profile: slow-board}]\n")
    flags = ["--url", URL, "--fleet", str(fleet), "--rate", "20", "--duration", "600", "--json"]
    assert main(cli.command, flags if as_json else flags[:-1]) == 130
    shown = capsys.readouterr()
    assert shown.err.endswith("headtail device: interrupted\n")
    if not as_json:
        assert "cut 1, fp32, until it was interrupted\n" in shown.out and "Emulated: " in shown.out
        return
    found = json.loads(shown.out)
    assert found["interrupted"] and 0 < found["requests"] == found["answered"] < 100


@pytest.mark.usefixtures("server")
def test_ctrl_c_before_the_run_shows_no_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(self: DeviceRun) -> None:
        await warm_up(self)
        raise KeyboardInterrupt

    warm_up = DeviceRun.warm_up
    monkeypatch.setattr(DeviceRun, "warm_up", interrupted)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(cli.command, ["--url", URL]) == 130
    assert capsys.readouterr().out == ""


def test_what_is_emulated_is_said_beside_the_figures() -> None:
    record = Record("a", "d", "g", 1, 0, None, 0.0)
    record.close("answered", finished_s=0.25)
    config = one_device.choose_device(FLEET, "board-0", changes("--url", URL))
    found = summary.document(config, summary.Sent((record,), ("link wifi",)))
    shown = summary.summary(found)
    assert "inference time (emulated): mean 250.0 ms" in shown and "Emulated: link wifi." in shown
    assert found["top1_right"] is None and "top-1" not in shown


def test_classes_are_shown_by_their_labels_where_the_server_knows_them() -> None:
    records = [Record(str(number), "d", "g", 1, number, None, 0.0) for number in range(4)]
    for record, top1 in zip(records, (1, 0, 1, None), strict=True):
        record.close("answered" if top1 is not None else "lost", finished_s=0.25)
        record.top1 = top1
    config = one_device.choose_device(FLEET, "board-0", changes("--url", URL))
    found = summary.document(config, summary.Sent(tuple(records), (), ("cat", "dog")))
    assert found["classes"] == [
        {"class": 1, "label": "dog", "answers": 2},
        {"class": 0, "label": "cat", "answers": 1},
    ]
    assert "answered most often: dog (2), cat (1)" in summary.summary(found)
    unnamed = summary.document(config, summary.Sent(tuple(records), ()))
    assert "answered most often: 1 (2), 0 (1)" in summary.summary(unnamed)


def test_the_line_of_a_second_holds_totals_and_what_is_new() -> None:
    records = [Record(str(number), "d", "g", 1, 0, None, 0.0) for number in range(3)]
    for number, record in enumerate(records):
        record.close("answered" if number else "lost", finished_s=number / 10)
    assert summary.second_line(records, 2) == "2 answered, 1 missed; last second 1, p50 200.0 ms, worst 200.0 ms"
    assert summary.second_line(records, 3) == "2 answered, 1 missed"
