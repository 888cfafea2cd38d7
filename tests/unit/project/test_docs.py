"""docs/: links lead somewhere, the generated page is up to date, indexes are complete, pages keep their size."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(path: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    text = text_of(path)
    titles = [title.strip().lower() for title in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title)) for title in titles} | set(
        re.findall(r'<a id="([^"]+)"></a>', text)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(text_of(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != DOCS / "log"], ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+\.(?:md|yaml|py|toml))?)`", text_of(page))
    assert [name for name in named if not (ROOT / name).exists() and not name.startswith(("tests/rig", "~"))] == []


def test_the_configuration_page_is_what_its_generator_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_configuration", DOCS / "tools/make_configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == module.page(), "make docs makes it again"


def test_every_entry_of_the_log_has_an_anchor_and_a_line_in_the_index() -> None:
    index = (DOCS / "log" / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"\]\((\d{4}-\d\d)\.md#(\S+)\) \|$", index, flags=re.MULTILINE)
    found = []
    for month in sorted(DOCS.glob("log/????-??.md"), reverse=True):
        text = month.read_text(encoding="utf-8")
        entries = re.findall(r'^<a id="(\S+)"></a>\n\n## (\S+)  ', text, flags=re.MULTILINE)
        assert len(entries) == len(re.findall(r"^## ", text, flags=re.MULTILINE))
        assert all(anchor.startswith(f"{date}-") and date.startswith(month.stem) for anchor, date in entries)
        found += [(month.stem, anchor) for anchor, _ in entries]
    assert found and lines == found


def test_the_index_of_decisions_is_complete() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    assert LINK.findall(index)[1:] == [page.name for page in sorted(DOCS.glob("decisions/0*.md"))]


def test_pages_keep_their_size() -> None:
    assert len((DOCS / "architecture.md").read_text(encoding="utf-8").split()) <= 900
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_pre_commit_does_what_make_lint_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile[makefile.index("\nlint:") :].split("\n\n")[0].splitlines()[2:]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == [
        line.strip().replace("$(BIN)", ".venv/bin") for line in recipe
    ]


def test_the_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.name: page.read_text(encoding="utf-8") for page in (tmp_path / "site").glob("*.html")}
    assert "<table>" in pages["index.html"] and "processes.svg" in pages["architecture.html"]
    broken = [name for name, text in pages.items() if re.search(r"^(<p>)?(\| |[-*] )", text, flags=re.MULTILINE)]
    assert broken == [], "a list or a table that is read as text"
