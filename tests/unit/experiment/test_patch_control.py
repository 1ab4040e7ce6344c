"""The control of the closed form on patches: it works at a level where nothing leaks, and it fails a saboteur."""

import pytest

from claims.edits import Adapted
from claims.reduced.spaces import PEFT
from gia.experiment.controls import path_works
from gia.harness.blocks.block import Block

pytest.importorskip("timm", reason="Vision Transformers need the package timm")
pytest.importorskip("peft", reason="low-rank adapters need the package peft")

LEVEL = PEFT.with_(
    {"batch.image_size": 8, "batch.images": 1, "victim.depth": 2, "scoring.control_images": 1, "vary": {}}
)


@pytest.mark.parametrize("rank", [1, 16])
def test_a_level_with_too_low_a_rank_is_dead_and_not_void(rank):
    """If this fails, adapters that give nothing away make their blocks void, and no row can say so."""
    control = path_works(LEVEL.with_({"victim.edit": Adapted(rank=rank)}), Block("example", 0, {}))
    assert control.passed, control.reason


@pytest.mark.parametrize("placebo", ["noise", "blind"])
def test_a_placebo_in_the_place_of_the_closed_form_is_void(placebo):
    """If this fails, an attack that returns noise passes its own control."""
    control = path_works(LEVEL.with_({"attacker.placebo": placebo}), Block("example", 0, {}))
    assert not control.passed
    assert "found, less than half" in control.reason
