"""The command line of the load job: what the flags mean, and that bad ones exit with 2, their value and a remedy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from PIL import Image

from actors.cli import load_command as cli
from actors.load import applications, job, schedule
from actors.load.config import LoadConfig
from actors.report.statistics import StrategyRun
from deployments.scheduling.registry import STRATEGIES
from slicer.common.command_line import values
from slicer.core.common.version import headtail_version
from slicer.errors import ConfigError, ServerError
from tests.unit.actors.report.test_result import SCHEMA, record, result, two_strategies

OPEN = ("--rate", "10", "--duration", "2")


def config(*flags: str) -> LoadConfig:
    return cli.config_of(cli.LoadFlags(**values(cli.command, flags)))


def test_the_demo_compares_all_strategies_but_the_published_baseline_on_eight_devices_at_cuts_0_to_4() -> None:
    demo = config("--demo")
    assert set(demo.strategies) == set(STRATEGIES) - {"lazy"}
    assert demo.loop == "open" and demo.images == "digits" and demo.resident == "all" and demo.out == Path("report")
    fleet = job.fleet_of(demo)
    assert sum(group.count for group in fleet.groups) == 8
    assert sorted({group.cut for group in fleet.groups}) == [0, 1, 2, 3, 4]
    assert fleet.model == "digits_vit"


def test_a_strategys_old_name_is_taken_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="strategy naive is now serve_batch"):
        assert config(*OPEN, "--strategy", "naive,per_slice").strategies == ("serve_batch", "per_slice")


def test_flags_win_over_the_demo() -> None:
    demo = config("--demo", "--strategy", "per_slice,unbatched", "--concurrency", "4", "--requests", "80")
    assert demo.strategies == ("per_slice", "unbatched")
    assert (demo.concurrency, demo.device_rate_rps, demo.requests, demo.duration_s) == (4, None, 80, None)


def test_the_demo_stays_on_this_machine_but_inside_a_ray_job_in_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert config("--demo").address == "local"
    assert config(*OPEN).address is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert config("--demo").address is None


def test_device_rate_is_per_device_and_rate_is_the_fleets() -> None:
    assert config("--device-rate", "2", "--duration", "1").fleet_rate_rps(8) == 16
    assert config("--rate", "2", "--duration", "1").fleet_rate_rps(8) == 2


def test_the_loop_is_labelled() -> None:
    assert config(*OPEN).describe(8).startswith("open loop: poisson arrivals, 10 images/s from 8 devices; 2 s")
    closed = config("--concurrency", "3", "--requests", "9", "--seeds", "5")
    assert closed.describe(8).startswith("closed loop: 3 clients on 8 devices, think time 0 ms; 9 images per run")
    assert closed.describe(8).endswith("5 seeds")


def test_seeds_are_a_count_or_a_list() -> None:
    assert config(*OPEN, "--seeds", "3").seeds == (0, 1, 2)
    assert config(*OPEN, "--seeds", "3,7").seeds == (3, 7)


def test_model_and_codec_replace_those_of_the_fleet() -> None:
    fleet = job.fleet_of(config(*OPEN, "--model", "digits_swin", "--codec", "fp16"))
    assert {group.model or fleet.model for group in fleet.groups} == {"digits_swin"}
    assert {group.codec for group in fleet.groups} == {"fp16"}


# (flags, what the message must name: the value, and the remedy)
BAD = [
    (("--duration", "2"), ("no load", "--rate")),
    (("--rate", "5"), ("--duration", "--requests")),
    (("--rate", "5", "--duration", "2", "--requests", "9"), ("--duration", "--requests")),
    (("--rate", "5", "--concurrency", "2", "--duration", "2"), ("--rate", "--concurrency", "never mixed")),
    (("--rate", "-5", "--duration", "2"), ("--rate -5", "positive")),
    (("--rate", "nan", "--duration", "2"), ("--rate nan", "positive")),
    (("--rate", "5", "--duration", "inf"), ("--duration inf", "positive")),
    (("--rate", "5", "--duration", "2", "--strategy", "fastest"), ("'fastest'", "per_slice")),
    (("--rate", "5", "--duration", "2", "--strategy", ","), ("','", "per_slice")),
    (("--rate", "5", "--duration", "2", "--strategy", "serve_batch,serve_batch"), ("'serve_batch'", "once")),
    (
        ("--rate", "5", "--duration", "2", "--server", "x", "--strategy", "serve_batch,per_slice"),
        ("x", "serve_batch, per_slice"),
    ),
    (("--rate", "5", "--duration", "2", "--arrivals", "bursty"), ("'bursty'", "periodic")),
    (("--rate", "5", "--duration", "2", "--arrivals", "trace:/absent"), ("/absent", "text file")),
    (("--concurrency", "2", "--duration", "2", "--arrivals", "periodic"), ("periodic", "closed loop")),
    (("--concurrency", "2", "--duration", "2", "--arrivals", "poisson"), ("poisson", "closed loop")),
    (("--concurrency", "2", "--requests", "9", "--warmup", "2"), ("--warmup 2", "--requests", "leave it out")),
    (("--concurrency", "0", "--duration", "2"), ("--concurrency 0", "from 1")),
    (("--rate", "5", "--duration", "2", "--think-ms", "3"), ("--think-ms 3", "--concurrency")),
    (("--concurrency", "2", "--duration", "2", "--max-age-ms", "9"), ("--max-age-ms 9", "open loop")),
    (("--rate", "5", "--duration", "2", "--seeds", "many"), ("'many'", "3,7")),
    (("--rate", "5", "--duration", "2", "--seeds", "0"), ("--seeds 0", "1 to 1000")),
    (("--rate", "5", "--duration", "2", "--seeds", "4,4"), ("(4, 4)", "different")),
    (("--rate", "5", "--duration", "2", "--fleet", "/absent.yaml"), ("/absent.yaml", "demo")),
    (("--rate", "5", "--duration", "2", "--images", "/absent"), ("/absent", "no such directory")),
    (("--rate", "5", "--duration", "2", "--labels", "x.csv"), ("x.csv", "--images DIR")),
    (("--rate", "5", "--duration", "2", "--codec", "jpeg"), ("'jpeg'", "fp16")),
    (("--rate", "5", "--duration", "2", "--slices", "0"), ("--slices 0", "from 1")),
    (("--rate", "5", "--duration", "2", "--top-k", "-1"), ("--top-k -1", "from 1")),
    (("--rate", "fast", "--duration", "2"), ("--rate", "'fast'")),
    (("--rate", "5", "--duration", "2", "--colour"), ("--colour",)),
]


# Every flag with a value that is not its default, and what must stand beside it.
SAMPLES: dict[str, tuple[str, ...]] = {
    "demo": (),
    "server": ("x",),
    "address": ("10.0.0.1:6379",),
    "fleet": ("emulated",),
    "model": ("digits_swin",),
    "strategy": ("serve_batch",),
    "rate": ("7",),
    "device_rate": ("7",),
    "arrivals": ("periodic",),
    "concurrency": ("3",),
    "think_ms": ("3",),
    "duration": ("9",),
    "requests": ("9",),
    "warmup": ("9",),
    "drain": ("9",),
    "seeds": ("9",),
    "max_age_ms": ("9",),
    "deadline_ms": ("9",),
    "images": ("folder",),
    "video": ("a.mp4",),
    "more_video": (),
    "labels": ("x.csv",),
    "top_k": ("3",),
    "codec": ("fp16",),
    "outputs": ("features",),
    "slices": ("3",),
    "accelerator": ("cpu",),
    "accelerator_profile": ("launch-bound",),
    "max_batch": ("3",),
    "resident": ("all",),
    "out": ("folder",),
    "overwrite": (),
}
OPTIONS = [option for option in cli.command.params if option.name not in ("debug", "json")]
LOADS = {
    "open": OPEN,
    "closed": ("--concurrency", "2", "--duration", "2"),
    "closed by requests": ("--concurrency", "2", "--requests", "20"),
    "running server": (*OPEN, "--server", "running"),
    "demo": ("--demo",),
}
#: What `--demo` means already.
SAME = {("demo", "demo"), ("demo", "overwrite"), ("demo", "fleet"), ("demo", "resident")}


@pytest.mark.parametrize("beside", LOADS)
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_flag_changes_what_is_done_or_is_refused(option: click.Parameter, beside: str) -> None:
    assert option.name is not None
    flags = (option.opts[0], *SAMPLES[option.name])
    plain = config(*LOADS[beside])
    try:
        changed = config(*LOADS[beside], *flags)
    except ConfigError as error:
        assert any(word in str(error) for word in (*flags, "--server")), error
        return
    assert (changed != plain) != ((beside, option.name) in SAME), flags


@pytest.mark.parametrize("flags", [("--slices", "4"), ("--max-batch", "32"), ("--accelerator", "auto")])
def test_a_flag_that_names_the_default_is_a_wish_too(flags: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=f"{flags[0]} {flags[1]} would do nothing: the server x runs already"):
        config(*OPEN, "--server", "x", *flags)


@pytest.mark.parametrize(("flags", "named"), BAD, ids=lambda value: " ".join(value))
def test_bad_arguments_exit_with_2_and_say_the_value_and_the_remedy(
    flags: tuple[str, ...], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(flags)  # Ray is never reached: starting it would fail this test (conftest)
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert all(name in printed.err for name in named), printed.err
    assert "Traceback" not in printed.err


def test_the_last_line_of_stdout_is_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.finish(two_strategies(), tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    jsonschema.validate(json.loads(lines[-1]), SCHEMA)
    assert lines[0].startswith("open loop")
    assert (tmp_path / "report.html").is_file()


def test_a_strategy_without_any_answer_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    lost = record(0.0, 1.0, outcome="lost", inference_ms=None, message="the server went away")
    assert cli.finish(result(StrategyRun("unbatched", 0, "open", 0.0, 1.0, (lost,))), None) == 2
    printed = capsys.readouterr()
    assert "no request was answered by unbatched" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["strategies"]["unbatched"]["lost"] == 1


def test_a_server_that_went_away_exits_with_2_and_the_report_is_made_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = dataclasses.replace(two_strategies(), failures=("per_slice, seed 1: the server did not outlive the run: x",))
    assert cli.finish(gone, tmp_path) == 2
    printed = capsys.readouterr()
    assert "per_slice, seed 1: the server did not outlive the run" in printed.err
    assert "FAILED: per_slice, seed 1" in printed.out
    assert json.loads(printed.out.splitlines()[-1])["notes"] == list(gone.failures)
    assert (tmp_path / "records.jsonl").is_file()


def assignments(*flags: str, devices: int = 3, seed: int = 0) -> Mapping[str, Any]:
    made = config(*flags)
    names = [f"d{index}" for index in range(devices)]
    process = job.parse_process(made.arrivals, made.fleet_rate_rps(devices)) if made.loop == "open" else None
    return schedule.assignments(made, process, names, [Path(f"{i}.png") for i in range(4)], seed)


def test_an_open_loop_plan_has_arrivals_and_a_closed_one_has_clients() -> None:
    open_loop = assignments("--rate", "30", "--requests", "60", "--warmup", "0", "--max-age-ms", "50", "--top-k", "2")
    assert [len(a.arrivals) for a in open_loop.values()] == [20, 20, 20]
    assert all(a.closed is None and a.max_age_ms == 50 and a.top_k == 2 for a in open_loop.values())
    closed_loop = assignments("--concurrency", "4", "--requests", "10", "--think-ms", "20")
    assert [a.closed.clients for a in closed_loop.values()] == [2, 1, 1]
    assert [a.closed.requests for a in closed_loop.values()] == [6, 2, 2], "10 shared 2:1:1, the rest in front"
    assert all(not a.arrivals and a.closed.think_s == 0.02 for a in closed_loop.values())


def test_a_closed_loop_by_time_runs_warmup_and_window_and_leaves_devices_without_a_client_at_rest() -> None:
    made = assignments("--concurrency", "2", "--duration", "5", "--warmup", "1")
    assert [a.closed.duration_s if a.closed else None for a in made.values()] == [6.0, 6.0, None]
    assert schedule.warmup_s(config("--concurrency", "2", "--duration", "5", "--warmup", "1")) == 1.0
    assert schedule.warmup_s(config("--concurrency", "2", "--requests", "5")) == 0.0


def test_plans_are_the_same_for_every_strategy_and_other_ones_for_another_seed() -> None:
    flags = ("--rate", "30", "--requests", "60")
    assert assignments(*flags) == assignments(*flags)
    assert assignments(*flags) != assignments(*flags, seed=1)


def test_the_window_follows_from_rate_and_requests() -> None:
    made = config("--rate", "20", "--requests", "60")
    assert schedule.window_s(made, job.parse_process("poisson", 20.0)) == 3.0
    assert schedule.window_s(config("--concurrency", "2", "--requests", "60"), None) is None


def test_own_images_are_found_with_their_labels(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = job.images_of(config(*OPEN, "--images", str(tmp_path)))
    assert found.labels == (0, 1) and found.classes == ("cat", "dog")


def test_the_order_of_strategies_is_random_over_seeds_but_the_same_every_time() -> None:
    flags = ("--demo", "--strategy", "all", "--seeds", "8")
    orders = list(job.Job(config(*flags)).order())
    assert orders == list(job.Job(config(*flags)).order())
    by_seed = [tuple(name for seed, name in orders if seed == wanted) for wanted in range(8)]
    assert all(sorted(names) == sorted(STRATEGIES) for names in by_seed)
    assert len(set(by_seed)) > 1


# ---- an emulated accelerator ----


def own(*flags: str) -> dict[str, Any]:
    return applications.own_config(config(*OPEN, *flags), ["m"], "continuous")


def test_an_accelerator_profile_makes_own_servers_emulate_it_with_true_answers() -> None:
    made = own("--accelerator-profile", "launch-bound")
    assert (made["executor"], made["accelerator"]) == ("emulated", "cpu")
    assert made["executor_options"] == {"profile": "launch-bound", "answers": "true"}
    assert "executor" not in own()


def test_a_profile_file_is_found_from_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.costs.profile_files import load_cost_profile, save_cost_profile

    monkeypatch.chdir(tmp_path)
    save_cost_profile(load_cost_profile("edge-gpu"), "mine.yaml")
    made = own("--accelerator-profile", "mine.yaml")
    assert made["executor_options"]["profile"] == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--accelerator-profile", "lunch-bound"), "did you mean 'launch-bound'"),
        (("--accelerator-profile", "launch-bound", "--slices", "5"), "has times of 12 slices, .* --slices 5"),
        (("--accelerator-profile", "launch-bound", "--accelerator", "cuda"), "--accelerator cuda would do nothing"),
        (("--accelerator-profile", "launch-bound", "--server", "x"), "--accelerator-profile launch-bound would do"),
    ],
)
def test_an_emulation_that_cannot_be_is_refused(flags: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        own(*flags)


# ---- a server that runs already: looked at, never changed ----

RUNNING = {
    "headtail": headtail_version(),
    "models": {"m": {"strategy": "per_slice"}, "other": {"strategy": "serve_batch"}},
}


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "status", lambda name: RUNNING)


@pytest.mark.usefixtures("running")
def test_a_running_servers_strategy_is_taken_over_or_checked() -> None:
    assert applications.check_running("app", ["m"], ()) == "per_slice"
    assert applications.check_running("app", ["m"], ("per_slice",)) == "per_slice"


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("models", "strategies", "named"),
    [
        (["m"], ("unbatched",), "per_slice"),
        (["absent"], (), "'absent'"),
        (["m", "other"], (), "different strategies"),
    ],
)
def test_a_running_server_that_is_another_one_is_refused(
    models: list[str], strategies: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ServerError, match=named):
        applications.check_running("app", models, strategies)


def test_own_servers_get_the_flags_and_shares_of_a_machine_when_all_are_resident() -> None:
    one = applications.own_config(config(*OPEN, "--slices", "3", "--accelerator", "cpu"), ["m"], "per_slice")
    assert one["models"] == [{"name": "m", "num_slices": 3, "strategy": "per_slice", "max_batch": 32}]
    assert one["accelerator"] == "cpu" and "cpus" not in one
    all_ = applications.own_config(config("--demo"), ["digits_vit"], "serve_batch")
    assert 5 * all_["cpus"] <= 1 and 5 * all_["gpus"] <= 1
    with pytest.raises(ConfigError, match="two models"):
        applications.own_config(config(*OPEN), ["a", "a"], "serve_batch")


def test_usage_is_the_difference_of_two_reports_on_the_servers_clock() -> None:
    before = {"replica": "r", "uptime_s": 10.0, "busy_s": 4.0, "steps": 100, "rows": 150, "nvml": {}}
    after = {"replica": "r", "uptime_s": 14.0, "busy_s": 6.0, "steps": 110, "rows": 190, "memory": {"weights": 7}}
    used = applications.usage(before, after, answered=40)
    assert (used["busy_share"], used["steps"], used["rows_per_step"]) == (0.5, 10, 4.0)
    assert used["joules_per_answer"] is None, "no NVML, no joules"
    assert used["memory_bytes"] == {"weights": 7}
    power = {"nvml": {"energy_joules": 100.0}}, {"nvml": {"energy_joules": 180.0}}
    assert applications.usage({**before, **power[0]}, {**after, **power[1]}, answered=40)["joules_per_answer"] == 2.0
    assert applications.usage(before, {**after, "replica": "another"}, answered=40)["busy_share"] is None
    assert applications.usage(before, {}, answered=0)["busy_share"] is None, "the server is gone"


def test_own_servers_give_the_outputs_that_the_fleet_asks_for_and_no_others() -> None:
    outputs = {"m": ["logits", "features"]}
    (asked, plain) = (
        applications.own_config(config(*OPEN), models, "continuous", outputs)["models"][0] for models in (["m"], ["o"])
    )
    assert asked["outputs"] == ["features"]
    assert "outputs" not in plain


def test_outputs_replace_those_of_the_fleet_file_and_are_checked_as_there() -> None:
    found = job.fleet_of(config(*OPEN, "--outputs", "tokens,logits"))
    assert {group.outputs for group in found.groups} == {("logits", "tokens")}
    with pytest.raises(ConfigError, match=r"--outputs.*unknown output 'feature'; did you mean 'features'"):
        job.fleet_of(config(*OPEN, "--outputs", "feature"))
