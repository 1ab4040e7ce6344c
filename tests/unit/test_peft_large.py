"""The stored results of true Vision Transformers at 224 pixels: what is compared, how it is scored, and the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from claims import peft_large, table1
from claims.cells import load
from claims.peft_large import FULL, INITIAL, MARKERS, PAGE
from gia.data.assets import ASSETS
from gia.models import build


def test_the_page_shows_what_is_stored() -> None:
    """If it fails, the page has old numbers: `python -m claims.peft_large 0` writes them again."""
    page = PAGE.read_text(encoding="utf-8")
    cells = load(peft_large.PATH).get("cells", {})
    assert page == table1.replaced(page, peft_large.markdown(cells), markers=MARKERS)


def test_every_stored_cell_is_planned_and_names_its_commit() -> None:
    """If it fails, a number on the page cannot be made again."""
    keys = {peft_large.key_of(*cell) for cell in peft_large.planned()}
    cells = load(peft_large.PATH)["cells"]
    assert set(cells) <= keys
    assert all(len(cell["commit"]) == 40 for cell in cells.values())


def test_the_attacked_photos_may_be_shown_and_the_attacker_has_others() -> None:
    """If it fails, a committed picture shows what may not be copied, or the attacker holds the answer."""
    assert ASSETS[peft_large.PRIVATE].redistributable
    assert peft_large.PUBLIC != peft_large.PRIVATE


def test_an_attack_without_equations_is_a_cell_of_its_own() -> None:
    """If it fails, a gray image is scored as what the attack found."""
    net = next(iter(peft_large.NETS))
    cells: dict[str, Any] = {peft_large.key_of(net, "patch_span", INITIAL): {"nothing found": True}}
    assert f"| {net} | `patch_span` | {INITIAL} | no equations | - | - | - | - | - |" in peft_large.markdown(cells)


def test_a_search_is_compared_with_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leak against scikit-image's PSNR of the two placebos. If it fails, a stored leak is something else."""
    pytest.importorskip("timm", reason="the victims need the package timm: python -m pip install 'timm>=1.0'")
    monkeypatch.setattr(peft_large, "SIDE", 16)
    small = {"patch": 8, "width": 16, "depth": 1, "heads": 2, "num_classes": peft_large.CLASSES, "image_size": 16}
    monkeypatch.setattr(peft_large, "NETS", {"small": lambda g: build("vit_tiny", generator=g, **small)})
    given, states = peft_large.ATTACKS["inverting_gradients"]
    short = {**peft_large.ATTACKS, "inverting_gradients": ({**given, "steps": 3}, states)}
    monkeypatch.setattr(peft_large, "ATTACKS", short)
    for cached in (peft_large.victim, peft_large.public, peft_large.private):
        cached.cache_clear()
    try:
        cell, found = peft_large.measured("small", "inverting_gradients", FULL)
        for index, image in enumerate(peft_large.private().images):
            guesses = image.mean((1, 2), keepdim=True).expand_as(image), peft_large.public().images.mean(0)
            best = max(peak_signal_noise_ratio(image.numpy(), guess.numpy(), data_range=1) for guess in guesses)
            psnr = peak_signal_noise_ratio(image.numpy(), np.asarray(found[index]), data_range=1)
            assert cell["psnr"][index] == pytest.approx(psnr, abs=1e-3)
            assert cell["leak"][index] == pytest.approx(psnr - best, abs=2e-3)
            assert cell["truth"][index] == pytest.approx(0, abs=1e-5)
            assert cell["found"][index] > cell["truth"][index]
        assert peft_large.measured("small", "patch_embedding", FULL)[0]["exact"] == [True, True]
    finally:
        for cached in (peft_large.victim, peft_large.public, peft_large.private):
            cached.cache_clear()
