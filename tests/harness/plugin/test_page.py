"""The HTML page that a run leaves in its folder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from gia.harness.report import page
from gia.harness.report.material import material_in
from gia.harness.report.rows import verdicts_schema
from tests.harness.plugin.inner_project import Inner, row, trend
from tests.harness.report.run_folder import Page

pytest_plugins = ["pytester"]

MATRIX = """
def layout(root):
    cells = {"toy": {"size": {"mark": "yes", "rows": ["toy.first", "toy.second"]}}}
    matrix = {"title": "Table 0", "text": "Planted.", "rows": {"toy": ("Toy", "planted")}, "columns": {"size": "size"}}
    return {"title": "Toys", "matrix": {**matrix, "cells": cells}}
"""


@pytest.fixture
def arranged(inner: Inner) -> Inner:
    """A project with two rows and a layout."""
    (inner.path / "arranged.py").write_text(MATRIX, encoding="utf-8")
    inner.write_settings("claims_report = arranged")
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + trend("toy.second", 0.1))
    return inner


def test_a_run_of_some_rows_writes_a_page_with_all_rows(arranged: Inner) -> None:
    """A partial run would leave no report, or one that hides what it did not run."""
    result = arranged.run("-k", "first")
    result.stdout.fnmatch_lines(
        ["Table 0", "*size", "toy: Toy*yes [[]+].", f"reports: {arranged.folder / 'report.html'}"]
    )
    html = (arranged.folder / "report.html").read_text(encoding="utf-8")
    found = Page(html)
    assert (found.faults, found.outside) == ([], [])
    assert found.cells == [["#row-toy.first", "#row-toy.second"]]
    assert "Toys" in found.text
    assert "This run selected a part of the claims" in found.text
    assert "Effect of each block, in dB" in found.text


def test_the_page_can_be_made_again_from_the_folder_alone(arranged: Inner) -> None:
    """What the page shows would be lost with the project that made it."""
    arranged.run()
    html = (arranged.folder / "report.html").read_text(encoding="utf-8")
    again = page.html(material_in(arranged.folder))
    assert again.replace("running", "ended") == html.replace("running", "ended")


def test_verdicts_json_is_as_its_schema_says(arranged: Inner) -> None:
    """Programs that read verdicts.json rely on the schema, and a key that changes would break them."""
    jsonschema = pytest.importorskip("jsonschema")
    arranged.run()
    schema = verdicts_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    rows = json.loads((arranged.folder / "verdicts.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == ["toy.first", "toy.second"]
    validator.validate(rows)
    assert set(rows[0]) - set(schema["$defs"]["row"]["required"]) == {"torch", "device", "commit"}  # facts of the run
    assert set(rows[0]) <= set(schema["$defs"]["row"]["properties"])
    for name in schema["$defs"]["row"]["required"]:
        assert not validator.is_valid([{key: value for key, value in rows[0].items() if key != name}]), name


def test_the_command_of_a_row_runs_its_test_again(arranged: Inner) -> None:
    """A reader would have to find out which test decides on a row, and with which options."""
    arranged.run("-k", "second", "--gia-scale=paper")
    about = json.loads((arranged.folder / "about.json").read_text(encoding="utf-8"))
    python, m, pytest_, *words = shlex.split(about["commands"]["toy.first"])
    assert (python, m, pytest_) == ("python", "-m", "pytest")
    assert words == ["claims/test_toy.py::test_toy_first", "--gia-scale=paper"]
    arranged.pytester.runpytest_inprocess("--gia-workers=0", *words)
    assert list(arranged.verdicts) == ["toy.first"]
    assert arranged.verdicts["toy.first"]["scale"] == "paper"


def test_a_layout_that_is_missing_ends_the_run_before_it_measures(arranged: Inner) -> None:
    """An hour of measuring would end without a report."""
    arranged.write_settings("claims_report = nowhere")
    result = arranged.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*claims_report: expected a module with a function layout, got 'nowhere': *"])
    assert arranged.computed == []


def test_a_second_run_says_how_much_time_is_left(arranged: Inner) -> None:
    """A person at the terminal could not tell whether to wait."""
    arranged.run().stdout.no_fnmatch_line("* left for *")
    arranged.run().stdout.fnmatch_lines(["*toy.first: supported*; about * left for 1 row"])


def test_a_folder_that_is_used_again_holds_only_the_new_evidence(arranged: Inner) -> None:
    """The page of a run would show blocks of an earlier one."""
    folder = arranged.path / "kept"
    arranged.run(f"--gia-run-dir={folder}")
    (folder / "evidence" / "notes.txt").write_text("the user's own", encoding="utf-8")
    arranged.run(f"--gia-run-dir={folder}", "-k", "second")
    assert sorted(path.name for path in (folder / "evidence").iterdir()) == ["notes.txt", "toy.second.json"]
    assert Path(folder, "report.html").exists()
