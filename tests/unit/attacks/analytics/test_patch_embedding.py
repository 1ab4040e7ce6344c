"""A single image from the gradients of patch and position embeddings, whatever follows, and where that ends."""

import pytest
import torch
from torch import nn

import gia
from gia.attacks import NothingFound, patch_embedding
from gia.attacks.analytics.patch_embedding import Embedding, embedding_of

pytest.importorskip("timm", reason="Vision Transformers need the package timm")


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def vit(size=16, width=48, **settings):
    """A Vision Transformer with patches of 4 pixels, in float32 as clients train it."""
    sizes = {"patch": 4, "width": width, "depth": 2, "heads": 2, "num_classes": 10, "image_size": size, **settings}
    return gia.models.build("vit_tiny", **sizes, generator=seeded())


def private(size=16, count=1):
    """CIFAR-10 test images with their labels."""
    data = gia.data.load("cifar10-samples", image_size=size)
    return data.images[:count], data.labels[:count]


def error(model, *, size=16, count=1, smoothness=0.3, **client):
    """Largest difference of a pixel from the first image, and the attack's result."""
    images, labels = private(size, count)
    images = images.to(next(model.parameters()).dtype)
    observation = gia.federated.Client(images, labels, reveal=("labels", "local"), **client).answer(model)
    found = patch_embedding(model, observation, generator=seeded(), smoothness=smoothness)
    return float((found.images[0] - images[0]).abs().max()), found


@pytest.mark.parametrize("depth", [1, 6])
def test_a_single_image_is_exact_in_float32_at_any_depth(depth):
    """Sixteen patches, width 48. If it fails, the products of positions and patches are misread."""
    apart, found = error(vit(depth=depth))
    assert apart < 1e-3
    assert found.exact.tolist() == [True]


def test_it_does_not_matter_what_follows_the_embedding():
    """torchvision's form, GELU and a pooled head against timm's. If it fails, the attack reads more than it says."""
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 48, "mlp_dim": 32}
    net = VisionTransformer(**sizes, num_classes=10)
    with pytest.raises(NothingFound, match=r"expected an entry other than 0 in 'encoder\.pos_embedding', got zeros"):
        error(net)  # its classifier of zeros lets no gradient through
    nn.init.normal_(net.heads.head.weight, generator=seeded())
    assert error(net)[0] < 1e-3
    assert embedding_of(net, gia.share_gradient(net, *private())) == Embedding(
        "conv_proj.weight", "encoder.pos_embedding", 4
    )


def test_standardization_is_taken_back():
    """If it fails, images come back in the units of the network."""
    net = gia.models.standardize(vit(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    assert error(net)[0] < 1e-3


def test_local_steps_on_one_image_add_up():
    """The update is a sum of the same products. If it fails, an update is refused or misread."""
    local = gia.federated.LocalTraining(epochs=3, batch_size=1, lr=0.1)
    apart, found = error(vit().double(), local=local)
    assert apart < 1e-3
    assert found.exact.tolist() == [False]  # local training is not simulated


def test_a_width_below_the_number_of_patches_leaves_directions_that_a_smooth_image_fills_in():
    """Sixteen patches, width 12. If it fails, open directions stay gray, or a filled-in image passes for exact."""
    images, _ = private()
    found = [error(vit(width=12), smoothness=smoothness)[1] for smoothness in (0.0, 0.3)]
    psnr = [float(gia.metrics.psnr(each.images, images)) for each in found]
    assert psnr[1] > psnr[0] + 1
    assert not any(each.exact.any() for each in found)


def test_noise_on_the_gradient_is_weighed_against_smoothness():
    """Least squares fit the noise. If it fails, the misfit of the equations is not seen."""
    images, _ = private()
    noisy = {"defenses": (gia.defenses.noise(std=1e-4),)}
    psnr = [
        float(gia.metrics.psnr(error(vit(), smoothness=each, defense_generator=seeded(), **noisy)[1].images, images))
        for each in (0.0, 0.3)
    ]
    assert psnr[1] > psnr[0] + 3


def test_two_images_come_back_as_a_combination_and_are_not_believed_to_be_exact():
    """If it fails, a mixture passes for an image."""
    apart, found = error(vit(), count=2)
    assert apart > 1e-2
    assert found.exact.tolist() == [False, False]
    assert found.images.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("frozen", ["pos_embed", "patch_embed"])
def test_a_model_that_shares_only_one_of_the_two_gradients_is_refused(frozen):
    """If it fails, another parameter of the same shape is taken for it."""
    net = vit()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(frozen not in name)
    with pytest.raises(ValueError, match="model: expected the gradients of a convolution that embeds the patches"):
        error(net)


def test_position_embeddings_that_are_not_added_to_the_patches_are_refused():
    """They are scaled here, so their gradient is another. If it fails, a wrong image comes back as a result."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.positions = nn.Conv2d(3, 48, 4, 4), nn.Parameter(torch.ones(1, 16, 48))
            self.head = nn.Linear(48, 10)

        def forward(self, images):
            return self.head((self.patches(images).flatten(2).mT * self.positions).tanh().mean(1))

    with pytest.raises(ValueError, match="model: expected the gradients of a convolution that embeds the patches"):
        error(Scaled())


def test_gradients_of_zeros_and_a_negative_weight_are_refused():
    """If it fails, an image comes back of nothing."""
    net = vit()
    shared = gia.share_gradient(net, *private())
    zeros = {name: torch.zeros_like(value) for name, value in shared.gradients.items()}
    with pytest.raises(NothingFound, match="gradients: expected an entry other than 0"):
        patch_embedding(net, gia.Observation(zeros, image_shape=(3, 16, 16), batch_size=1), generator=seeded())
    with pytest.raises(ValueError, match="smoothness: expected a weight >= 0, got -1"):
        patch_embedding(net, shared, generator=seeded(), smoothness=-1)
