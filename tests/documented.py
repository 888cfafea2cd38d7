"""The commands that README and docs/*.md show, and what a test has to know to run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Not docs/log/: it says what was done at its time, with the commands of that time.
DOCUMENTS = [
    "README.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent != ROOT / "docs" / "log"
    ),
]

COMMAND = re.compile(r"^(headtail |python |make |ray |serve |\.venv/|export |prometheus )")

#: Commands that no test of this machine alone can run, and why. A test asserts that this list is exact.
ELSEWHERE = {
    "make demo": "is itself what the README's figures come from, and minutes of work in an environment of its own",
    "make test": "runs these tests",
    "make venv": "makes the environment that these tests run in",
    ".venv/bin/pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu": "needs the internet",
    "make web": "needs npm's registry",
    "make cluster-test RIG=PATH": "needs root and what makes hosts (tests/rig)",
    ".venv/bin/python benchmarks/peers/peers.py --setup": "needs the internet",
    ".venv/bin/python benchmarks/peers/peers.py": "needs what --setup installs, and minutes of a quiet machine",
    ".venv/bin/python benchmarks/peers/peers.py --quick --peers headtail_continuous,triton --rates 40,330": "likewise",
    "headtail serve --model ./my-vit": "a folder of the reader; tests/cluster/own_ray/test_hugging_face.py serves one",
    "ray start --head": "starts a Ray that goes on; these tests have one of their own",
    "headtail serve --model digits_vit --strategy continuous --address auto --name digits": "on that Ray",
    "ray job submit --address http://127.0.0.1:8265 --submission-id first-load --working-dir . -- python -m actors "
    "--address auto --server digits --rate 20 --duration 30": "likewise",
    "ray up cluster.yaml": "needs AWS",
    "ray up cluster-onprem.yaml": "needs several hosts; make cluster-test runs it",
    "ray down cluster-onprem.yaml": "needs several hosts",
    "ray rsync-down cluster-onprem.yaml '~/results/' results/": "needs several hosts",
    "export RAY_AUTH_MODE=token RAY_UP_enable_autoscaler_v2=0": "of the shell that types `ray up`",
    "ray job submit --address http://192.168.1.10:8265 --working-dir . -- python -m deployments.doctor --address auto "
    "--cluster '~/ray_bootstrap_config.yaml'": "reads a file that `ray up` writes",
    "prometheus --config.file=/tmp/ray/session_latest/metrics/prometheus/prometheus.yml "
    "--storage.tsdb.path=/tmp/prometheus": "a program of the system; make cluster-test runs it",
}

#: README's kinds of blocks that are files.
YAML_FILES = ("yaml server", "yaml fleet")

#: What README's reader has: a file of labels. The checkpoint beside it is made by the test that serves it.
OWN_FILES = {"pets.txt": "cat\ndog\nguinea pig\n"}

#: What a command says for a machine of the reader's, and what it is here. Nothing else is changed.
HEADS = ("http://HEAD:8265", "http://192.168.1.10:8265")


def blocks(document: str) -> list[tuple[str, str]]:
    """(what follows the fence, text) of every block."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The commands in a block: comments removed, chains taken apart. What does not begin like one is output."""
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines() if COMMAND.match(line)]
    return [part for line in lines for part in re.split(r"\s+&&\s+", line)]


def all_commands() -> list[str]:
    """Of all documents, in order, each once."""
    found = [
        c for document in DOCUMENTS for info, text in blocks(document) if info in ("", "text") for c in commands(text)
    ]
    return list(dict.fromkeys(found))


def files() -> dict[str, str]:
    """Name and text of every file that a reader has: OWN_FILES, README's server.yaml and fleet.yaml, and those of the
    tutorial."""
    found = dict(OWN_FILES)
    found |= {f"{info.removeprefix('yaml ')}.yaml": text for info, text in blocks("README.md") if info in YAML_FILES}
    for info, text in blocks("docs/guide/tutorial.md"):
        if name := re.search(r'title="([^"]+)"', info):
            found[name[1]] = text
    return found


def put_files(folder: Path) -> None:
    """`files`, in this folder."""
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
