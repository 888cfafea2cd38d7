"""The tail server without Ray: every strategy gives the unsliced model's answers, and bad input answers for itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.costs.profile_files import load_cost_profile
from deployments.executors.torch_executor import TorchExecutor
from deployments.replica.tail_server import TailServer
from deployments.scheduling.registry import STRATEGIES
from deployments.scheduling.scheduler import Step
from slicer.core.codecs import activations
from slicer.core.codecs.images import encode_image
from slicer.core.protocol.messages import DEFAULT_PRIORITY, MAX_PRIORITY, Refusal, Reply, Request
from slicer.errors import ConfigError
from slicer.models import zoo
from slicer.models.images import Preprocess
from slicer.slicing.slice_model import SlicedModel, slice_spec
from tests.paths import ROOT

MODEL = "digits_vit"


pytestmark = pytest.mark.usefixtures("replica_context")


@pytest.fixture(scope="module")
def sliced() -> SlicedModel:
    return slice_spec(zoo.resolve(MODEL), 4)


@pytest.fixture(scope="module")
def shard_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


def server_of(shard_dir: Path, **model: Any) -> TailServer:
    models = [{"name": MODEL, "strategy": "per_slice", **model}]
    return TailServer({"models": models, "torch_threads": 1, "shard_dir": str(shard_dir)}, "cpu")


def images(sliced: SlicedModel, count: int) -> torch.Tensor:
    return torch.randn(count, *sliced.shape_at(0), generator=torch.Generator().manual_seed(0))


def request_at(sliced: SlicedModel, server: TailServer, cut: int, image: torch.Tensor, name: str = "r") -> Request:
    with torch.inference_mode():
        activation = sliced.head(cut)(image[None])[0].numpy()
    digest = server._models[MODEL].manifest.digest
    return Request(name, MODEL, digest, cut, "fp32", activation.shape, activations.encode("fp32", activation))


def run(work: Callable[[], Coroutine[Any, Any, Any]], server: TailServer) -> Any:
    async def both() -> Any:
        try:
            return await work()
        finally:
            server.close()

    return asyncio.run(both())


async def ask(server: TailServer, request: Request) -> Any:
    """One request, a parcel of one."""
    [answer] = await server.infer_parcel([request])
    return answer


def logits_of(reply: Reply) -> np.ndarray[Any, Any]:
    return np.frombuffer(reply.logits, "<f4").reshape(reply.logits_shape)


def test_the_steps_of_the_accelerator_are_told_in_seconds_of_uptime(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir, strategy="per_tail")
    image = images(sliced, 1)[0]

    async def work() -> tuple[Any, ...]:
        await server.infer_parcel([request_at(sliced, server, 2, image)])
        status = await server.status()
        before = await server.steps()
        await server.infer_parcel([request_at(sliced, server, 3, image)])
        return status, before, await server.steps(since_s=status["uptime_s"]), await server.steps()

    status, before, since, after = run(work, server)
    (step,) = before["steps"]
    assert before["replica"] == status["replica"]
    assert (step["model"], step["start"], step["end"], step["entries"]) == (MODEL, 2, 4, {2: 1})
    assert 0 < step["began_s"] < step["ended_s"] < status["uptime_s"]
    assert [step["entries"] for step in since["steps"]] == [{3: 1}]
    assert after["steps"] == before["steps"] + since["steps"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_answers_rows_of_all_cuts_at_once_as_the_unsliced_model(
    strategy: str, sliced: SlicedModel, shard_dir: Path
) -> None:
    server = server_of(shard_dir, strategy=strategy)
    batch = images(sliced, 12)
    requests = [request_at(sliced, server, i % 4, batch[i], f"r{i}") for i in range(12)]

    async def work() -> list[Reply]:
        return await asyncio.gather(*(ask(server, request) for request in requests))

    replies = run(work, server)
    with torch.inference_mode():
        expected = sliced.module(batch).numpy()
    assert [reply.id for reply in replies] == [request.id for request in requests]
    np.testing.assert_allclose(np.stack([logits_of(r) for r in replies]), expected, atol=1e-4)
    for reply in replies:
        timings = reply.timings
        assert timings.execution_ms > 0
        # The phases lie one after the other within the total, on one clock.
        assert timings.admission_ms + timings.queue_ms + timings.execution_ms <= timings.total_ms * 1.001 + 0.5


def test_a_bad_request_answers_for_itself_and_its_neighbours_are_served(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    good = request_at(sliced, server, 2, images(sliced, 1)[0])
    holes = np.frombuffer(good.payload, "<f4").copy()
    holes[7] = np.nan
    bad = {
        "unknown_model": replace(good, id="1", model="vit_unknown"),
        "stale": replace(good, id="2", manifest="0" * 64),
        "bad_cut": replace(good, id="3", cut=4),
        "bad_shape": replace(good, id="4", shape=(3, 224, 224)),
        "bad_codec": replace(good, id="5", codec="jpeg"),
        "not_finite": replace(good, id="6", payload=holes.tobytes()),
        "bad_request": replace(good, id="9", priority=MAX_PRIORITY + 1),
    }
    truncated = replace(good, id="7", payload=good.payload[:-4])

    async def work() -> Any:
        return await asyncio.gather(*(ask(server, r) for r in [*bad.values(), truncated, good, replace(good, id="8")]))

    *refusals, cut_short, first, second = run(work, server)
    assert [refusal.code for refusal in refusals] == list(bad)
    assert all(isinstance(refusal, Refusal) and refusal.message for refusal in refusals)
    assert cut_short.code == "bad_codec" and "bytes" in cut_short.message
    assert isinstance(first, Reply) and isinstance(second, Reply)
    np.testing.assert_allclose(logits_of(first), logits_of(second), atol=1e-4)


@pytest.mark.parametrize("strategy", ["continuous", "serve_batch"])
def test_a_parcel_is_answered_request_by_request_in_order_and_admitted_in_one_call(
    strategy: str, sliced: SlicedModel, shard_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of(shard_dir, strategy=strategy)
    batch = images(sliced, 6)
    good = [request_at(sliced, server, i % 2 * 3, batch[i], f"r{i}") for i in range(6)]
    holes = np.full(good[0].shape, np.nan, "<f4").tobytes()
    parcel = [*good[:3], replace(good[0], id="nan", payload=holes), replace(good[0], id="no", model="none"), *good[3:]]
    admitted: list[int] = []
    if strategy == "continuous":
        submit = server._backend.engine.submit

        def counting(model: str, entry: int, rows: Any, *args: Any) -> list[int]:
            admitted.append(len(rows))
            return submit(model, entry, rows, *args)

        monkeypatch.setattr(server._backend.engine, "submit", counting)
    answers = run(lambda: server.infer_parcel(parcel), server)
    assert [answer.id for answer in answers] == [request.id for request in parcel]
    assert [getattr(answer, "code", None) for answer in answers] == [
        *[None] * 3, "not_finite", "unknown_model", *[None] * 3
    ]  # fmt: skip
    with torch.inference_mode():
        expected = sliced.module(batch).numpy()
    got = np.stack([logits_of(answer) for answer in answers if isinstance(answer, Reply)])
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert admitted == ([3, 3] if strategy == "continuous" else []), "one hand-over per cut, not one per request"


def test_a_cancelled_parcel_takes_all_its_rows_with_it(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    request = request_at(sliced, server, 0, images(sliced, 1)[0])

    async def work() -> Any:
        parcel = asyncio.ensure_future(server.infer_parcel([replace(request, id=str(i)) for i in range(40)]))
        while not server._backend.admission._pending:
            await asyncio.sleep(0)
        parcel.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parcel
        after = await ask(server, request)
        return after, server._backend.engine.stats()

    after, stats = run(work, server)
    assert isinstance(after, Reply)
    assert stats.waiting == {}
    assert stats.outcomes["cancelled"] >= 1
    assert sum(stats.outcomes.values()) == 41


def test_a_measured_profile_is_saved_and_can_be_started_from(
    sliced: SlicedModel, shard_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def server(**config: Any) -> TailServer:
        model = {"name": MODEL, "strategy": "continuous", "max_batch": 4, **config.pop("model", {})}
        return TailServer({"models": [model], "torch_threads": 1, "shard_dir": str(shard_dir), **config}, "cpu")

    measured = server(profile_dir=str(tmp_path))
    saved = load_cost_profile(tmp_path / f"{MODEL}.yaml")
    assert saved.num_slices == 4 and saved.known_from == 0
    assert not saved.source.hypothetical and saved.source.where == "cpu"
    request = request_at(sliced, measured, 0, images(sliced, 1)[0])
    assert isinstance(run(lambda: ask(measured, request), measured), Reply)
    kept = load_cost_profile(tmp_path / f"{MODEL}.yaml")
    assert kept.table[0][0].seen > saved.table[0][0].seen, "what was seen while serving is in it"

    monkeypatch.setattr(
        "deployments.core.loaded_engine.calibrate",
        lambda *_, **__: pytest.fail("measured although it is known"),
    )
    again = server(model={"profile": str(tmp_path / f"{MODEL}.yaml")})
    assert isinstance(run(lambda: ask(again, request), again), Reply)
    with pytest.raises(ConfigError, match="has 4 slices, the model 2; measure it again"):
        server(model={"profile": str(tmp_path / f"{MODEL}.yaml"), "num_slices": 2})


def test_top_k_is_returned_instead_of_logits_when_asked_for(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    request = request_at(sliced, server, 1, images(sliced, 1)[0])

    async def work() -> Any:
        return await asyncio.gather(ask(server, request), ask(server, replace(request, id="k", top_k=3)))

    whole, best = run(work, server)
    assert best.logits == b"" and len(best.top_k) == 3
    assert best.top_k[0][0] == int(logits_of(whole).argmax())


def test_a_request_whose_deadline_has_passed_is_told_so(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    request = replace(request_at(sliced, server, 1, images(sliced, 1)[0]), deadline_ms=-1.0)
    assert run(lambda: ask(server, request), server).code == "too_late"


def test_a_cancelled_request_leaves_and_the_others_are_answered(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    request = request_at(sliced, server, 0, images(sliced, 1)[0])

    async def work() -> Any:
        tasks = [asyncio.ensure_future(ask(server, replace(request, id=str(i)))) for i in range(8)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(work, server)
    assert isinstance(answers[3], asyncio.CancelledError)
    assert all(isinstance(answer, Reply) for i, answer in enumerate(answers) if i != 3)


def test_a_device_learns_the_model_and_reads_its_shards_by_digest(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)

    async def work() -> Any:
        served = await server.describe(MODEL)
        shard = server._models[MODEL].manifest.shards[0]
        half = shard.size_bytes // 2
        pieces = [await server.shard(shard.sha256, 0, half), await server.shard(shard.sha256, half, shard.size_bytes)]
        unknown = await server.describe("nothing")
        with pytest.raises(KeyError, match="no model of this application has a shard"):
            await server.shard("0" * 64, 0, 10)
        return served, shard, b"".join(pieces), unknown

    import hashlib

    served, shard, content, unknown = run(work, server)
    assert served.num_slices == 4 and served.entries == (0, 1, 2, 3) and served.strategy == "per_slice"
    assert hashlib.sha256(content).hexdigest() == shard.sha256
    assert unknown.code == "unknown_model" and MODEL in unknown.message


def test_only_per_tail_holds_weights_of_its_own_per_entry(shard_dir: Path) -> None:
    weights = {}
    for strategy in STRATEGIES:
        server = server_of(shard_dir, strategy=strategy)
        weights[strategy] = run(server.status, server)["memory"]["weights"]
    one = weights["per_slice"]
    assert weights["unbatched"] == weights["per_tail_shared"] == weights["serve_batch"] == one
    # Four slices, entries 0..3: tails of 4, 3, 2 and 1 slices are about 2.5 models.
    assert 2.0 * one < weights["per_tail"] < 3.0 * one


def test_two_models_share_one_engine(sliced: SlicedModel, shard_dir: Path) -> None:
    config = {
        "models": [
            {"name": MODEL, "strategy": "per_slice"},
            {"name": "swin", "model": "digits_swin", "strategy": "per_tail_shared", "num_slices": 3},
        ],
        "torch_threads": 1,
        "shard_dir": str(shard_dir),
    }
    server = TailServer(config, "cpu")
    swin = slice_spec(zoo.resolve("digits_swin"), 3)
    vit_request = request_at(sliced, server, 1, images(sliced, 1)[0])
    image = images(swin, 1)[0]
    with torch.inference_mode():
        activation = swin.head(2)(image[None])[0].numpy()
        expected = swin.module(image[None])[0].numpy()
    digest = server._models["swin"].manifest.digest
    swin_request = Request("s", "swin", digest, 2, "fp32", activation.shape, activations.encode("fp32", activation))

    async def work() -> Any:
        return await asyncio.gather(ask(server, vit_request), ask(server, swin_request))

    vit_reply, swin_reply = run(work, server)
    assert isinstance(vit_reply, Reply)
    np.testing.assert_allclose(logits_of(swin_reply), expected, atol=1e-4)


def test_a_stopped_server_refuses_with_a_retryable_code(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    request = request_at(sliced, server, 1, images(sliced, 1)[0])
    server.close()
    answer = asyncio.run(ask(server, request))
    assert isinstance(answer, Refusal) and answer.code == "stopped"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_declared_gpu_without_cuda_is_told_and_the_cpu_used(shard_dir: Path) -> None:
    config = {"models": [{"name": MODEL}], "torch_threads": 1, "shard_dir": str(shard_dir)}
    server = TailServer(config, "cuda")
    status = run(server.status, server)
    assert status["accelerator"] == "cpu"
    assert status["notes"] == ["this node declares a GPU but torch finds no CUDA there, so the server uses the CPU"]


def test_an_own_executor_from_outside_the_packages_runs_the_steps(
    sliced: SlicedModel, shard_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    config = {
        "models": [{"name": MODEL, "strategy": "per_slice"}],
        "executor": "own_executor:LoggingExecutor",
        "executor_options": {"log": str(tmp_path / "steps.csv")},
        "shard_dir": str(shard_dir),
    }
    server = TailServer(config, "cpu")
    (tmp_path / "steps.csv").write_text("")  # forget the warm-up
    request = request_at(sliced, server, 2, images(sliced, 1)[0])
    assert isinstance(run(lambda: ask(server, request), server), Reply)
    steps = [line.split(",")[:4] for line in (tmp_path / "steps.csv").read_text().splitlines()]
    # One row that entered at cut 2 of 4: slice 2:3, then 3:4, alone.
    assert steps == [[MODEL, "2", "3", "1"], [MODEL, "3", "4", "1"]]


def test_images_at_cut_0_are_preprocessed_as_timm_would_and_bad_ones_answer_for_themselves(
    sliced: SlicedModel, shard_dir: Path
) -> None:
    server = server_of(shard_dir)
    digest, shape = server._models[MODEL].manifest.digest, tuple(sliced.shape_at(0))
    prepare = Preprocess(server._models[MODEL].manifest.spec)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(prepare.mode)
    good = {name: encode_image(name, picture, prepare) for name in ("rgb8", "png")}
    bad = [("png", good["png"][:40]), ("rgb8", b"short"), ("jpeg", b""), ("png", b"no image")]
    requests = [Request(name, MODEL, digest, 0, name, shape, payload) for name, payload in good.items()]
    requests += [Request("bad", MODEL, digest, 0, name, shape, payload) for name, payload in bad]
    requests.append(Request("late", MODEL, digest, 1, "png", tuple(sliced.shape_at(1)), good["png"]))
    answers = run(lambda: server.infer_parcel(requests), server)
    with torch.inference_mode():
        want = sliced.module(torch.from_numpy(prepare(picture))[None])[0].numpy()
    for answer in answers[:2]:
        assert isinstance(answer, Reply), answer
        assert np.abs(logits_of(answer) - want).max() < 1e-5
    assert [answer.code for answer in answers[2:]] == ["bad_codec"] * 5


def test_rows_of_one_codec_are_decoded_in_one_go(
    sliced: SlicedModel, shard_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of(shard_dir)
    calls: list[tuple[str, int]] = []
    decode = activations.decode_batch

    def counted(name: str, payloads: Any, *rest: Any, **options: Any) -> Any:
        calls.append((name, len(payloads)))
        return decode(name, payloads, *rest, **options)

    monkeypatch.setattr(activations, "decode_batch", counted)
    first = [request_at(sliced, server, 1, image, str(i)) for i, image in enumerate(images(sliced, 5))]
    small = [replace(r, id=f"h{r.id}", codec="int8", payload=activations.encode("int8", decoded(r))) for r in first[:2]]
    answers = run(lambda: server.infer_parcel([*first, *small]), server)
    assert all(isinstance(answer, Reply) for answer in answers)
    assert [answer.id for answer in answers] == ["0", "1", "2", "3", "4", "h0", "h1"]
    assert sorted(calls) == [("fp32", 5), ("int8", 2)]


def test_activations_are_decoded_into_the_memory_that_the_executor_offers(
    sliced: SlicedModel, shard_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[np.ndarray[Any, Any]] = []

    def receiving(executor: TorchExecutor, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        offered.append(np.zeros(shape, np.float32))
        return offered[-1]

    monkeypatch.setattr(TorchExecutor, "receiving", receiving, raising=False)
    server = server_of(shard_dir)
    request = request_at(sliced, server, 2, images(sliced, 1)[0])
    assert isinstance(run(lambda: ask(server, request), server), Reply)
    (rows,) = offered
    np.testing.assert_array_equal(rows[0], decoded(request))


def decoded(request: Request) -> np.ndarray[Any, Any]:
    row = np.empty(request.shape, np.float32)
    activations.decode_into(request.codec, request.payload, row)
    return row


def test_a_request_that_comes_again_runs_once(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)
    image = images(sliced, 1)[0]

    async def work() -> tuple[list[Any], int, int]:
        one = replace(request_at(sliced, server, 1, image), key="device/1")
        together = await asyncio.gather(*(ask(server, replace(one, id=name)) for name in "abc"))
        later = await ask(server, one)
        ran = server._backend.engine.stats().steps
        await ask(server, replace(one, key=""))
        await ask(server, replace(one, key="device/2"))
        return [*together, later], ran, server._backend.engine.stats().steps

    answers, ran, then = run(work, server)
    assert [answer.id for answer in answers] == ["a", "b", "c", "r"]
    assert len({(answer.top_k, answer.timings.execution_ms) for answer in answers}) == 1  # one run, four times
    assert ran == 3  # three slices, once
    assert then == 9  # what has no key, or another one, runs: what counts above does count


@pytest.mark.parametrize("strategy", ["unbatched", "per_tail_shared", "per_slice", "lazy", "continuous"])
def test_requests_of_a_parcel_run_in_order_of_their_priority(
    strategy: str, sliced: SlicedModel, shard_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, opened, entered = threading.Event(), threading.Event(), list[int]()
    held = False
    run_step = TorchExecutor.run

    def gated(executor: TorchExecutor, step: Step) -> float:
        if held:
            reached.set()
            assert opened.wait(60)
        entered.extend(row.priority for row in step.rows if row.boundary == row.entry)
        return run_step(executor, step)

    monkeypatch.setattr(TorchExecutor, "run", gated)
    server = server_of(shard_dir, strategy=strategy, max_batch=1)
    image = images(sliced, 1)[0]
    one = request_at(sliced, server, 1, image)
    priorities = (MAX_PRIORITY, 0, 2, 9, 1, DEFAULT_PRIORITY)
    parcel = [replace(one, id=str(number), priority=value) for number, value in enumerate(priorities)]

    async def work() -> tuple[Any, list[Any]]:
        nonlocal held
        held = True
        entered.clear()
        running = asyncio.ensure_future(ask(server, one))  # the accelerator is busy while the parcel comes
        await asyncio.to_thread(reached.wait, 60)
        answering = asyncio.ensure_future(server.infer_parcel(parcel))
        while server._backend.engine.stats().waiting[MODEL] < 1 + len(parcel):
            await asyncio.sleep(0)
        opened.set()
        return await running, await answering

    first, answers = run(work, server)
    assert [answer.id for answer in answers] == [request.id for request in parcel]
    assert all(isinstance(answer, Reply) for answer in (first, *answers))
    assert entered == [DEFAULT_PRIORITY, 1, 2, DEFAULT_PRIORITY, DEFAULT_PRIORITY, 9, MAX_PRIORITY]


def test_a_reply_says_how_busy_the_server_is_when_asked(sliced: SlicedModel, shard_dir: Path) -> None:
    server = server_of(shard_dir)

    async def work() -> tuple[Reply, Reply]:
        request = request_at(sliced, server, 1, images(sliced, 1)[0])
        quiet = await ask(server, request)
        return quiet, await ask(server, replace(request, id="r2", wants_load=True))

    quiet, told = run(work, server)
    assert quiet.load == ()
    assert [entry for entry, _, _ in told.load] == list(server._models[MODEL].entries)
    assert all(execution_ms > 0 for _, _, execution_ms in told.load)
    assert told.load[0][2] > told.load[-1][2]  # more slices, more time
