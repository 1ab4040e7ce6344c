"""The HTML report in a browser: both themes, a phone, folding without a script, and what axe-core says of it.

Needs playwright, a headless Chromium and axe-core: `nox -s pages` says what to install.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claims.report import evasion, roc
from gia.harness.report import compare, page
from gia.harness.report.material import material_in
from gia.harness.report.project import project_at
from gia.harness.report.rendering import rendered
from tests.harness.report.run_folder import a_verdict, an_about, evidence_of, reach_of, write_folder

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[2]
NAMES = ("chromium-headless-shell", "chromium")
AXE = Path(os.environ.get("GIA_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))

#: Viewports and themes, by name.
VIEWS = {"desktop": (1280, "light"), "dark": (1280, "dark"), "phone": (390, "light"), "dark phone": (390, "dark")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"could not import a browser: expected one of {NAMES} on the path")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of this register with planted evidence, a run of placebos, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    about = project_at(ROOT).about()
    about["claims"]["op.batch_size"]["records"]["reach"] = reach_of()
    known = ("without_verdict", "placebos", "notices", "baselines", "environment", "here")
    about |= {name: an_about()[name] for name in known} | {"without_verdict": {"thm1.printed": "its test failed"}}
    about["commands"] = {id: f"python -m pytest claims -k {id}" for id in about["claims"]}
    about["placebos"] = {"op.batch_size": about["placebos"]["op.size"]}
    outcomes = ("supported", "refuted", "inconclusive")
    rows = [a_verdict(id, outcomes[number % 3]) for number, id in enumerate(about["claims"])]
    rows[1]["notice"] = "op.resolution: another number than on record"
    kept = {row["id"]: evidence_of(row["id"]) for row in rows[:9]}
    statistics = {f"check {number}": ([0.1, 0.2, 0.4], [0.3, 0.1 * number], 0.35) for number in range(1, 8)}
    kept[rows[0]["id"]]["figures"] = [*roc({"Fishing": statistics}), evasion([("traps", False, True)])]
    run = write_folder(folder / "run", rows, about, kept)
    of_placebo = {"placebo": "noise", "leak": 0.4, "leak_decides": True}
    placebos = write_folder(folder / "placebos", [a_verdict("op.batch_size", **of_placebo)], about, {})
    found = {"report": page.html(material_in(run)), "placebos": page.html(material_in(placebos))}
    comparison = compare.compared(rows, [a_verdict("op.batch_size", "refuted", interval=[3.0, 4.0]), *rows[1:9]])
    found["comparison"] = rendered("comparison.html", compare.view(comparison, [{"torch": "2.9"}, {"torch": "2"}]))
    for name, html in found.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in found}


def opened(
    browser: Any, path: Path, view: str = "desktop", *, script: bool = True, at: str = ""
) -> tuple[Any, list[str]]:
    """A page in a view, and whatever it complains about or fetches."""
    width, scheme = VIEWS[view]
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
    )
    sheet, said = context.new_page(), []
    sheet.on("console", lambda message: said.append(message.text))
    sheet.on("pageerror", lambda error: said.append(str(error)))
    sheet.on("request", lambda request: said.append(request.url))
    sheet.goto(f"{path.as_uri()}{at}")
    own = path.as_uri()
    return sheet, [text for text in said if not text.startswith((own, "data:"))]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["report", "placebos", "comparison"])
def test_a_page_is_as_wide_as_its_window_and_fetches_nothing(
    browser: Any, pages: dict[str, Path], name: str, view: str
) -> None:
    """A reader with a phone would scroll sideways; a reader without a network would see errors."""
    sheet, said = opened(browser, pages[name], view)
    assert said == []
    assert sheet.evaluate("document.documentElement.scrollWidth") <= VIEWS[view][0]
    dark = sheet.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark[4:-1].split(","))) < 200) == (VIEWS[view][1] == "dark")


@pytest.mark.parametrize("script", [True, False], ids=["with a script", "without"])
def test_every_cell_of_the_matrix_opens_its_evidence(browser: Any, pages: dict[str, Path], script: bool) -> None:
    """A click would lead to a folded row, or nowhere."""
    sheet, _ = opened(browser, pages["report"], script=script)
    links = sheet.locator("table.matrix td a")
    targets = {links.nth(number).get_attribute("href") for number in range(links.count())}
    cells = sheet.locator("table.matrix td")
    assert cells.count() == 6 * 9
    assert all(cells.nth(number).locator("a").count() for number in range(cells.count()))
    for target in sorted(targets) if script else sorted(targets)[:5]:
        sheet.locator(f'table.matrix td a[href="{target}"]').first.click()
        sheet.locator(f'[id="{target[1:]}"]').wait_for(state="visible", timeout=5000)


def test_the_filter_hides_rows_and_a_link_shows_them_again(browser: Any, pages: dict[str, Path]) -> None:
    """A link from the matrix would lead to a row that the filter hides."""
    sheet, said = opened(browser, pages["report"])
    rows = sheet.locator("details.row:visible")
    every = rows.count()
    sheet.locator("#filter-text").fill("theory bound")
    assert 0 < rows.count() < every
    sheet.locator('table.matrix a[href="#row-op.batch_size"]').click()
    sheet.locator('[id="row-op.batch_size"]').wait_for(state="visible", timeout=5000)
    sheet.locator("#filter-text").fill("")
    assert rows.count() == every
    sheet.get_by_text("supported", exact=True).locator("input").uncheck()
    assert 0 < rows.count() < every
    sheet.get_by_role("button", name="Open all").click()
    assert sheet.locator("details.row:visible[open]").count() == rows.count()
    assert said == []


def test_the_keyboard_reaches_the_content_first_and_then_the_parts(browser: Any, pages: dict[str, Path]) -> None:
    """Who uses no mouse would go through all links of the head on every visit."""
    sheet, _ = opened(browser, pages["report"])
    sheet.keyboard.press("Tab")
    assert sheet.evaluate("document.activeElement.textContent") == "Skip to the content"
    sheet.keyboard.press("Enter")
    assert sheet.evaluate("document.activeElement.id") == "content"
    sheet.keyboard.press("Tab")
    assert sheet.evaluate("document.activeElement.closest('table.matrix') !== null")
    sheet.keyboard.press("Enter")
    assert sheet.evaluate("document.activeElement.closest('details.row').open")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["report", "placebos", "comparison"])
def test_axe_core_finds_no_violation(browser: Any, pages: dict[str, Path], name: str, view: str) -> None:
    """A text would have too little contrast, or an element no name."""
    if not AXE.is_file():
        pytest.skip("could not import axe-core: expected its axe.min.js where the variable GIA_AXE says")
    sheet, _ = opened(browser, pages[name], view)
    sheet.evaluate("document.querySelectorAll('details').forEach((each, number) => { each.open = number < 12; })")
    sheet.add_script_tag(path=str(AXE))
    found = sheet.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [
        (each["id"], node["html"][:200], node["failureSummary"])
        for each in found["violations"]
        for node in each["nodes"]
    ] == []


def test_it_prints_on_pages_without_the_filter(browser: Any, pages: dict[str, Path]) -> None:
    """A printed report would begin with a bar of buttons, or be cut off at the right."""
    sheet, _ = opened(browser, pages["report"])
    sheet.emulate_media(media="print")
    assert not sheet.locator("nav").is_visible()
    assert not sheet.locator("form.filter").is_visible()
    assert sheet.locator("table.matrix").is_visible()
    assert sheet.pdf().startswith(b"%PDF")
