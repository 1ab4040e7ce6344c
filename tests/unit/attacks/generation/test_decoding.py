"""Decoders as attacks use them: copies, pictures in the client's form, one decoder per trial, one gradient for all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool2d, cosine_similarity, cross_entropy

import gia
from gia.attacks.generation.decoding import Decoders, as_images, decoder_for, draw_latents, matched
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine
from gia.attacks.priors import TotalVariation
from tests.contracts.cases import CASES, build, share

F64 = torch.float64


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def small(seed=0, shape=(3, 8, 8)):
    """An untrained decoder."""
    return gia.models.OverParameterized(image_shape=shape, batch_size=2, generator=seeded(seed))


class Labelled(nn.Module):
    """A decoder of gray images whose brightness is that of its label."""

    latent_shape = (2,)

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, latents, labels):
        return (self.scale * labels + 0 * latents[:, 0])[:, None, None, None].expand(-1, 1, 4, 4)


def test_pictures_of_the_right_form_are_left_as_they_are():
    """If it fails, a decoder of the client's own resolution is blurred."""
    pictures = torch.rand(2, 3, 8, 8, generator=seeded())
    assert as_images(pictures, (3, 8, 8)).equal(pictures)


def test_pictures_are_shrunk_without_aliases():
    """Every fourth column white becomes a quarter of white. If it fails, pixels are left out, and stripes with them."""
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::4] = 1
    inner = as_images(stripes, (1, 16, 16))[..., 1:-1]
    assert inner.numpy() == pytest.approx(0.25, abs=1e-6)
    smooth = avg_pool2d(torch.rand(1, 1, 8, 8, generator=seeded()).repeat_interleave(8, 2).repeat_interleave(8, 3), 8)
    assert as_images(smooth, (1, 4, 4)).mean() == pytest.approx(float(smooth.mean()), abs=0.05)


def test_color_becomes_gray_by_brightness_and_gray_becomes_color_by_three_equal_channels():
    """Against Pillow's "L", an outside reference, to its rounding. If it fails, a gray client's faces have other
    tones."""
    from PIL import Image

    color = (255 * torch.rand(3, 4, 4, generator=seeded())).byte()
    pillow = torch.tensor(list(Image.fromarray(color.permute(1, 2, 0).numpy()).convert("L").tobytes())).view(4, 4)
    gray = as_images(color[None] / 255, (1, 4, 4))
    assert (255 * gray[0, 0]).numpy() == pytest.approx(pillow.numpy(), abs=1)
    back = as_images(gray, (3, 4, 4))
    assert all(back[:, channel].equal(gray[:, 0]) for channel in range(3))


@given(
    channels=st.sampled_from([1, 3]), own=st.sampled_from([1, 3]), height=st.integers(1, 20), width=st.integers(1, 20)
)
def test_pictures_take_any_client_s_shape_and_stay_in_the_box(channels, own, height, width):
    """If it fails, an attack ends in a torch error, or leaves [0, 1] by the resizing alone."""
    images = as_images(torch.rand(2, own, 12, 9, generator=seeded()), (channels, height, width))
    assert images.shape == (2, channels, height, width)
    assert 0 <= images.min() <= images.max() <= 1 + 1e-6


def test_what_is_no_decoder_is_named():
    """If it fails, a wrong module surfaces as a torch error deep inside a search."""
    like = torch.zeros(1)
    with pytest.raises(TypeError, match=r"decoder: expected a torch\.nn\.Module, got str"):
        decoder_for("face-decoder", like)
    with pytest.raises(ValueError, match="decoder: expected a module whose latent_shape"):
        decoder_for(nn.Linear(2, 2), like)
    with pytest.raises(ValueError, match=r"decoder: expected images \(N, C, H, W\), got \(2, 3\)"):
        as_images(torch.zeros(2, 3), (3, 8, 8))
    with pytest.raises(ValueError, match="decoder: expected images with 1, 3 or 3 channels, got 2"):
        as_images(torch.zeros(1, 2, 8, 8), (3, 8, 8))


def test_a_decoder_is_copied_frozen_and_moved():
    """If it fails, an attack trains, converts or thaws the user's own decoder."""
    mine = small()
    copied = decoder_for(mine, torch.zeros(1, dtype=F64))
    assert {p.dtype for p in copied.parameters()} == {F64}
    assert not any(p.requires_grad for p in copied.parameters())
    assert {p.dtype for p in mine.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in mine.parameters())


def test_trials_have_weights_of_their_own():
    """Against each decoder run alone. If it fails, trials share weights, latents or batch statistics."""
    each = [small(seed).double() for seed in range(3)]
    latents = draw_latents(each[0], 2, [seeded(seed) for seed in range(3)], torch.zeros(1, dtype=F64))
    alone = torch.stack([decoder(z) for decoder, z in zip(each, latents, strict=True)])
    decoders = Decoders([decoder_for(decoder, latents) for decoder in each], (3, 8, 8))
    together = decoders(decoders.weights, latents, torch.zeros(3, 2, dtype=torch.int64))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    assert not latents[0].equal(latents[1])


def test_a_decoder_in_train_mode_normalizes_each_trial_by_itself_and_keeps_no_statistics():
    """If it fails, running statistics leak from trial to trial, or a decoder with them cannot be searched at all."""
    decoder = nn.Sequential(nn.Linear(4, 3 * 64), nn.Unflatten(1, (3, 8, 8)), nn.BatchNorm2d(3), nn.Sigmoid()).double()
    decoder.latent_shape = (4,)
    latents = torch.randn(2, 5, 4, generator=seeded(), dtype=F64)
    labels = torch.zeros(2, 5, dtype=torch.int64)
    for training in (True, False):
        own = decoder_for(decoder.train(training), latents)
        decoders = Decoders([own] * 2, (3, 8, 8))
        found = decoders(decoders.weights, latents, labels)
        before = decoder[2].running_mean.clone()
        expected = torch.stack([decoder(z) for z in latents])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        decoder[2].running_mean.copy_(before)
    assert not decoder[2].running_mean.any()


def test_a_decoder_that_asks_for_labels_gets_them():
    """If it fails, a class-conditional decoder draws every image of another class than the client's."""
    own = decoder_for(Labelled(), torch.zeros(1))
    decoders = Decoders([own], (1, 4, 4))
    found = decoders(decoders.weights, torch.zeros(1, 2, 2), torch.tensor([[3, 7]]))
    assert found[0, :, 0, 0, 0].tolist() == pytest.approx([0.3, 0.7])


def test_pictures_outside_the_box_and_random_ones_are_refused():
    """If it fails, a decoder with outputs in [-1, 1] is searched against an objective of clamped images, or one with
    dropout moves the global random state."""
    own = decoder_for(Labelled(), torch.zeros(1))
    with pytest.raises(ValueError, match=r"decoder: expected images in \[0, 1\], got values from 0.3 to 1.1"):
        Decoders([own], (1, 4, 4))([torch.tensor([0.1])], torch.zeros(1, 2, 2), torch.tensor([[3, 11]]))
    random = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))
    random.latent_shape = (2,)
    decoders = Decoders([random], (1, 4, 4))
    with pytest.raises(ValueError, match=r"decoder: expected one that torch\.func\.vmap can run, got .*random"):
        decoders(decoders.weights, torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("priors", [[], [TotalVariation(0.3)]], ids=["alone", "with total variation"])
def test_the_gradient_is_that_of_the_whole_composition(priors):
    """Against one double backward through victim and decoder together, without the engine. If it fails, the weights
    move along something else than the objective that is reported."""
    case = CASES["ci_net"]
    model = build(case, F64)
    observation = share(case, model, 0, 1)
    decoder = small().double()
    latents = torch.randn(1, 2, 128, generator=seeded(), dtype=F64)
    decoders = Decoders([decoder_for(decoder, latents)], (3, 8, 8))
    problem = Matching(model, [observation], objective=Cosine(), loss=cross_entropy)

    def decode(weights):
        return decoders(weights, latents, problem.labels)

    point = matched(problem, decode, decoders.weights, problem.labels, slice(None), priors)
    images = decoder(latents[0])
    names = list(observation.gradients)
    parameters = [dict(model.named_parameters())[name] for name in names]
    loss = cross_entropy(model(images), observation.labels)
    mine = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    theirs = torch.cat([observation.gradients[name].flatten() for name in names])
    objective = 1 - cosine_similarity(mine, theirs, dim=0) + sum(prior(images[None])[0] for prior in priors)
    expected = torch.autograd.grad(objective, list(decoder.parameters()))
    assert float(point.values) == pytest.approx(float(objective.detach()), rel=1e-10)
    for found, wanted in zip(point.gradients, expected, strict=True):
        torch.testing.assert_close(found[0], wanted, rtol=1e-8, atol=1e-14)
