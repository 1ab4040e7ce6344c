"""Trained weights: they recognize real images, which random or misplaced weights do not."""

import pytest
import torch

from gia import data, models


def right(name, images):
    """How many of the images the network puts into their class, and the network."""
    net = models.pretrained(name)
    with torch.no_grad():
        return int((net(images.images).argmax(1) == images.labels).sum()), net


def test_the_cifar_network_recognizes_all_twenty_samples():
    """If this fails, a layer is transposed, in another order or wrongly normalized (design note: 20 of 20)."""
    count, net = right("cifar10-cnn", data.load("cifar10-samples"))
    assert count == 20
    assert not net.training
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) == 6


def test_the_imagenet_network_gives_the_logits_of_its_publishers_code():
    """If this fails, padding or standardization is off by a little, which the count of right answers does not see.

    Expected: logits 0, 243, 500, 999 of the first sample by efficientnet-lite-pytorch 0.1.0 on (255 x - 127) / 128,
    torch 2.14.1, CPU; over all samples the two codes differed by at most 6.5e-6.
    """
    with torch.no_grad():
        logits = models.pretrained("efficientnet-lite0")(data.load("imagenet-samples").images[:1])
    assert logits[0, [0, 243, 500, 999]].tolist() == pytest.approx([0.4904, 10.2566, -1.115, 1.8334], abs=2e-3)


def test_the_imagenet_network_recognizes_seventeen_of_twenty_samples():
    """If this fails, weights are in another order or untrained (design note: 17 of 20)."""
    count, net = right("efficientnet-lite0", data.load("imagenet-samples"))
    assert count == 17
    # Google's EfficientNet-Lite: 4.7 M parameters
    assert sum(p.numel() for p in net.parameters()) == 4_652_008


def test_batch_norm_statistics_are_those_of_real_images():
    """If this fails, a prior on the statistics pulls toward nothing: real images must lie nearer to them than noise."""
    net, samples = models.pretrained("cifar10-cnn"), data.load("cifar10-samples").images
    layer = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        net(samples)
        net(torch.rand(samples.shape, generator=torch.Generator().manual_seed(0)))
    real, noise = (((mean - layer.running_mean) / layer.running_var.sqrt()).norm() for mean in seen)
    assert real < noise / 2


def test_the_face_decoder_draws_different_smooth_faces_in_range():
    """If this fails, the decoder is untrained or its range is [-1, 1].

    A face is lit from its middle: the centre of these samples is brighter than the border, which noise is not, and
    neighbouring pixels differ little.
    """
    decoder = models.pretrained("face-decoder")
    latents = torch.randn(16, *decoder.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = decoder(latents)
    assert images.shape == (16, 3, 64, 64)
    assert 0 <= images.min() < 0.05
    assert 0.9 < images.max() <= 1
    assert (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean() < 0.05
    assert images[:, :, 16:48, 16:48].mean() > 1.1 * images[:, :, :8].mean()
    assert torch.pdist(images.flatten(1)).min() > 5


def test_loading_moves_no_random_numbers_and_unknown_names_are_refused():
    """If this fails, loading weights changes what another attack draws."""
    state = torch.get_rng_state()
    for name in models.PRETRAINED:
        assert all(tensor.device.type == "cpu" for tensor in models.pretrained(name).state_dict().values())
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="name: expected one of"):
        models.pretrained("resnet18")
