"""The page of an audit: complete in itself, readable by everybody, and safe against what a set-up is called."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from gia.audit import AuditReport, Leak, Validated, WhatIf, to_html
from gia.audit.report import summary

FACTS = {
    "exact_share": 0.5,
    "psnr": 21.0,
    "ssim": None,
    "steps": 30,
    "per_image": {"leak": [3.0, -1.5], "psnr": [22.0, 20.0]},
    "worst": {"image": 0, "leak": 3.0, "psnr": 22.0},
    "path": None,
}


def report(**changes) -> AuditReport:
    """One with an entry of each kind."""
    images = np.zeros((2, 3, 8, 6), dtype=np.uint8)
    images[:, 0] = 255
    arrays = {"originals": images, "reconstructions": images}
    given = {
        "setup": {"model": "Net<script>, 3 parameters"},
        "results": {"op": Leak("op", 0.75, (0.1, 2.0), FACTS, arrays), "ana_arch": Leak("ana_arch", 30.0, None, FACTS)},
        "not_tried": {"gen_z": "it needs a generator"},
        "what_if": (WhatIf("batches of 16", {"op": (0.75, 0.25)}), WhatIf("more noise", {}, "not enough images")),
        "validation": (Validated("honest server", ()), Validated("imprint block", ("It differs.", "It is odd."))),
        "limits": ("Twenty steps are few.",),
    }
    return AuditReport(**{**given, **changes})


class Tags(HTMLParser):
    """Start tags with their attributes, and the tags that are open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_shows_numbers_pictures_and_reasons():
    """If it fails, a part of the report is missing from its page."""
    text = to_html(report())
    numbers = ("0.8", "0.1 to 2.0", "50%", "+3.0 dB (PSNR 22.0)", "-1.5 dB", "op: 0.8 to 0.2")
    words = (
        "batches of 16",
        "Not run, not enough images: more noise.",
        "It differs. (1 more finding)",
        "it needs a generator",
        "Twenty",
    )
    assert [shown for shown in (*numbers, *words) if shown not in text] == []


def test_the_page_is_complete_in_itself_and_says_that_it_is_private():
    """If it fails, the page loads something, so that opening it tells others, or private images go round unnoticed."""
    text = to_html(report())
    assert not re.findall(r"(?:src|href)=\"(?!data:)|@import|url\(", text)
    assert "This page contains private images" in text
    assert '<meta name="generator" content="gia audit">' in text


def test_whatever_a_set_up_is_called_is_text_on_the_page():
    """If it fails, a class or a file name can put code into the page."""
    text = to_html(report())
    assert "Net&lt;script&gt;" in text
    assert "<script" not in text


def test_everybody_can_read_the_page():
    """If it fails, tags are not closed, pictures have no text, or a screen reader has no landmarks and headings."""
    tags = Tags(to_html(report()))
    assert not tags.open
    assert all(image["alt"] and image["width"] and image["height"] for image in tags.all("img"))
    assert len({image["alt"] for image in tags.all("img")}) == 4
    assert [len(tags.all(tag)) for tag in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    names = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    assert {attributes["aria-labelledby"] for attributes in tags.all("section")} <= names
    assert all("scope" in attributes for attributes in tags.all("th"))


def test_an_attack_that_did_not_work_says_nothing():
    """If it fails, 0 dB of a broken search reads as safe, on the page or in the terminal."""
    facts = {**FACTS, "steps": 400, "path": {"works": False, "seen": "data term 0.9 found, 0.8 unsearched"}}
    silent = report(results={"op": Leak("op", 0.0, None, facts)})
    for text in (to_html(silent), silent.text()):
        assert "says nothing" in text
        assert "data term 0.9 found" in text
        assert "An honest server: not known." in text
        assert "What op (400 steps) would get is not known" in text
        assert "gets nothing" not in text


def results(**changes) -> dict[str, Leak]:
    """A search that found nothing, with other facts."""
    facts = {**FACTS, "worst": {**FACTS["worst"], "leak": -1.0}, "exact_share": 0.0}
    return {"op": Leak("op", changes.pop("leak", 0.0), None, {**facts, **changes})}


def test_the_first_sentence_sounds_safe_only_after_a_long_search():
    """If it fails, a set-up that was searched for a few seconds is called safe."""
    few, none, leaking = report(results=results(steps=299)), report(results={}), report(results=results(leak=2.0))
    for each, sentence in (
        (few, "An honest server: not known. op (299 steps) found nothing, which proves nothing after so few steps;"),
        (none, "An honest server: not known, since nothing was tried."),
        (leaking, "An honest server gets at least 2.0 dB closer to the private images than one without the gradient"),
        (report(results=results(leak=0.04)), "An honest server: not known. op (30 steps) found nothing"),
        (report(results=results(steps=300)), "On average an honest server gets nothing from op (300 steps)."),
        (report(results=results(leak=2.0, steps=300)), "An honest server gets 2.0 dB closer"),
    ):
        assert summary(each)[0].startswith(sentence)
        assert sentence in each.text()
    closed = report(results={"ana_linear": Leak("ana_linear", 0.0, None, results()["op"].facts)})
    assert summary(closed) == ["An honest server: not known. ana_linear (30 steps) got nothing, and no search was run."]
    mixed = report(results={**results(steps=300), "gen_w": Leak("gen_w", 0.0, None, results()["op"].facts)})
    assert summary(mixed)[1] == "gen_w (30 steps) found nothing, which proves nothing after so few steps."


def test_a_reason_why_no_change_was_run_is_said_once():
    """If it fails, a reader takes a lack of time for a set-up without leaks, or reads the same line four times."""
    late = report(what_if=tuple(WhatIf(f"change {number}", {}, "no time left") for number in range(4)))
    for text in (to_html(late), late.text()):
        assert text.count("No change was run: no time left.") == text.count("no time left") == 1
    some = report(what_if=(*late.what_if[:2], WhatIf("another", {"op": (3.0, 1.0)})))
    for text in (to_html(some), some.text()):
        assert text.lower().count("not run, no time left: change 0; change 1") == 1
