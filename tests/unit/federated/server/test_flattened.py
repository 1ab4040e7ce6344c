"""Blocks that all see the patches: what they give away through adapters of a low rank, and that a client notices."""

import pytest
import torch

import gia
from gia.attacks import patch_span
from gia.federated.server import flatten_blocks

pytest.importorskip("timm", reason="Vision Transformers need the package timm")
pytest.importorskip("peft", reason="low-rank adapters need the package peft")


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def adapted(rank, **settings):
    """Twelve blocks with adapters of this rank, for images of 16 pixels: 17 tokens."""
    sizes = {"num_classes": 10, "image_size": 16, "patch": 4, "width": 96, "depth": 12, "heads": 4, **settings}
    net = gia.models.build("vit_tiny", **sizes, generator=seeded())
    return gia.models.lora(net, rank=rank, generator=seeded())


def psnr(model):
    """Of the first CIFAR-10 test image, in float32."""
    data = gia.data.load("cifar10-samples", image_size=16)
    observation = gia.share_gradient(model, data.images[:1], data.labels[:1])
    return float(gia.metrics.psnr(patch_span(model, observation, generator=seeded()).images, data.images[:1]))


def test_adapters_of_rank_four_give_the_image_away_where_honest_ones_do_not():
    """PSNR of 75 dB and 12 dB were seen. If it fails, the upper end of what adapters leak is too low."""
    honest = adapted(4)
    assert psnr(flatten_blocks(honest, generator=seeded(1))) > 40
    assert psnr(honest) < 18


def test_a_client_that_knows_the_agreed_model_notices():
    """If it fails, validation does not see the manipulation."""
    honest = adapted(4, depth=2)
    sent = flatten_blocks(honest, generator=seeded(1))
    assert not gia.validate_model(sent, honest).ok
    assert gia.validate_model(honest, honest).ok


def test_the_model_is_not_changed_and_settings_out_of_range_are_refused():
    """If it fails, the agreed model is edited in place, or a mistyped setting sends an honest model."""
    honest = adapted(2, depth=1)
    before = {name: value.clone() for name, value in honest.state_dict().items()}
    flatten_blocks(honest, generator=seeded())
    assert all(value.equal(before[name]) for name, value in honest.state_dict().items())
    with pytest.raises(ValueError, match=r"scale: expected a factor in \(0, 1\), got 1"):
        flatten_blocks(honest, scale=1, generator=seeded())
    with pytest.raises(ValueError, match="sharpness: expected a factor > 0, got 0"):
        flatten_blocks(honest, sharpness=0, generator=seeded())
    with pytest.raises(ValueError, match="model: expected blocks of timm's Vision Transformers with low-rank adapters"):
        flatten_blocks(torch.nn.Linear(2, 2), generator=seeded())
