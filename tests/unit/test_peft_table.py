"""The table of what full gradients and adapters leak: images, settings, cells, and the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from claims import cells, peft_table, table1
from claims.cells import load
from claims.peft_cells import (
    CLOSED,
    DATA,
    FULL,
    INITIAL,
    PAGE,
    PILOT_STEPS,
    STATES,
    STEPS,
    TRAINED,
    images_of,
    protocol,
)
from claims.peft_table import ATTACKS, LADDERS, MARKERS, RUNGS


def test_the_page_shows_what_is_stored() -> None:
    """If it fails, the page has old numbers: `python -m claims.peft_table 0` writes them again."""
    page = PAGE.read_text(encoding="utf-8")
    stored = load(peft_table.PATH).get("cells", {})
    assert page == table1.replaced(page, peft_table.markdown(stored), markers=MARKERS)


def test_every_stored_cell_names_its_commit_and_the_attacked_images() -> None:
    """If it fails, a number on the page cannot be made again."""
    for key, cell in load(peft_table.PATH).get("cells", {}).items():
        assert len(cell["commit"]) == 40, key
        if "leak" in cell:
            assert cell["images"] == {data: images_of(data, pilot=False) for data in DATA}
            assert len(cell["leak"]) == 8


def test_a_finished_cell_is_stored_at_once_and_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If it fails, an interrupted run begins again, or has lost what it had."""
    path, page, asked = tmp_path / "cells.json", tmp_path / "page.md", []
    page.write_text("\n".join(MARKERS), encoding="utf-8")

    def cell(name: str) -> dict[str, Any]:
        asked.append(name)
        if name == "second" and asked.count(name) == 1:
            raise KeyboardInterrupt
        return {"leak": [1.0] * 8}

    plan = [(name, lambda name=name: cell(name)) for name in ("first", "second")]
    monkeypatch.setattr(peft_table, "planned", lambda: plan)
    monkeypatch.setattr(peft_table, "PATH", path)
    monkeypatch.setattr(peft_table, "PAGE", page)
    monkeypatch.setattr(cells, "commit", lambda: "0" * 40)
    with pytest.raises(KeyboardInterrupt):
        peft_table.main()
    assert list(json.loads(path.read_text(encoding="utf-8"))["cells"]) == ["first"]
    peft_table.main(["0"])
    assert asked == ["first", "second"], "a run without time must measure nothing"
    peft_table.main()
    assert asked == ["first", "second", "second"]
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert list(stored["cells"]) == ["first", "second"]
    assert "torch" in stored["environment"]


def test_the_tables_have_medians_ends_and_counts_and_a_dash_for_what_is_missing() -> None:
    """If it fails, the page shows another number than was measured, or hides that one is missing."""
    name = list(ATTACKS)[4]
    search = {
        "leak": [-3.0, -2.0, -1.0, 0.5, 1.5, 2.0, 3.0, 4.0],
        "psnr": [10.0] * 4 + [12.0] * 4,
        "settings": {"lr": "0.1"},
        "evaluations": [401] * 8,
        "converged": [True] + [False] * 7,
        "found": [1e-4] * 6 + [1e-6] * 2,
        "truth": [1e-5] * 8,
    }
    costs = {f"{state}/{engine}": 1.0 for state in (FULL, INITIAL) for engine in peft_table.ENGINES}
    text = peft_table.markdown({f"{name}/{TRAINED}": search, "costs": costs})
    assert f"| {name} | - | - | 1.0 [0.0, 4.0] (0.0, 2.5) |" in text
    assert f"| {name} | {TRAINED} | `lr=0.1` | 11.0 | 401 | 1 of 8 | 2 of 8 |" in text
    assert f"| {FULL} | 1.0 | 1.0 |" in text
    assert "| 16 | qkv |" not in text
    assert text.endswith("generator weights and the patch prior.")
    assert f"yet: {name}" not in peft_table.markdown({f"{name}/{TRAINED}": search})


def test_every_state_and_rung_is_planned_once() -> None:
    """If it fails, a cell of a table is never measured."""
    keys = [key for key, _ in peft_table.planned()]
    assert len(keys) == len(set(keys))
    attacked = {f"{name}/{state}" for name, tried in ATTACKS.items() for state in STATES}
    # A malicious server edits adapters, and adapters share no gradients of embeddings.
    attacked -= {f"{name}/{FULL}" for name, tried in ATTACKS.items() if tried.malicious}
    embeddings = [name for name, tried in ATTACKS.items() if tried.attack == "patch_embedding"]
    attacked -= {f"{name}/{state}" for name in embeddings for state in (INITIAL, TRAINED)}
    rungs = {f"{column}/{rank}, {targets}" for column in LADDERS for rank, targets in RUNGS}
    assert set(keys) == attacked | rungs | {"findings", "costs"}


def test_searches_end_by_convergence_or_at_the_cap_of_evaluations() -> None:
    """If it fails, one attack has a larger budget than another, or a search is cut before it has converged."""
    for name, tried in ATTACKS.items():
        if tried.attack in CLOSED:
            continue
        for pilot, cap in ((True, PILOT_STEPS), (False, STEPS)):
            given = protocol(tried, None, "faces", tried.grid[0], pilot=pilot).attacker.settings
            inner = 20 if tried.attack == "dlg" else 1  # `gia.attacks.dlg`: at most 20 evaluations in a step
            assert cap - inner < given["steps"] * inner <= cap, name
            assert given["converged"] == 0.01


def needs_adapters() -> None:
    """Skip a test where the two packages are missing."""
    pytest.importorskip("timm", reason="the victims need the package timm: python -m pip install 'timm>=1.0'")
    pytest.importorskip("peft", reason="low-rank adapters need the package peft: python -m pip install 'peft>=0.15'")


def test_a_client_with_the_agreed_network_finds_the_malicious_one_and_no_fault_in_the_honest_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it fails, the page says something else about validation than it does."""
    needs_adapters()
    monkeypatch.setattr(peft_table, "DATA", ("faces",))
    found = peft_table.findings()
    assert "drift" in found["agreed"]["faces"]
    assert found["honest"]["faces"] == []


def test_costs_are_those_of_both_engines_on_both_kinds_of_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a column of costs is missing, or is that of another engine than it names."""
    needs_adapters()
    asked = []

    class Matched:
        def __init__(self, model: Any, observations: Any, *, engine: str, **_: Any) -> None:
            asked.append((len(observations[0].gradients), engine))

        def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
            assert (images.shape, labels.shape) == ((8, 1, 3, 32, 32), (8, 1))

    monkeypatch.setattr(peft_table, "Matching", Matched)
    found = peft_table.costs()
    assert list(found) == [f"{state}/{engine}" for state in (FULL, INITIAL) for engine in ("taps", "plain")]
    full, adapted = asked[0][0], asked[2][0]
    assert asked == [(full, "taps"), (full, "plain"), (adapted, "taps"), (adapted, "plain")]
    assert adapted == 2 * 3 * 2  # two matrices for each of queries, keys and values of two blocks
