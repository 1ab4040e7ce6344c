"""The imprint block: its size, its cut-offs, its equal columns, and a model that is left alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import gia
from gia.federated.server import Empirical, Gaussian, Laplace, imprint, probed
from tests.contracts.cases import SIZE, private, tangled
from tests.contracts.snapshots import bits, global_state, model_state

SHAPE = (3, SIZE, SIZE)
module = sys.modules[imprint.__module__]
PIXELS = 3 * SIZE**2


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def imprinted(model=None, *, seed=0, **settings):
    """A model with a block of eight bins in front."""
    return imprint(model or tangled(), **{"image_shape": SHAPE, "bins": 8, "generator": seeded(seed), **settings})


@pytest.mark.parametrize("sparse", [False, True])
def test_the_given_model_is_left_alone_and_no_global_state_moves(sparse):
    """If it fails, a server's edit changes the model that it was given, or the caller's random state."""
    model = tangled()
    before = model_state(model), global_state()
    sent = imprinted(model, sparse=sparse)
    assert (model_state(model), global_state()) == before
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in sent.parameters()}
    assert sent.training == model.training


@pytest.mark.parametrize("bins", [1, 7])
def test_the_block_adds_2kd_k_and_d_parameters(bins):
    """arXiv 2503.11514, Fig. 10. If it fails, the block is not the paper's."""
    model = tangled()
    count = sum(p.numel() for p in imprinted(model, bins=bins).parameters()) - sum(
        p.numel() for p in model.parameters()
    )
    assert count == 2 * bins * PIXELS + bins + PIXELS


def test_the_same_generator_gives_the_same_block():
    """If it fails, an experiment cannot be repeated, or the generator is ignored."""
    first, again, other = (imprinted(seed=seed).imprint.spread.weight for seed in (0, 0, 1))
    assert bits(first) == bits(again) != bits(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_rows_measure_the_probe_and_all_columns_are_one(dtype):
    """If it fails, neighbouring bins receive different signals, and their difference mixes images."""
    block = imprinted(tangled().to(dtype), probe=(0, 1), quantiles=Gaussian(0.0, 0.1)).imprint
    images, _ = private(dtype, 0, 1, 2)
    measured = block.measure(images.flatten(1)) - block.measure.bias
    torch.testing.assert_close(measured, probed(images, probe=(0, 1)).to(dtype)[:, None].expand(-1, 8))
    assert block.spread.weight.equal(block.spread.weight[:, :1].expand(-1, 8))
    assert block.spread.weight.any()
    assert block.measure.weight.dtype == block.spread.bias.dtype == dtype


def test_the_probe_is_the_mean_or_a_cosine():
    """Against the mean, and against scipy's DCT-II up to its scale. If it fails, bins sort images by something else."""
    from scipy.fft import dctn

    images, _ = private(torch.float64, 0, 1, 2, 3)
    torch.testing.assert_close(probed(images), images.mean((1, 2, 3)))
    torch.testing.assert_close(probed(images, probe=(0, 0)), images.mean((1, 2, 3)))
    modes = torch.from_numpy(dctn(images.mean(1).numpy(), axes=(1, 2)))[:, 2, 1]
    ratio = probed(images, probe=(2, 1)) / modes
    torch.testing.assert_close(ratio, ratio[:1].expand(4))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Gaussian(0.4, 0.1), stats.norm(0.4, 0.1)), (Laplace(0.4, 0.1), stats.laplace(0.4, 0.1))]
)
def test_quantiles_are_those_of_scipy(ours, theirs):
    """If it fails, bins are not equally likely under the distribution that they are named after."""
    shares = np.array([0.001, 0.25, 0.5, 0.6, 0.999])
    np.testing.assert_allclose(ours(torch.from_numpy(shares)).numpy(), theirs.ppf(shares), rtol=1e-9)


def test_fitted_distributions_and_empirical_quantiles_come_from_the_public_values():
    """Against scipy's maximum-likelihood fits. If it fails, the bins miss the data."""
    values = torch.from_numpy(stats.laplace(0.4, 0.1).rvs(501, random_state=0))
    assert (Laplace.of(values).mean, Laplace.of(values).scale) == pytest.approx(stats.laplace.fit(values.numpy()))
    fitted = Gaussian.of(values)
    assert (fitted.mean, fitted.std) == pytest.approx((float(values.mean()), float(values.std())))
    assert Empirical(values)(torch.tensor([0.25, 0.5])).numpy() == pytest.approx(
        np.quantile(values.numpy(), [0.25, 0.5])
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_every_image_activates_its_bin_down_to_black_and_up_to_white(sparse):
    """If it fails, images darker than the lowest cut-off, or brighter than the last edge, cannot be recovered."""
    model = imprinted(sparse=sparse, quantiles=Gaussian(0.5, 0.2))
    grays = torch.linspace(0, 1, 1001).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    z = model.imprint.measure(grays.flatten(1))
    active = (z > 0) & (z < 1) if sparse else z > 0
    counts = active.sum(1)
    if sparse:  # one bin each; an image on an edge may be in none
        assert counts.max() == 1
        assert (counts == 0).sum() <= 7
        return
    assert counts.min() == 1
    assert counts.max() == 8
    edges = Gaussian(0.5, 0.2)(torch.arange(1, 8, dtype=torch.float64) / 8)
    torch.testing.assert_close(-model.imprint.measure.bias[1:].double(), edges, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 0}, "bins: expected at least 1, got 0"),
        ({"draws": 0}, "draws: expected at least 1, got 0"),
        ({"strength": 0.0}, "strength: expected a positive finite number, got 0"),
        ({"probe": (0, SIZE)}, "probe: expected 'mean' or a mode"),
        ({"quantiles": Gaussian(0.5, 0.0)}, "quantiles: expected 7 that rise strictly"),
        ({"quantiles": Empirical(torch.ones(5))}, "quantiles: expected 7 that rise strictly"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    """If it fails, a block without bins, or with two bins at one cut-off, is sent."""
    with pytest.raises(ValueError, match=message):
        imprinted(**settings)


def test_the_pattern_is_the_one_on_which_labels_differ_least():
    """Of 32 draws against the first alone, on three victims: from dark to bright images, the weakest label's signal
    is a larger part of the strongest's. If it fails, float32 loses the images of unlucky labels."""

    def evenness(seed, draws):
        model = gia.models.build("convnet", num_classes=10, image_size=SIZE, width=8, generator=seeded(seed)).eval()
        sent = imprinted(model, seed=seed, draws=draws, bins=100)
        found = []
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            gray = torch.full((1, *SHAPE), stats.norm(0.48, 0.12).ppf(share))
            for label in range(10):
                gradients = gia.share_gradient(sent, gray, torch.tensor([label])).gradients
                found.append(gradients["imprint.measure.bias"].abs().max())
        return float(min(found) / max(found))

    pairs = [(evenness(seed, 1), evenness(seed, 32)) for seed in range(3)]
    assert all(best >= 0.999 * first for first, best in pairs), pairs
    assert sum(best > 1.5 * first for first, best in pairs) >= 2, pairs


class Once(torch.autograd.Function):
    """A doubling that autograd differentiates once only."""

    @staticmethod
    def forward(ctx, x):
        """Twice x."""
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        """Twice the slope."""
        return 2 * slope


class Doubling(nn.Module):
    """A layer that float32's derivatives cannot pass."""

    def forward(self, x):
        """Twice x."""
        return Once.apply(x)


@pytest.mark.parametrize("own", [nn.Identity, Doubling])
@pytest.mark.parametrize("seed", range(3))
def test_the_pattern_is_the_one_that_float64_chooses(own, seed, monkeypatch):
    """Among twelve draws, also where a model is differentiated once only. If it fails, float32's rounding decides."""
    net = gia.models.build("convnet", num_classes=6, image_size=SIZE, width=8, generator=seeded(seed)).eval()
    model = nn.Sequential(own(), net)
    sent = imprinted(model, seed=seed, draws=12)
    monkeypatch.setattr(module, "_contenders", lambda patterns, *_: list(range(len(patterns))))
    assert bits(sent.imprint.spread.weight) == bits(imprinted(model, seed=seed, draws=12).imprint.spread.weight)


def test_few_patterns_are_tried_in_float64(monkeypatch):
    """If it fails, making a block takes five times as long as it has to."""
    model = gia.models.build("convnet", num_classes=6, image_size=SIZE, width=8, generator=seeded()).eval()
    seen = []
    original = module._contenders
    monkeypatch.setattr(module, "_contenders", lambda *given: (seen.append(original(*given)), seen[-1])[1])
    for seed in range(6):
        imprinted(model, seed=seed, draws=12)
    assert sum(map(len, seen)) < 6 * 12 / 3, seen


def test_a_model_of_other_images_is_an_error():
    """If it fails, a block of another size is put in front, and the error comes when a client runs it."""
    with pytest.raises(ValueError, match="image_shape: expected a shape that the model takes, got"):
        imprinted(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)))
