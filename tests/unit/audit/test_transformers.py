"""The audit of Vision Transformers, whose embeddings and first block give images away in closed form."""

import pytest
import torch

import gia
from gia.audit import audit

pytest.importorskip("timm", reason="Vision Transformers need the package timm")
pytest.importorskip("peft", reason="low-rank adapters need the package peft")

#: Sixteen patches of 2 pixels.
SMALL = {"data": "digits", "image_size": 8, "batch_size": 1, "batches": 2, "what_if": False, "validate": False}
CLOSED = "ana_patches,ana_tokens"


def vit(width=48):
    """A Vision Transformer for gray digits."""
    sizes = {"patch": 2, "width": width, "depth": 2, "heads": 2, "num_classes": 10, "image_size": 8, "channels": 1}
    return gia.models.build("vit_tiny", **sizes, generator=torch.Generator().manual_seed(0))


def test_full_fine_tuning_with_trained_position_embeddings_gives_single_images_away():
    """If it fails, the audit calls the most common way to train a Vision Transformer safe."""
    report = audit(vit(), against=CLOSED, **SMALL)
    assert report.leak["ana_patches"] > 40
    assert report.exact["ana_patches"] == 1.0


def test_adapters_that_hide_the_image_are_controlled_by_their_equations():
    """Rank 1 at initialization shows nothing. If it fails, 0 dB of an attack that works is called not known."""
    model = gia.models.lora(vit(), rank=1, generator=torch.Generator().manual_seed(1))
    report = audit(model, against=CLOSED, **SMALL)
    assert report.not_tried["ana_patches"].startswith("this model shares no embedding of patches together with")
    assert report.leak["ana_tokens"] < 1
    assert report.results["ana_tokens"].known


def test_a_convolutional_network_has_neither():
    """If it fails, its owner reads an error of an attack in place of a reason."""
    model = gia.models.build(
        "convnet", num_classes=10, image_size=8, channels=1, width=4, generator=torch.Generator().manual_seed(0)
    )
    report = audit(model, against=CLOSED, **SMALL)
    assert report.not_tried["ana_patches"].startswith("this model shares no embedding of patches")
    assert report.not_tried["ana_tokens"].startswith("this model shares no linear layer, or adapter of one, that sees")
