"""GIAS: the published settings, latents before weights, and the priors on both."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cosine_similarity, cross_entropy

import gia
from gia.attacks.generation import gias
from gia.attacks.generation.decoding import as_images
from gia.attacks.generation.gias import LatentDivergence
from gia.attacks.priors import TotalVariation
from gia.attacks.schedules import constant
from tests.contracts.cases import CASES, build, share

CASE = CASES["gias"]


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def small():
    """An untrained decoder."""
    return gia.models.OverParameterized(image_shape=(3, 8, 8), batch_size=1, generator=seeded())


def victim():
    """The victim of the easy case."""
    return build(CASE, torch.float64)


def test_the_defaults_are_the_published_ones():
    """Jeon et al., 2021: Adam of 3e-2 on z for 500 steps, of 1e-3 on the weights for 5,000, total variation 1e-6. If
    it fails, the published settings are not."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(gias).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert defaults == {
        "steps": 5_500,
        "latent_steps": 500,
        "latent_lr": 3e-2,
        "weight_lr": 1e-3,
        "schedule": constant,
        "converged": None,
        "objective": None,
        "total_variation": 1e-6,
        "divergence": 0.1,
        "decoder": None,
        "loss": cross_entropy,
        "callback": None,
    }


def test_the_latents_move_first_and_then_the_weights_alone():
    """If it fails, z drifts while the weights are fitted, the weights move from the start, or a step size is the
    other's: Adam's first step is its step size, whatever the gradient."""
    model, seen = victim(), []
    gias(
        model,
        share(CASE, model, 0),
        generator=seeded(),
        steps=5,
        latent_steps=2,
        latent_lr=0.25,
        weight_lr=0.125,
        decoder=small(),
        callback=lambda progress: seen.append([variable.clone() for variable in progress.variables]),
    )
    z, weight = ([step[index] for step in seen] for index in (0, -1))  # the bias of the last layer
    assert (z[1] - z[0]).abs().max() == pytest.approx(0.25, rel=1e-3)
    assert not z[2].equal(z[1])
    assert z[2].equal(z[3])
    assert z[2].equal(z[4])
    assert weight[0].equal(weight[1])
    assert weight[0].equal(weight[2])
    assert (weight[3] - weight[2]).abs().max() == pytest.approx(0.125, rel=1e-3)
    assert not weight[4].equal(weight[3])


@pytest.mark.parametrize(("weight", "divergence"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7)])
def test_the_objective_returned_is_that_of_the_images_returned(weight, divergence):
    """By hand at the start, where z is known. If it fails, a prior is left out, or counted twice."""
    model, decoder = victim(), small().double()
    observation = share(CASE, model, 0, 1)
    found = gias(
        model,
        observation,
        generator=seeded(),
        steps=0,
        total_variation=weight,
        divergence=divergence,
        decoder=decoder,
    )
    latents = torch.randn(2, 128, generator=seeded(), dtype=torch.float32).double()
    images = decoder(latents).detach()
    parameters = [dict(model.named_parameters())[name] for name in observation.gradients]
    gradients = torch.autograd.grad(cross_entropy(model(images), observation.labels), parameters)
    mine, theirs = (torch.cat([g.flatten() for g in each]) for each in (gradients, observation.gradients.values()))
    mean, deviation = latents.mean(1), latents.std(1, correction=0)
    apart = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).mean()
    expected = 1 - cosine_similarity(mine, theirs, dim=0) + TotalVariation(weight)(images[None])[0] + divergence * apart
    torch.testing.assert_close(found.images, images)
    assert found.objective == pytest.approx(float(expected), rel=1e-9)


def test_the_divergence_is_that_of_normal_distributions():
    """Against torch.distributions. If it fails, latents are pulled to something else than N(0, 1)."""
    latents = 3 + 2 * torch.randn(4, 2, 5, 7, generator=seeded(), dtype=torch.float64)
    flat = latents.flatten(2)
    expected = kl_divergence(Normal(flat.mean(2), flat.std(2, correction=0)), Normal(0.0, 1.0)).mean(1)
    torch.testing.assert_close(LatentDivergence(0.5)(latents), 0.5 * expected)


def test_the_divergence_keeps_the_latents_like_draws():
    """A strong one, against none. If it fails, its gradient does not reach z, or pushes it away."""
    model, spread = victim(), {}
    for divergence in (0.0, 1e3):
        seen = []
        settings = {"steps": 9, "latent_steps": 9, "latent_lr": 0.3, "divergence": divergence, "decoder": small()}
        gias(
            model,
            share(CASE, model, 0),
            generator=seeded(),
            callback=lambda progress, seen=seen: seen.append(progress.variables[0].clone()),
            **settings,
        )
        spread[divergence] = float(LatentDivergence(1.0)(seen[-1]))
    assert spread[1e3] < 0.5 * spread[0.0]


def test_the_real_face_decoder_is_the_default():
    """If it fails, the default is another decoder, or its faces are not those of the client's shape."""
    model = victim()
    found = gias(model, share(CASE, model, 0), generator=seeded(), steps=0)
    faces = gia.models.pretrained("face-decoder")(torch.randn(1, 100, generator=seeded(), dtype=torch.float32))
    torch.testing.assert_close(found.images.float(), as_images(faces, (3, 8, 8)).detach(), rtol=0, atol=1e-5)


def test_settings_out_of_range_are_named():
    """If it fails, a search runs on a step size of zero or a weight that is not a number."""
    model = victim()
    observation = share(CASE, model, 0)
    for changes, message in (
        ({"latent_steps": -1}, "latent_steps: expected at least 0, got -1"),
        ({"latent_lr": 0.0}, "latent_lr and weight_lr: expected step sizes > 0"),
        ({"weight_lr": float("nan")}, "latent_lr and weight_lr: expected step sizes > 0"),
        ({"total_variation": -1.0}, "total_variation and divergence: expected weights >= 0"),
        ({"divergence": float("nan")}, "total_variation and divergence: expected weights >= 0"),
        ({"decoder": torch.nn.Linear(1, 1)}, "decoder: expected a module whose latent_shape"),
    ):
        with pytest.raises(ValueError, match=message):
            gias(model, observation, generator=seeded(), **{"steps": 1, "decoder": small(), **changes})


class Still(torch.nn.Module):
    """A decoder of one gray image, whatever z and its weight."""

    latent_shape = (4,)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, latents):
        return 0.5 + 0 * (latents.sum() + self.weight).expand(len(latents), 3, 8, 8)


def test_the_search_over_weights_is_given_a_chance_to_fall():
    """Nothing falls, so the first check ends the search: after 100 steps and 5/4 of the 40 that move latents, when the
    last fifth moved weights. If it fails, latents that stand still end a search whose weights were not moved."""
    model = victim()
    found = gias(
        model, share(CASE, model, 0), generator=seeded(), decoder=Still(), steps=900, latent_steps=40, converged=0.01
    )
    assert (found.gradient_evaluations, found.converged) == (150 + 50 + 1, True)
