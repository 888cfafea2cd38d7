"""The page of a load job: it begins with the answer, holds every picture, and no text of a job becomes markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from actors.records.step import StepSeen
from actors.report import files as report_files
from actors.report.report_tables import group_table, tables
from actors.report.result import Result
from actors.report.statistics import StrategyRun
from tests.unit.actors.report.test_result import SERVER, record, result, steady

HOSTILE = """<script>alert("x")</script> & '$a$' <b>"""


def hostile() -> Result:
    """A job whose every name is markup."""
    steps = (StepSeen(HOSTILE, 0, 4, 0.5, 0.6, {0: 1, 2: 2}),)
    rows = tuple(record(t / 10, 50.0 + t % 3, group=HOSTILE, codec=HOSTILE, device=HOSTILE) for t in range(100))
    missed = record(9.9, 1.0, outcome="lost", inference_ms=None, finished_s=None, message=HOSTILE, group=HOSTILE)
    return result(
        StrategyRun(HOSTILE, 0, "open", 0.0, 10.0, (*rows, missed), SERVER, steps),
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0), SERVER, steps),
        emulated=(f"emulated {HOSTILE}",),
        notes=(HOSTILE,),
        failures=(HOSTILE,),
    )


def page_of(job: Result, folder: Path) -> tuple[str, ET.Element]:
    assert report_files.write(job, folder) == []
    text = (folder / "report.html").read_text()
    return text, ET.fromstring(text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ET.Element]:
    return page_of(hostile(), tmp_path_factory.mktemp("hostile"))


def test_no_text_of_a_job_becomes_markup(written: tuple[str, ET.Element]) -> None:
    text, root = written
    assert "<script" not in text and not list(root.iter("script")) and not list(root.iter("b"))
    assert "&lt;script&gt;" in text


def test_every_cell_of_every_table_is_on_the_page_as_it_is(written: tuple[str, ET.Element]) -> None:
    shown = [cell.text for table in written[1].iter("table") for row in table.iter("tr") for cell in row]
    meant = [
        cell
        for table in (*tables(hostile()), group_table(hostile()))
        for cells in (table.header, *table.rows)
        for cell in cells
    ]
    assert shown == meant
    assert any(HOSTILE in (cell or "") for cell in shown)


def test_tables_are_folded_and_scroll_in_a_box_of_their_own(written: tuple[str, ET.Element]) -> None:
    parents = {child: parent for parent in written[1].iter() for child in parent}
    for table in written[1].iter("table"):
        assert parents[table].attrib["class"] == "scroll" and parents[parents[table]].tag == "details"
    assert not [fold for fold in written[1].iter("details") if "open" in fold.attrib]


def test_the_page_begins_with_the_answer_and_one_picture(written: tuple[str, ET.Element]) -> None:
    top = written[1].find("body/div")
    assert top is not None and top.attrib["class"] == "beside"
    words, picture = top
    assert words[0].tag == "h1" and (words[0].text or "").endswith("(emulated)")
    assert picture.tag == "figure" and "Inference time" in ET.tostring(picture, encoding="unicode")


def test_all_pictures_are_there_and_those_with_emulated_parts_say_so(written: tuple[str, ET.Element]) -> None:
    figures = list(written[1].iter("figure"))
    assert len(figures) == 7
    assert all("emulated: " in ET.tostring(figure, encoding="unicode") for figure in figures)


def test_a_job_without_any_answer_has_a_page_without_pictures(tmp_path: Path) -> None:
    lost = record(0.0, 1.0, outcome="lost", inference_ms=None, finished_s=None)
    text, root = page_of(result(StrategyRun("unbatched", 0, "open", 0.0, 1.0, (lost,))), tmp_path)
    assert root.findtext("body/div/div/h1") == "No strategy can be judged at this load"
    assert "<svg" not in text


def test_many_remarks_are_folded_behind_the_first_ones(tmp_path: Path) -> None:
    job = result(
        StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)), notes=tuple(f"note {n}" for n in range(9))
    )
    text, root = page_of(job, tmp_path)
    assert next(root.iter("details")).findtext("summary") == "5 more remarks"
    assert all(f"note {n}" in text for n in range(9))


def test_one_folded_remark_is_one_remark(tmp_path: Path) -> None:
    job = result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0)), notes=tuple("abcde"))
    assert next(page_of(job, tmp_path)[1].iter("details")).findtext("summary") == "1 more remark"


def test_what_lies_beside_the_page_is_linked(tmp_path: Path) -> None:
    _, root = page_of(result(StrategyRun("unbatched", 0, "open", 0.0, 10.0, steady(1, 0))), tmp_path)
    linked = {link.attrib["href"] for link in root.iter("a")}
    assert linked == {path.name for path in tmp_path.iterdir()} - {"report.html"}
