"""The demo from beginning to end: start, ask, write."""

from __future__ import annotations

import json as json_module
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.report.page import picture, png, svg_file
from headtail.demo import batching, exactness, live, page, pictures, splitting, terminal
from headtail.demo.answer import Answer
from headtail.demo.load_curve import Bench
from headtail.demo.verdict import following, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Say = Callable[[str], None]

#: Images between two lines of progress.
_CHUNK = 120


def run(out: Path, *, say: Say, json: bool, seed: int) -> int:
    """See `headtail.demo.run_demo`."""
    began_s = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    say("HeadTail answers three questions on this machine, in about two minutes. No GPU, no network.")
    answers: list[Answer] = []
    elements: dict[str, str] = {}

    def show(answer: Answer, figure: Figure) -> None:
        drawn = svg_file(figure)
        (out / f"{answer.key}.svg").write_bytes(drawn)
        (out / f"{answer.key}.png").write_bytes(png(figure))
        elements[answer.key] = picture(figure, answer.caption, wide=answer.key == "splitting", drawn=drawn)
        answers.append(answer)
        say(terminal.answer_text(len(answers), answer, f"{out / answer.key}.png"))

    with tempfile.TemporaryDirectory(prefix="headtail-demo-") as scratch:
        simulated, points = _measure(Path(scratch), say, seed, show)
    show(batching.answer(simulated, points), pictures.batching(simulated, points))
    found = splitting.cells()
    show(splitting.answer(found), pictures.splitting(found))
    lines = verdict(*answers)
    say("\nVerdict")
    for number, line in enumerate(lines, start=1):
        say(terminal.wrapped(line, "   ", f"{number}. "))
    say("\nWhat next (commands are in .venv/bin)\n" + following())
    took_s = time.monotonic() - began_s
    document = _document(answers, lines, seed, took_s)
    (out / "demo.json").write_text(json_module.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "index.html").write_text(page.page(answers, elements, lines, following()), encoding="utf-8")
    say(f"\nAll of it with pictures: {out / 'index.html'} ({took_s:.0f} s)")
    if json:
        print(json_module.dumps(document), flush=True)
    return 1 if any(answer.bad for answer in answers) else 0


def _measure(
    scratch: Path, say: Say, seed: int, show: Callable[[Answer, Figure], None]
) -> tuple[batching.Simulated, list[batching.LivePoint]]:
    """All that needs the applications; the first answer is shown as soon as it is there."""
    from slicer.models.images import write_digits

    bench = Bench().with_best_wait()
    table = live.write_table(bench.costs, scratch)
    configs = live.configs(bench, table)
    images = write_digits(scratch / "digits")
    simulated: list[batching.Simulated] = []
    say(
        f"  starting a Ray of two cores with {len(configs)} Serve applications, and the curve in virtual time meanwhile"
    )
    with live.running(configs, lambda: simulated.append(batching.simulate(bench, say)), say) as running:
        whole = _unsliced(images.files)
        say(f"  the unsliced model has said what {len(images)} digits are")
        parts = []
        for at in range(0, len(images), _CHUNK):
            parts.append(running.heads(images.files[at : at + _CHUNK]))
            say(f"  heads of {min(at + _CHUNK, len(images))} of {len(images)} digits computed")
        alone = np.concatenate(parts)
        served = {}
        for number, strategy in enumerate(live.STRATEGIES, start=1):
            served[strategy] = running.ask(strategy, seed)
            count = len(images) * len(served[strategy])
            say(f"  {count} requests through {strategy} answered ({number} of {len(live.STRATEGIES)} strategies)")
        heard = exactness.Heard(whole, images.labels, alone, served)
        show(exactness.answer(heard, live.DIGITS), pictures.same(heard))
        say("")
        running.stop_digits()
        points = _live_points(running, simulated[0].bench, say, seed)
    return simulated[0], points


def _live_points(running: live.Live, bench: Bench, say: Say, seed: int) -> list[batching.LivePoint]:
    asked = [(rate, series) for rate, several in batching.LIVE.items() for series in several]
    found: list[batching.LivePoint] = []
    for number, (rate, series) in enumerate(asked, start=1):
        for tries, share in enumerate(batching.SHARES, start=1):
            offered = round(share * rate)
            sent = running.offer(series, batching.requests_of(bench, series, offered, seed))
            point = batching.judge(bench, series, offered, seed, sent, tries)
            if point.valid:
                break
        found.append(point)
        again = "" if point.tries == 1 else f", offered {point.tries} times: the generator was late before"
        say(
            f"  live point {number} of {len(asked)}: {series} at {point.rate_rps}/s, mean {point.mean_ms:.0f} ms{again}"
        )
    return found


def _unsliced(files: tuple[Path, ...]) -> exactness.Logits:
    """Logits of the whole model, never exported or cut, image by image: [images, classes]."""
    import torch

    from actors.load.reference import named_model
    from slicer.models.images import Preprocess

    module, spec = named_model(live.DIGITS)
    preprocess = Preprocess(spec)
    with torch.inference_mode():
        logits = [module(torch.from_numpy(preprocess(file))[None])[0].numpy() for file in files]
    return np.stack(logits)


def _document(answers: list[Answer], lines: tuple[str, ...], seed: int, took_s: float) -> dict[str, Any]:
    from actors.report.provenance import provenance

    return {
        "demo": {answer.key: {"sentence": answer.sentence, **answer.figures, "bad": answer.bad} for answer in answers},
        "verdict": lines,
        "seed": seed,
        "took_s": round(took_s, 1),
        "provenance": provenance(),
    }
