"""A page of one file: well-formed, without scripts or anything from outside, in the reader's colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from actors.report.page import drawing, page, picture, png, svg, svg_file
from actors.report.palette import strategy_colour

SVG = "{http://www.w3.org/2000/svg}"


def figure_of(label: str = "a curve", *, height: float = 1.0) -> Any:
    with drawing() as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, height], color=strategy_colour("per_slice"), label="per_slice", marker="o")
        axes.set_title(label)
        axes.legend()
        figure.set_label(label)
    return figure


def test_a_page_reads_as_xml_and_its_title_is_escaped() -> None:
    root = ET.fromstring(page("a < b & c", "<p>text</p>"))
    assert root.findtext("head/title") == "a < b & c" and root.findtext("body/p") == "text"


def test_a_page_needs_nothing_from_outside_and_has_no_script() -> None:
    text = page("t", picture(figure_of(), "caption"))
    ET.fromstring(text)
    assert "<script" not in text and "javascript:" not in text and not re.search(r"\son\w+=", text)
    assert not re.search(r'(src|href)="(?!#)', text) and "@import" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_a_page_has_colours_for_light_and_dark() -> None:
    text = page("t", "")
    light, dark = text.split("prefers-color-scheme:dark", 1)
    assert "--c2:#0072b2" in light and "--c2:#52a9e8" in dark and "width=device-width" in text


def test_a_picture_takes_the_page_s_colours_and_place_and_its_text_stays_text() -> None:
    text = svg(figure_of("50 % < 1 & $x$"))
    root = ET.fromstring(text)
    assert "var(--c2)" in text and "var(--ink)" in text and "#0072b2" not in text
    assert root.tag == f"{SVG}svg" and "width" not in root.attrib and root.attrib["viewBox"]
    assert root.attrib["aria-label"] == "50 % < 1 & $x$"
    assert "50 % < 1 & $x$" in [node.text for node in root.iter(f"{SVG}text")], "no formula is made of a name"


def test_two_pictures_on_a_page_share_no_id_and_refer_to_their_own() -> None:
    text = page("t", svg(figure_of()) + svg(figure_of(height=2.0)))
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert ids and len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', text)) <= set(ids)


def test_files_keep_their_colours_for_papers_and_are_the_same_each_time() -> None:
    text = svg_file(figure_of()).decode()
    assert "#0072b2" in text and "var(" not in text
    assert svg_file(figure_of()) == svg_file(figure_of())
    assert png(figure_of()).startswith(b"\x89PNG")


def test_a_caption_is_escaped() -> None:
    root = ET.fromstring(picture(figure_of(), "a < b").replace("<figure>", '<figure xmlns="">'))
    assert root.findtext("figcaption") == "a < b"
