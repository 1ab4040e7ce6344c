"""The table of what adapters leak in trained trunks: its cells, its images, and the page that shows it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import gia
from claims import peft_trunks, table1
from claims.cells import load
from claims.edits import Adapted, SlowlyAdapted
from claims.peft_cells import NET, PAGE, Tried, block_of, images_of, protocol
from claims.peft_trunks import DATA, MARKERS, TRUNKS
from gia.experiment import Round
from tests.unit.test_peft_cells import needs_adapters


def test_the_page_shows_what_is_stored() -> None:
    """If it fails, the page has old numbers: `python -m claims.peft_trunks 0` writes them again."""
    page = PAGE.read_text(encoding="utf-8")
    stored = load(peft_trunks.PATH).get("cells", {})
    assert page == table1.replaced(page, peft_trunks.markdown(stored), markers=MARKERS)


def test_both_trunks_are_attacked_alike() -> None:
    """If it fails, the columns differ by more than the training of the trunk, or a cell is never measured."""
    random, trained = (TRUNKS[name] for name in ("random trunk", "trained trunk"))
    assert (random.width, random.depth, random.data) == (trained.width, trained.depth, trained.data)
    assert random.fit is None
    assert trained.fit is not None
    keys = [key for key, _ in peft_trunks.planned()]
    assert len(keys) == len(set(keys)) == 2 + 2 * len(peft_trunks.rows())
    edits = [edit for _, edit in peft_trunks.rows().values() if edit is not None]
    assert {(edit.epochs > 0, edit.step_size) for edit in edits} == {(False, 0.01), (True, 0.01), (True, 0.001)}


@pytest.mark.parametrize("data", DATA)
def test_no_trunk_is_trained_on_an_image_that_is_attacked(data: str) -> None:
    """If it fails, what is said to leak may be what the trunk has learned."""
    for pilot in (True, False):
        asked = protocol(Tried("patch_span"), None, data, {}, pilot=pilot, net=TRUNKS["trained trunk"])
        round = Round(asked, block_of(data, pilot=pilot))
        trained_on = {image.numpy().tobytes() for image in round._divided[0].images}
        attacked = round.data.images[round.private]
        assert not any(image.numpy().tobytes() in trained_on for image in attacked)
        assert round.private.tolist() == images_of(data, pilot=pilot)


def test_a_smaller_step_size_moves_adapters_less() -> None:
    """If it fails, both rows of the table show adapters of one training."""
    needs_adapters()
    seed = torch.Generator().manual_seed(0)
    net = gia.models.build("vit_tiny", num_classes=40, image_size=32, width=32, depth=1, **NET, generator=seed)
    public = gia.data.load("faces", image_size=32, channels=3).take(torch.arange(32))

    def moved(adapted: type[Adapted]) -> float:
        seed.manual_seed(1)
        found = adapted(rank=4, epochs=1)(net, public, generator=seed)
        return float(torch.cat([p.detach().flatten() for n, p in found.named_parameters() if ".lora_B." in n]).norm())

    assert 0 < moved(SlowlyAdapted) < 0.5 * moved(Adapted)


def test_directions_are_those_of_the_first_block_s_a() -> None:
    """If it fails, another layer is counted, or rounding counts as a direction."""
    gradients = {
        "net.blocks.0.attn.q.lora_A.default.weight": torch.diag(torch.tensor([1.0, 1e-3, 1e-7, 0.0])),
        "net.blocks.0.attn.q.lora_B.default.weight": torch.eye(4),
        "net.blocks.1.attn.q.lora_A.default.weight": torch.eye(4),
    }
    assert peft_trunks._directions(SimpleNamespace(gradients=gradients)) == 2  # type: ignore[arg-type]


def test_the_table_has_a_column_for_each_trunk_and_a_dash_for_what_is_missing() -> None:
    """If it fails, a number stands under another trunk than it was measured on."""
    (row, *_) = peft_trunks.rows()
    text = peft_trunks.markdown(
        {
            "accuracy": {"accuracy": {"faces": 0.75, "digits": 0.9625}},
            f"{row}/trained trunk": {"leak": [1.0] * 8, "images": {"faces": [1, 2, 3, 4], "digits": [1, 2, 3, 4]}},
        }
    )
    assert f"| {row} | - | 1.0 [1.0, 1.0] (1.0, 1.0) |" in text
    assert "over 8 distinct images" in text
    assert "faces 0.75, digits 0.96" in text
