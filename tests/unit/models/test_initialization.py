"""Initial weights: each rule against torch's own, its published distribution, or its definition."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import alexnet

from gia import models


def built(name, init="default", seed=3, **settings):
    """A network on 32 px images."""
    source = torch.Generator().manual_seed(seed)
    return models.build(name, **({"num_classes": 10, "image_size": 32} | settings), init=init, generator=source)


def reference(make, seed=3):
    """What torch draws itself when its global generator has this seed; the global state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (
            lambda: built("lenet"),
            lambda: nn.Sequential(*(nn.Conv2d(channels, 12, 5) for channels in (3, 12, 12)), nn.Linear(768, 10)),
        ),
        (lambda: built("mlp", hidden=(7,)), lambda: nn.Sequential(nn.Linear(3072, 7), nn.Linear(7, 10))),
        (lambda: built("alexnet", image_size=63), lambda: alexnet(num_classes=10)),
    ],
    ids=["lenet", "mlp", "alexnet"],
)
def test_torch_initialization_is_that_of_torch_bit_for_bit(ours, make):
    """If this fails, "default init" is not torch's; the outside reference is torch, seeded alike."""
    for mine, theirs in zip(ours().parameters(), reference(make).parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_dlg_draws_every_weight_and_bias_from_the_same_uniform():
    """If this fails, DLG's victim is not DLG's: U(-0.5, 0.5) on all weights and biases (its released code)."""
    net = built("lenet", "dlg", activation="sigmoid")
    numbers = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    assert numbers.abs().max() <= 0.5
    assert float(numbers.std()) == pytest.approx(1 / math.sqrt(12), rel=0.02)
    biases = torch.cat([p.detach() for p in built("resnet10", "dlg").parameters() if p.ndim == 1])
    assert float(biases.std()) == pytest.approx(1 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_resnets_start_as_torchvisions_do(name):
    """If this fails, an untrained ResNet has other gradients than the paper's: normal, variance 2 / fan-out."""
    for module in built(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
        if isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= 1 / math.sqrt(module.in_features)


def test_vgg_and_googlenet_start_as_torchvisions_do():
    """If this fails, VGG's signal dies before it reaches the loss, or GoogLeNet is not torchvision's."""
    vgg = built("vgg16", width=16)
    for module in vgg.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert module.bias.eq(0).all()
        if isinstance(module, nn.Linear) and module.in_features > 1000:
            assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    fans = [m for m in vgg.modules() if isinstance(m, nn.Conv2d)][5]
    assert float(fans.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * fans.out_channels)), rel=0.05)
    for module in built("googlenet", width=16).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_an_explicit_initialization_overrides_the_networks_own():
    """If this fails, the `init` argument is ignored."""
    own, other = built("resnet10", width=16), built("resnet10", "torch", width=16)
    weight = other.conv1.weight
    assert weight.abs().max() <= 1 / math.sqrt(weight[0].numel())
    assert not torch.equal(own.conv1.weight, weight)


def test_both_dtypes_hold_the_same_network():
    """If this fails, float32 and float64 runs of one seed attack different victims."""
    single, double = built("convnet"), built("convnet", dtype=torch.float64)
    for mine, theirs in zip(single.parameters(), double.parameters(), strict=True):
        assert theirs.dtype == torch.float64
        assert torch.equal(mine.double(), theirs)
