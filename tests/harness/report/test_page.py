"""The HTML page of a run: what it shows of each row, that everybody can read it, and that it needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from claims.report import evasion, privacy_utility, roc
from gia.harness.report import page
from gia.harness.report.layout import group_of
from gia.harness.report.material import material_in
from gia.harness.report.project import project_at
from gia.harness.report.row_view import anchor
from tests.harness.report.run_folder import (
    Page,
    a_claim,
    a_verdict,
    an_about,
    evidence_of,
    verdicts,
    write_folder,
)

ROOT = Path(__file__).parents[3]


def html_of(folder: Path, **parts: Any) -> str:
    """The page of a planted run folder."""
    parts.setdefault("about", an_about())
    return page.html(material_in(write_folder(folder / "run", **parts)))


def row_in(html: str, id: str) -> str:
    """The part of the page about one row."""
    start = html.rindex('<details class="row"', 0, html.index(f'id="{anchor(id)}"'))
    later = html.find('<details class="row"', start + 1)
    return html[start : later if later > 0 else html.index("</main>")]


def test_ids_are_unique_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    """A link to a row would lead to another one, or nowhere."""
    found = Page(html_of(tmp_path))
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert set(found.labelled) <= set(found.ids)


def test_nothing_is_fetched_and_every_element_says_what_it_is(tmp_path: Path) -> None:
    """A page would not open without a network, or a screen reader would meet pictures without words."""
    html = html_of(tmp_path)
    found = Page(html)
    assert found.outside == []
    assert found.faults == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert html.count('role="img"') - 1 == html.count("<title id=")  # each drawing; the bar of shares has a label


def test_every_cell_of_the_matrix_opens_the_evidence_of_its_rows(tmp_path: Path) -> None:
    """A verdict in the matrix could not be checked. The target lies inside the row, so that a browser unfolds it."""
    found = Page(html_of(tmp_path))
    wanted = [["op.size", "op.size_too"], ["op.depth/2"], ["gen.size"], ["op.depth/2"]]
    assert found.cells == [[f"#{anchor(id)}" for id in ids] for ids in wanted]
    assert {link[1:] for cell in found.cells for link in cell} <= set(found.rows)


def test_a_row_shows_the_confirmed_verdict_and_this_runs(tmp_path: Path) -> None:
    """The published verdict would be lost behind a first look, or the other way round."""
    html = html_of(tmp_path)
    text = Page(row_in(html, "op.size")).text
    assert "confirmed c562e36 refuted +0.1 [0, +0.3] 16 second look" in text
    assert "this run 0f3adc1 supported +2 [+1.5, +2.5] 8, 1 void first look" in text
    assert "Optimization IG yes refuted now supported 20 of 24 settings not run size too" in Page(html).text


def test_a_row_shows_all_of_its_evidence(tmp_path: Path) -> None:
    """A number that the verdict rests on could not be looked up."""
    row = row_in(html_of(tmp_path), "op.size")
    text = Page(row).text
    for said in (
        "Effect of each block, in dB",
        "leak at each level",
        "PSNR in dB, and the best placebo&#39;s",
        "The paper&#39;s CW-SSIM",
        "Specification curve",
        "holds 20, dead 4, of 24 drawn settings. 3 of 16 settings show something else when drawn again",
        "victim.activation moves the effect most (p = 0.001): relu +2, silu +0.1",
        "Controls: 9 blocks, 1 void",
        "no objective sees the image",
        "psnr of the best placebo 14 14 14",
        "noise inconclusive 0.1 0.25",
        "3 images of digits, 1 images of photos; 2 searches of the controls ambiguous",
        "2026-11-24 changed inconclusive supported 6bf82d4 Fewer &lt;steps&gt;.",
        "python -m pytest &#39;claims/test_size.py::test_size[op]&#39;",
    ):
        assert said.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">") in text, said
    assert "saboteur" not in text  # it was not applicable
    assert row.count("data:image/png;base64,") == 8  # two originals, and two reconstructions at each of three levels
    assert 'alt="reconstruction 1 at 2, 24.1 dB"' in row
    assert row.count("24.1 dB</li>") == 3


def test_the_papers_numbers_are_in_the_order_of_their_levels(tmp_path: Path) -> None:
    """16 would stand before 4, as it does among texts."""
    assert "The paper&#39;s CW-SSIM: 1: 0.765, 4: 0.7, 16: 0.6" in html_of(tmp_path)


def test_an_outcome_is_a_word_and_never_a_colour_alone(tmp_path: Path) -> None:
    """Who cannot tell red from green could not read the matrix."""
    html = html_of(tmp_path)
    badges = re.findall(r'<span class="badge (\w*)">(.*?)</span>', html)
    assert {outcome for outcome, _ in badges} >= {"supported", "refuted", "inconclusive"}
    assert all(outcome in inside.replace(f"#sign-{outcome}", "") for outcome, inside in badges if outcome)


def test_texts_of_the_register_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    """A statement with an angle bracket would break the page, or run a script."""
    about = an_about()
    about["claims"]["op.size"] = a_claim("op.size", statement="<script>alert(1)</script> & more")
    html = html_of(tmp_path, about=about)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html


def test_a_page_that_is_too_large_leaves_out_images_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with many photos would end in a page that no browser likes, or in no page."""
    folder = write_folder(tmp_path / "run", about=an_about())
    material = material_in(folder)
    full = len(page.html(material).encode())
    monkeypatch.setattr(page, "MOST_BYTES", full - 1)
    smaller = page.html(material)
    assert len(smaller.encode()) < full
    assert "more than 1 images of each level were left out" in smaller
    assert smaller.count("data:image/png;base64,") == 8  # of two rows one original, and one for each of three levels
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="expected a page of at most 1000 bytes, got"):
        page.html(material)


def test_rows_that_need_attention_come_before_the_evidence(tmp_path: Path) -> None:
    """A test that failed, or a verdict that contradicts its record, would go unnoticed among the others."""
    rows = [
        a_verdict("op.size", disagrees="op.size: refuted on record (confirm), now supported"),
        *verdicts()[1:],
    ]
    html = html_of(tmp_path, rows=rows, about=an_about(without_verdict={"gen.size": "its test failed"}))
    part = Page(html[html.index('id="attention"') : html.index('id="rows"')]).text
    assert "op.size refuted on record (confirm), now supported" in part
    assert "gen.size no verdict: its test failed" in part


def test_a_run_without_trouble_has_no_such_part(tmp_path: Path) -> None:
    """An empty heading is a riddle."""
    assert "attention" not in Page(html_of(tmp_path)).ids


def test_a_row_against_the_paper_is_named(tmp_path: Path) -> None:
    """What a reader looks for first would have to be searched for. Inconclusive is not against anything."""
    html = html_of(tmp_path)
    (part,) = re.findall(r"Against the paper: (.*?)</p>", html)
    assert re.findall(r'class="id">(.*?)<', part) == ["op.size", "thm.bound"]


def test_the_tally_counts_confirmed_rows_and_leaves_out_those_by_construction(tmp_path: Path) -> None:
    """A row that cannot fail would count as evidence."""
    text = Page(html_of(tmp_path)).text
    assert "supported 0 refuted 1 inconclusive 0 not confirmed 3 by construction 1 measured in this run 3" in text


def test_a_run_with_a_users_attack_starts_with_its_own_verdicts(tmp_path: Path) -> None:
    """The user would read verdicts on the paper's attacks as verdicts on the attack on trial."""
    about = an_about()
    about["environment"]["attack"] = "mine:attack"
    html = html_of(tmp_path, about=about)
    text = Page(html).text
    assert "This run, with mine:attack 3 rows: 1 supported 1 refuted 1 inconclusive" in text
    assert "op.size supported +2 [+1.5, +2.5] dB refuted +0.1 [0, +0.3] dB" in text
    on_record = "On record, with the protocols' own attack supported 0 refuted 1 inconclusive 0 not confirmed 3"
    assert text.index("This run, with mine:attack") < text.index(on_record) < text.index("Table I What the paper says")
    assert "Optimization IG yes supported this run not run size too" in text
    shown = Page(row_in(html, "op.size")).text
    assert "confirmed, on record with the protocols' own attack c562e36 refuted +0.1" in shown
    assert "this run, with mine:attack 0f3adc1 supported +2 [+1.5, +2.5]" in shown
    assert f'<a href="#{anchor("op.size")}"><span class="id">op.size</span></a></th><td>' in html


def test_a_run_of_placebos_shows_its_matrix_and_what_breaks_the_rule(tmp_path: Path) -> None:
    """The same row under several placebos would overwrite itself."""
    about = {"placebo": "noise", "leak_decides": True}
    rows = [
        a_verdict("op.size", "inconclusive", **about, leak=0.4),
        a_verdict("op.size", "inconclusive", **about | {"placebo": "constant"}, leak=0.0),
        a_verdict("thm.bound", "not applicable", **about, leak=None, tables=[]),
    ]
    text = Page(html_of(tmp_path, rows=rows, evidence={})).text
    assert "1 of the verdicts below break this rule" in text
    assert "op.size inconclusive, leak 0.4 breaks the rule: leaks 0.4, more than half the margin of 0.5" in text
    assert "thm.bound not applicable no verdict" in text


def test_an_old_folder_is_readable(tmp_path: Path) -> None:
    """Reports of runs before there was a page could not be made."""
    folder = write_folder(tmp_path / "run", evidence={})
    found = Page(page.html(material_in(folder)))
    assert found.faults == []
    assert {anchor(row["id"]) for row in verdicts()} <= set(found.ids)
    assert "Table I" not in found.text


def test_an_old_folder_takes_the_rest_from_the_project(tmp_path: Path) -> None:
    """Its matrix would be missing though the project is at hand. This repository's is asked."""
    folder = write_folder(tmp_path / "run", [a_verdict("op.batch_size")], evidence={})
    html = page.html(material_in(folder, root=ROOT))
    found = Page(html)
    assert (found.faults, found.outside) == ([], [])
    assert len(found.cells) == 6 * 9
    assert all(found.cells)
    assert {link[1:] for cell in found.cells for link in cell} <= set(found.rows)
    assert "Theorem 1 as printed is false" in found.text
    assert len(html.encode()) < page.MOST_BYTES


def test_every_row_of_this_register_is_in_a_part_with_a_heading() -> None:
    """A new kind of row would end up below "Other rows"."""
    about = project_at(ROOT).about()
    groups = about["layout"]["groups"]
    assert [id for id in about["claims"] if group_of(id, groups) is None] == []


def test_the_theorem_is_drawn_with_its_numbers() -> None:
    """The counterexample of shared statements: ten steps multiply the error by 1.4e5, the bound allows .386."""
    groups = project_at(ROOT).about()["layout"]["groups"]
    (figure,) = [each for group in groups for each in group.get("figures", []) if each["title"].startswith("Theorem 1")]
    happens, allowed = figure["series"]
    assert happens["points"][10][1] == pytest.approx(3.26401**10, rel=1e-4)
    assert happens["points"][10][1] == pytest.approx(1.4e5, rel=0.03)
    assert allowed["points"][10][1] == pytest.approx(0.386, abs=5e-4)


def test_defenses_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    """A seed would pass for a defense, or leak and accuracy would change places."""
    path = tmp_path / "privacy_utility.json"
    seeds = {"digits/noise=1e-3/0": (2.0, 0.8), "digits/noise=1e-3/1": (4.0, 0.6), "digits/none/0": (9.0, 0.9)}
    points = {key: {"leak": leak, "accuracy": accuracy} for key, (leak, accuracy) in seeds.items()}
    path.write_text(json.dumps({"points": points}), encoding="utf-8")
    (figure,) = privacy_utility(path)
    (series,) = figure["series"]
    assert series["points"] == [(3.0, pytest.approx(0.7)), (9.0, 0.9)]
    assert "1 noise=1e-3 (3 dB, 0.7), 2 none (9 dB, 0.9)" in figure["text"]
    assert series["labels"] == ["1", "2"]
    about = an_about()
    about["layout"] = {"groups": [{"title": "Defences", "prefixes": ["op"], "figures": [figure]}]}
    found = Page(html_of(tmp_path, about=about))
    assert found.faults == []
    assert "Privacy and utility, digits" in found.text


def test_a_figure_of_a_row_is_drawn_with_its_words(tmp_path: Path) -> None:
    """The curves behind a rate would be a picture that cannot be read in the dark, on a phone or by a screen reader."""
    kinds = {"Fishing": {"rows": ([0.1, 0.4, 0.2, 0.3], [0.35, 0.9], 0.35), "biases": ([0.0, 1.0], [0.5], 2.0)}}
    row = row_in(html_of(tmp_path, evidence={"op.size": evidence_of("op.size") | {"figures": roc(kinds)}}), "op.size")
    words = "rows: 50 % at 25.0 %; biases: 0 % at 0.0 %"
    assert re.search(rf"<title [^>]*>ROC of each check, Fishing: [^<]*{words}", row)
    drawing = row[row.index('class="chart figure"') : row.index('<ul class="key">', row.index('class="chart figure"'))]
    assert drawing.count("<polyline") == 2
    assert drawing.count('class="sm ') == 2  # one mark for each, at its limit


def test_a_roc_curve_has_its_corners_and_its_limit_where_they_were_counted() -> None:
    """Shares of honest and of malicious models would change places, or the mark would lie beside the curve.

    By hand: above .9 lies nothing; above .4 one of two malicious models; above .35 also one of four honest ones; above
    .3 both malicious ones."""
    (figure,) = roc({"Fishing": {"rows": ([0.1, 0.4, 0.2, 0.3], [0.35, 0.9], 0.35)}})
    (curve,) = figure["series"]
    assert curve["points"] == [(0.0, 0.0), (0.0, 0.5), (0.25, 0.5), (0.25, 1.0), (1.0, 1.0)]
    assert [curve["points"][index] for index in curve["marked"]] == [(0.25, 0.5)]
    assert curve["name"] == "rows: 50 % at 25.0 %"


def test_what_evades_is_counted_of_what_leaks() -> None:
    """Manipulations that leak nothing would count as evasions: they pass the checks, too."""
    tries = [("traps", False, False), ("traps", False, True), ("traps", True, True), ("block", True, True)]
    figure = evasion(tries)
    assert figure["series"][1]["labels"] == ["block", "traps"]
    assert figure["series"][1]["points"] == [(1, 0), (2, 1)]
    assert "block 0 of 1, traps 1 of 2" in figure["text"]


def test_the_papers_numbers_stand_beside_ours_where_it_disagrees_with_itself(tmp_path: Path) -> None:
    """A reader would have to look up what was measured, row by row, or read names of keys."""
    html = html_of(tmp_path)
    part = Page(html[html.index('id="inconsistencies"') : html.index('id="provenance"')]).text
    assert "Measured here Neither. op.size refuted +0.1 [0, +0.3] dB thm.bound refuted +0.25 dB" in part
    entries = project_at(ROOT).about()["layout"]["inconsistencies"]
    places = {place: text for entry in entries for place, text in entry["numbers"].items()}
    assert not [place for place in places if "_" in place]
    named = "Fig. 3b, ig cifar100 architecture ssim, resnet101"
    assert places[named] == "1: 0.317, 4: 0.236, 8: 0.256, 16: 0.301, 32: 0.163, 64: 0.315"


def test_the_part_on_defences_shows_what_they_cost() -> None:
    """The plot would be measured and stored, and nobody would see it."""
    groups = {group["title"]: group for group in project_at(ROOT).about()["layout"]["groups"]}
    titles = [figure["title"] for figure in groups["Defences"]["figures"]]
    assert titles == ["Privacy and utility, digits", "Privacy and utility, faces"]


def test_a_folder_without_verdicts_is_refused(tmp_path: Path) -> None:
    """A typing error in a path would give a traceback."""
    with pytest.raises(ValueError, match=r"RUN_DIR: expected the folder of a run, got .* without verdicts\.json"):
        material_in(tmp_path)
    (tmp_path / "verdicts.json").write_text(json.dumps({"id": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="expected a list of verdicts"):
        material_in(tmp_path)
