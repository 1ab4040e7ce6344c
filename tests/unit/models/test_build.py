"""Victims by name: the published networks, any width and activation, weights from the generator alone."""

import math
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gia import models
from gia.models import building, large
from gia.models.activations import ACTIVATIONS
from gia.models.transformers import VITS

# One of each kind: the deeper ResNets are the same code with longer lists of blocks.
# Vision Transformers have tests of their own, in test_transformers.py.
KINDS = [name for name in models.NAMES if name not in ("resnet18", "resnet34", "resnet101", *VITS)]
SMALL = {"num_classes": 10, "image_size": 32, "width": 8}


def generator(seed=0):
    """A new generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)


def made(name, seed=0, **settings):
    """A small network of this name; AlexNet has the stem that fits 32 px."""
    stem = {"stem": "3x3"} if name == "alexnet" else {}
    return models.build(name, **(SMALL | stem | settings), generator=generator(seed))


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        # torchvision's published counts (weights' meta num_params), for its stems and 1000 classes
        ("resnet18", {"stem": "7x7", "num_classes": 1000}, 11_689_512),
        ("resnet34", {"stem": "7x7", "num_classes": 1000}, 21_797_672),
        ("resnet50", {"stem": "7x7", "num_classes": 1000}, 25_557_032),
        ("resnet101", {"stem": "7x7", "num_classes": 1000}, 44_549_160),
        ("alexnet", {"num_classes": 1000}, 61_100_840),
        ("vgg16", {"num_classes": 1000}, 138_357_544),
        ("googlenet", {"num_classes": 1000}, 6_624_904),
        # He et al., 2016, Table 6: 0.27 M
        ("resnet20", {"num_classes": 10}, 269_722),
        # The same formula, n = 1: 3*3 kernels 3-16, two 16-16, 16-32, 32-32, 32-64, 64-64, two numbers a normalization.
        ("resnet8", {"num_classes": 10}, 9 * (48 + 512 + 512 + 1024 + 2048 + 4096) + 2 * (3 * 16 + 64 + 128) + 650),
        # DLG's released LeNet: 12 channels, 768 features: 912 + 2 * 3612 + 769 * 100
        ("lenet", {"num_classes": 100, "image_size": 32}, 85_036),
        ("lenet", {"num_classes": 100, "image_size": 32, "depth": 4}, 88_648),
        # 75*32 + 32 + 2 * (800*32 + 32) + 2049 * ... : 2432 + 2 * 25632 + 20490
        ("convnet", {"num_classes": 10, "image_size": 32}, 74_186),
        ("mlp", {"num_classes": 10, "image_size": 8, "channels": 1, "hidden": (5, 4)}, 65 * 5 + 6 * 4 + 5 * 10),
    ],
)
def test_a_network_has_the_published_number_of_parameters(name, arguments, count, monkeypatch):
    """If this fails, a victim is another network than its name says."""
    monkeypatch.setattr(building, "initialize", lambda net, init, generator: None)  # 138 M numbers take seconds
    net = models.build(name, **({"image_size": 224} | arguments), generator=generator())
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_torchvisions_network_computes_the_same_from_the_same_weights(name):
    """If this fails, swapping activations or widths changed the network; torchvision's class is the reference."""
    ours = models.build(name, num_classes=10, image_size=64, stem="7x7", generator=generator()).eval()
    settings = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    theirs = getattr(torchvision.models, name)(num_classes=10, **settings).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 64, 64, generator=generator())
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("size", [1, 2, 5, 7, 13, 14])
def test_average_pooling_is_torchs_adaptive_one(size):
    """If this fails, VGG-16 and AlexNet see other features than torchvision's; rounding differs, 1e-12 in float64."""
    inputs = torch.rand(2, 3, size, size + 3, generator=generator(), dtype=torch.float64)
    ours = large._AveragePool(7)(inputs)
    assert (ours - nn.functional.adaptive_avg_pool2d(inputs, 7)).abs().max() < 1e-12


@pytest.mark.parametrize("name", [name for name in models.NAMES if name not in VITS])
def test_every_network_maps_small_images_to_logits_and_gradients(name):
    """If this fails, a name of the table cannot be attacked at 32 px: it must have gradients of gradients."""
    net = made(name, channels=1, activation="sigmoid", dtype=torch.float64)
    images = torch.rand(2, 1, 32, 32, generator=generator(), dtype=torch.float64, requires_grad=True)
    logits = net(images)
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float64
    gradients = torch.autograd.grad(logits.logsumexp(1).sum(), list(net.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradients), images)
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize("name", KINDS)
def test_weights_come_from_the_generator_alone(name):
    """If this fails, a block cannot be repeated, or building a model moves somebody else's random numbers."""
    state = torch.get_rng_state()
    first, again, other = made(name), made(name), made(name, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    for value, repeated in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(value, repeated)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    for module in first.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
            assert torch.equal(module.running_var, torch.ones_like(module.running_var))
            assert int(module.num_batches_tracked) == 0


@pytest.mark.parametrize("name", KINDS)
def test_a_forward_pass_draws_no_random_numbers_and_has_no_dropout(name):
    """If this fails (dropout, RReLU's slopes), a client's gradient cannot be simulated, and the global RNG moves."""
    net = made(name, activation="rrelu").train()
    images = torch.rand(2, 3, 32, 32, generator=generator())
    state = torch.get_rng_state()
    assert torch.equal(net(images), net(images))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_the_activation_replaces_every_relu(name, activation, monkeypatch):
    """If this fails, "a Sigmoid ResNet" still has ReLUs, or changes a tensor in place that a gradient needs."""
    net = made(name, activation=activation)

    def forbidden(*arguments, **settings):
        raise AssertionError("relu was called")

    for owner in (nn.functional, torch):
        monkeypatch.setattr(owner, "relu", forbidden)
    monkeypatch.setattr(torch.Tensor, "relu_", forbidden)
    net(torch.rand(2, 3, 32, 32, generator=generator()))
    assert any(type(module) is ACTIVATIONS[activation] for module in net.modules())
    assert not any(isinstance(module, nn.ReLU) for module in net.modules())


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sigmoid", lambda x: 1 / (1 + (-x).exp())),
        ("relu", lambda x: x.clamp(min=0)),
        ("tanh", torch.tanh),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("rrelu", lambda x: torch.where(x > 0, x, x * 11 / 48)),  # mean of U(1/8, 1/3)
        ("gelu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
        ("silu", lambda x: x / (1 + (-x).exp())),
        ("sigmoid(4x)", lambda x: 1 / (1 + (-4 * x).exp())),
        ("sigmoid(2x)", lambda x: (1 + torch.tanh(x)) / 2),
        ("sigmoid(x/2)", lambda x: 1 / (1 + (-x / 2).exp())),
        ("sigmoid/4", lambda x: 0.25 / (1 + (-x).exp())),
        ("4*sigmoid", lambda x: 4 / (1 + (-x).exp())),
        ("sigmoid-1/2", lambda x: torch.tanh(x / 2) / 2),
        ("linear", lambda x: x),
    ],
)
def test_an_activation_is_the_function_of_its_name(name, reference):
    """If this fails, an architecture claim compares other activations than it says."""
    inputs = torch.linspace(-3, 3, 61, dtype=torch.float64)
    activation = ACTIVATIONS[name]().train()
    assert (activation(inputs) - reference(inputs)).abs().max() < 1e-12
    assert not getattr(activation, "inplace", False)


def test_the_small_net_costs_what_the_attack_notes_were_measured_on():
    """If this fails, "the ReLU net" of the reference numbers is another one: 7.8 MFLOP forward at 32 px."""
    net = models.build("convnet", num_classes=10, image_size=32, generator=generator())
    images = torch.rand(1, 3, 32, 32, generator=generator())
    with FlopCounterMode(display=False) as counter:
        net(images)
    assert counter.get_total_flops() == pytest.approx(7.8e6, rel=0.01)


@pytest.mark.parametrize(("size", "features"), [(32, 8 * 8), (33, 9 * 9), ((28, 17), 7 * 5), (1, 1)])
def test_a_strided_net_fits_any_image_size(size, features):
    """If this fails, odd or oblong images (faces are 112 x 92) break the linear layer."""
    net = models.build("lenet", num_classes=3, image_size=size, channels=1, width=4, generator=generator())
    assert net.fc.in_features == 4 * features
    height, width = (size, size) if isinstance(size, int) else size
    assert net(torch.zeros(2, 1, height, width)).shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "alexnet", "vgg16", "googlenet"])
def test_all_widths_scale_together(name):
    """If this fails, a width factor leaves layers at full size, or the classes are scaled too."""
    narrow = dict(made(name, width=8).named_parameters())
    full_names = {key: value.shape for key, value in made(name, width=16).named_parameters()}
    assert full_names.keys() == narrow.keys()
    first, last = next(iter(narrow)), [key for key in narrow if key.endswith("weight")][-1]
    assert narrow[first].shape[:2] == (8, 3)
    assert narrow[last].shape[0] == 10
    for key, shape in full_names.items():
        ratio = math.prod(shape) / narrow[key].numel()
        edge = key in (first, last) or narrow[key].ndim == 1
        assert ratio == (1 if shape == (10,) else 2 if edge else 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "resnet9"}, ValueError, "name: expected one of ['alexnet', 'convnet'"),
        ({"activation": "swish"}, ValueError, "activation: expected one of ['4*sigmoid', 'gelu', 'leaky_relu'"),
        ({"init": "zero"}, ValueError, "init: expected one of ['default', 'dlg'"),
        ({"dtype": torch.float16}, ValueError, "dtype: expected one of"),
        ({"num_classes": 0}, ValueError, "num_classes: expected at least 1, got 0"),
        ({"image_size": (32, 0)}, ValueError, "image_size: expected at least 1, got 0"),
        ({"width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"stem": "3x3"}, TypeError, "stem: expected only options of lenet, ['depth']"),
        ({"depth": 0}, ValueError, "depth: expected at least 1, got 0"),
        ({"name": "mlp", "hidden": (4, 0)}, ValueError, "hidden: expected sizes of at least 1, got (4, 0)"),
        ({"name": "resnet18", "stem": "5x5"}, ValueError, "stem: expected one of ['3x3', '7x7'], got '5x5'"),
        ({"name": "googlenet", "width": 6}, ValueError, "width: expected a multiple of 8 for this network, got 6"),
        ({"name": "alexnet"}, ValueError, "image_size: expected at least 63 for alexnet, got (32, 32)"),
        ({"name": "vgg16", "image_size": 31}, ValueError, "image_size: expected at least 32 for vgg16, got (31, 31)"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    """If this fails, a wrong request builds another network, or fails deep inside torch."""
    with pytest.raises(error, match=re.escape(message)):
        models.build(**({"name": "lenet", "num_classes": 10, "image_size": 32} | arguments), generator=generator())


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("alexnet", {"stem": "11x11"}, 63),
        ("alexnet", {"stem": "3x3"}, 15),
        ("vgg16", {}, 32),
        ("googlenet", {"stem": "7x7"}, 15),
        ("googlenet", {"stem": "3x3"}, 4),
    ],
)
def test_the_least_image_size_is_the_least_that_the_network_takes(name, options, least):
    """If this fails, a size is refused that would work, or accepted and then fails inside torch."""
    net = models.build(name, num_classes=10, image_size=least, width=8, generator=generator(), **options).eval()
    assert net(torch.zeros(2, 3, least, least)).shape == (2, 10)
    with pytest.raises(RuntimeError, match=r"too small|can.t be greater"):
        net(torch.zeros(2, 3, least - 1, least - 1))
    with pytest.raises(ValueError, match=f"image_size: expected at least {least} for {name}"):
        models.build(name, num_classes=10, image_size=least - 1, width=8, generator=generator(), **options)


@pytest.mark.parametrize("name", [name for name in models.NAMES if name not in VITS])
def test_the_default_dtype_does_not_change_the_weights(name):
    """If it fails, `torch.set_default_dtype` in a user's code changes which network a seed gives."""

    def make():
        g = torch.Generator().manual_seed(0)
        return models.build(name, num_classes=10, image_size=64, width=8, generator=g).parameters()

    plain = list(make())
    torch.set_default_dtype(torch.float64)
    try:
        other = list(make())
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(plain, other, strict=True))


IMPORTS = """
import sys
import torch

class Watching:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if torch.empty(0).device.type != "cpu":
            print(name)

sys.meta_path.insert(0, Watching)
import gia
gia.models.NAME
"""


@pytest.mark.parametrize(
    "call",
    [
        'build("resnet18", num_classes=2, image_size=8, width=2, generator=torch.Generator())',
        'build("vit_tiny", num_classes=2, image_size=8, patch=4, width=4, depth=1, generator=torch.Generator())',
        'pretrained("dinov2-small")',
        'pretrained("cifar10-cnn")',
    ],
)
def test_nothing_is_imported_while_tensors_are_made_on_meta(call):
    """In torch 2.6 its compiler, which torchvision and timm import, cannot be imported there. If this fails, the first
    network of a process cannot be made."""
    if "vit" in call or "dino" in call:
        pytest.importorskip("timm", reason="Vision Transformers need the package timm")
    code = IMPORTS.replace("NAME", call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
