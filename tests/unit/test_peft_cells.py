"""One cell of the tables on adapters: which images, which settings, and what counts as leak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from claims import peft_cells
from claims.edits import Adapted, Flattened
from claims.peft_cells import DATA, NARROW, Net, Tried
from gia.attacks import Reconstruction


def needs_adapters() -> None:
    """Skip a test where the two packages are missing."""
    pytest.importorskip("timm", reason="the victims need the package timm: python -m pip install 'timm>=1.0'")
    pytest.importorskip("peft", reason="low-rank adapters need the package peft: python -m pip install 'peft>=0.15'")


def test_settings_are_chosen_on_other_images_than_are_attacked() -> None:
    """If it fails, the best of several settings is chosen by the result that is shown."""
    assert len(DATA) >= 2
    for data in DATA:
        pilot, attacked = (set(peft_cells.images_of(data, pilot=which)) for which in (True, False))
        assert pilot.isdisjoint(attacked)
        assert (len(pilot), len(attacked)) == (2, 4)


def test_the_attacked_block_is_the_first_without_an_image_of_the_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a small data set has an image on which the settings were chosen."""
    drawn = {("pilot", 0): [1, 2], ("claims", 0): [2, 3], ("claims", 1): [4, 5]}
    monkeypatch.setattr(peft_cells, "_private", lambda data, block, pilot: drawn[block.lane, block.index])
    assert peft_cells.block_of("faces", pilot=False).index == 1


def test_the_pilots_alone_decide_on_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a setting is shown that the pilots did not prefer."""
    asked, deep = [], Net(width=144, depth=12)

    def measured(tried: Tried, edit: Any, settings: Any, *, net: Any, pilot: bool = False) -> dict[str, Any]:
        assert net == deep
        asked.append((settings["lr"], pilot))
        return {"leak": {1: [0.0, 1.0], 2: [3.0, 1.0], 3: [-9.0, 4.0]}[settings["lr"]]}

    monkeypatch.setattr(peft_cells, "measured", measured)
    cell = peft_cells.cell_of(Tried("dlg", tuple({"lr": lr} for lr in (1, 2, 3))), None, net=deep)
    assert cell["settings"] == {"lr": "2"}
    assert cell["pilots"] == [0.5, 2.0, -2.5]
    assert asked == [(1, True), (2, True), (3, True), (2, False)]


def gray(model: Any, observation: Any, *, generator: Any, steps: int, converged: float) -> Reconstruction:
    """An attack that returns a gray image."""
    return Reconstruction(images=torch.full((1, *observation.image_shape), 0.5))


def test_leak_is_what_an_attack_adds_to_the_best_placebo() -> None:
    """If it fails, an attacker that does not look at the gradient leaks. PSNR is checked against scikit-image's."""
    needs_adapters()
    cell = peft_cells.measured(Tried(gray), None, {})  # type: ignore[arg-type]
    exchanges = [peft_cells.exchange_of(Tried("patch_span"), None, data, {}) for data in DATA]
    images = [image.numpy() for exchange in exchanges for image in exchange.reference]
    for index, image in enumerate(images):
        own = np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)
        public = exchanges[index // 4].round.public.images.mean(0).numpy()
        best = max(peak_signal_noise_ratio(image, guess, data_range=1) for guess in (own, public))
        psnr = peak_signal_noise_ratio(image, np.full_like(image, 0.5), data_range=1)
        assert cell["psnr"][index] == pytest.approx(psnr, abs=1e-3)
        assert cell["placebo"][index] >= best - 1e-3
        assert cell["leak"][index] == pytest.approx(cell["psnr"][index] - cell["placebo"][index])
    assert max(cell["leak"]) <= 0


def test_the_malicious_network_has_the_honest_matrices_a_and_other_blocks() -> None:
    """If it fails, a client's comparison with the agreed network finds other draws and not the manipulation."""
    needs_adapters()
    honest, sent = (
        peft_cells.victim(edit, "float32", "faces", pilot=False, net=NARROW).state_dict()
        for edit in (Adapted(rank=4), Flattened(rank=4))
    )
    changed = {
        name.split(".")[-2] if ".lora_" not in name else name.split(".")[-3]
        for name in honest
        if not sent[name].equal(honest[name])
    }
    assert "lora_A" not in changed
    assert "lora_B" in changed
