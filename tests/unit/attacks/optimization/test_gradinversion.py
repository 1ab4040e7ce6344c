"""GradInversion: the paper's settings, its objective term by term, and seeds that pull each other."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import gia
from gia.attacks.objectives import Cosine
from gia.attacks.optimization import gradinversion
from gia.attacks.priors import BatchNormStatistics, TotalVariation, known_statistics
from gia.attacks.schedules import constant, cosine_decay
from tests.contracts.cases import CASES, build, private, share

CASE = CASES["gradinversion"]


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim():
    """The victim of the easy case."""
    return build(CASE, torch.float64)


def normalized(*, trained=True):
    """A net with batch normalization, which has seen photos if it is trained."""
    model = gia.models.build(
        "resnet10", width=4, num_classes=10, image_size=8, generator=seeded(), dtype=torch.float64
    ).train()
    if trained:
        model(private(torch.float64, *range(10, 20))[0])
    return model.eval()


def test_the_defaults_are_the_papers():
    """Yin et al., 2021, implementation details. If it fails, "the paper's settings" are not."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(gradinversion).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert defaults == {
        "steps": 20_000,
        "lr": 0.1,
        "schedule": cosine_decay,
        "converged": None,
        "noise": 0.2,
        "objective": None,
        "total_variation": 1e-4,
        "l2": 1e-6,
        "batch_norm": None,
        "seeds": 1,
        "group": 1e-2,
        "radius": 2,
        "init": None,
        "space": "pixels",
        "box": True,
        "loss": cross_entropy,
        "callback": None,
    }


@pytest.mark.parametrize("reveal", [("labels",), ("labels", "batch_norm")], ids=["running", "leaked"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_objective_returned_is_that_of_the_images_returned(reveal, training):
    """1e-4 times the squared differences and every prior with its weight. If it fails, a term is missing or counted
    twice, or image and objective are from different steps."""
    model, (images, labels) = normalized(), private(torch.float64, 0, 1)
    observation = gia.share_gradient(model, images, labels, reveal=reveal, training=training)
    found = gradinversion(
        model, observation, generator=seeded(), steps=3, total_variation=0.3, l2=0.2, batch_norm=0.4, schedule=constant
    )
    statistics = BatchNormStatistics(0.4, model, [known_statistics(model, observation)], training=training)
    model.train(training)
    gradients = torch.autograd.grad(cross_entropy(model(found.images), observation.labels), list(model.parameters()))
    apart = sum((g - o).square().sum() for g, o in zip(gradients, observation.gradients.values(), strict=True))
    batch = found.images[None]
    expected = 1e-4 * apart + TotalVariation(0.3)(batch)[0] + 0.2 * found.images.norm() + statistics(batch)[0]
    assert found.objective == pytest.approx(float(expected), rel=1e-9)


def test_the_standardized_space_holds_start_priors_and_box():
    """If it fails, batch statistics are taken of standardized images instead of pixels, or their gradient is not
    brought back."""
    model, (images, labels) = normalized(), private(torch.float64, 0, 1)
    model = gia.models.standardize(model, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.2])
    observation = gia.share_gradient(model, images, labels, reveal=("labels", "batch_norm"))
    seen = []
    settings = {"noise": 0.0, "schedule": constant, "box": False, "total_variation": 0.0, "l2": 0.0, "batch_norm": 2.0}
    gradinversion(
        model,
        observation,
        generator=seeded(),
        steps=2,
        space="standardized",
        callback=lambda progress: seen.append(progress.variables[0].clone()),
        **settings,
    )
    start = torch.randn((1, 2, 3, 8, 8), generator=seeded(), dtype=torch.float32).double()
    assert seen[0].equal(start)
    prior = BatchNormStatistics(2.0, model, [known_statistics(model, observation)], training=False)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.2]))
    leaf = start.requires_grad_()
    along = torch.autograd.grad(prior(leaf * std + mean).sum(), leaf)[0]
    agree = (seen[1] - seen[0]).sign() == -along.sign()  # the first step of Adam; the matching term is small beside
    assert agree.double().mean() > 0.95


def test_the_noise_of_a_step_comes_after_the_start_from_the_same_generator():
    """One constant step of 0.1 with noise 0.2: a deviation of 0.02 (Yin et al., 2021). If it fails, the noise has
    another size or source, or none is added."""
    model = victim()
    seen = {}
    for noise in (0.0, 0.2):
        gradinversion(
            model,
            share(CASE, model, 0),
            generator=seeded(5),
            steps=2,
            noise=noise,
            schedule=constant,
            box=False,
            callback=lambda progress, noise=noise: seen.setdefault(
                (noise, progress.step), progress.variables[0].clone()
            ),
        )
    generator = seeded(5)
    torch.rand((1, 3, 8, 8), generator=generator)
    expected = 0.02 * torch.randn((1, 3, 8, 8), generator=generator).double()
    torch.testing.assert_close((seen[0.2, 1] - seen[0.0, 1])[0], expected, rtol=0, atol=1e-12)


def test_without_noise_and_group_seeds_are_restarts():
    """Two observations with four seeds each, against each seed on its own. If it fails, the best is looked up in
    another observation's, or evaluations are not those of all seeds."""
    model, settings = victim(), {"steps": 4, "noise": 0.0}
    observations = [share(CASE, model, 0, 1), share(CASE, model, 2, 3)]
    alone = [
        [gradinversion(model, observation, generator=generator, **settings) for _ in range(4)]
        for observation, generator in zip(observations, [seeded(10), seeded(11)], strict=True)
    ]
    found = gia.attacks.run_many(
        "gradinversion", model, observations, generators=[seeded(10), seeded(11)], seeds=4, group=0.0, **settings
    )
    for starts, one in zip(alone, found, strict=True):
        best = min(starts, key=lambda start: start.objective)
        assert one.objective == pytest.approx(best.objective, rel=1e-9)
        torch.testing.assert_close(one.images, best.images)
        assert one.gradient_evaluations == 4 * best.gradient_evaluations == 4 * 5
    assert {starts.index(min(starts, key=lambda start: start.objective)) for starts in alone} != {0}


def spread(group):
    """Mean deviation of three seeds of one observation after 20 steps."""
    model, seen = victim(), []
    gradinversion(
        model,
        share(CASE, model, 0, 1),
        generator=seeded(),
        steps=20,
        seeds=3,
        group=group,
        noise=0.0,
        callback=lambda progress: seen.append(progress.variables[0].clone()),
    )
    return float(seen[-1].std(0).mean())


def test_the_group_pulls_its_seeds_together():
    """If it fails, seeds search apart, whatever the weight, or push each other away."""
    assert spread(10.0) < 0.7 * spread(0.0)


def test_groups_together_give_what_they_give_alone():
    """The battery's contract for one seed, here for groups with every prior on. If it fails, an observation's seeds
    feel another observation, or draw from its generator."""
    model = normalized()
    observations = [
        gia.share_gradient(model, *private(torch.float64, *batch), reveal=("labels", "batch_norm"))
        for batch in ((0, 1), (2, 10), (7, 19))
    ]
    settings = {"steps": 3, "seeds": 2, "group": 0.1}
    alone = [gradinversion(model, each, generator=seeded(i), **settings) for i, each in enumerate(observations)]
    together = gia.attacks.run_many(
        "gradinversion", model, observations, generators=[seeded(i) for i in range(3)], **settings
    )
    for one, two in zip(alone, together, strict=True):
        torch.testing.assert_close(two.images, one.images, rtol=0, atol=1e-9)
        assert two.objective == pytest.approx(one.objective, rel=1e-9)


def test_groups_that_end_at_different_steps_give_what_they_give_alone(monkeypatch):
    """As above for a search that converges. If it fails, a group that is alone at the end follows another one's labels
    or statistics, or loses a seed."""
    module = sys.modules[gradinversion.__module__]
    monkeypatch.setattr(module, "minimize", partial(module.minimize, least=5))
    model = normalized()
    observations = [
        gia.share_gradient(model, *private(torch.float64, *batch), reveal=("labels", "batch_norm"))
        for batch in ((0, 1), (2, 10), (7, 19))
    ]
    settings = {"steps": 30, "seeds": 2, "group": 0.1, "converged": 0.05}
    alone = [gradinversion(model, each, generator=seeded(i), **settings) for i, each in enumerate(observations)]
    together = gia.attacks.run_many(
        "gradinversion", model, observations, generators=[seeded(i) for i in range(3)], **settings
    )
    assert len({one.gradient_evaluations for one in alone}) > 1
    for one, two in zip(alone, together, strict=True):
        torch.testing.assert_close(two.images, one.images, rtol=0, atol=1e-9)
        assert two.objective == pytest.approx(one.objective, rel=1e-9)
        assert (two.gradient_evaluations, two.converged) == (one.gradient_evaluations, one.converged)


def test_statistics_are_matched_where_there_are_any_and_demanded_by_a_weight():
    """If it fails, an untrained net's mean 0 and variance 1 guide a search, or a prior that was asked for is left out
    in silence."""
    (images, labels), found = private(torch.float64, 0, 1), {}
    for name, model, reveal in (
        ("untrained", normalized(trained=False), ()),
        ("trained", normalized(), ()),
        ("leaked", normalized(trained=False), ("batch_norm",)),
    ):
        observation = gia.share_gradient(model, images, labels, reveal=("labels", *reveal))
        for weight in (None, 0.1, 0.0):
            if (name, weight) == ("untrained", 0.1):
                with pytest.raises(ValueError, match="batch_norm: expected leaked statistics or a model"):
                    gradinversion(model, observation, generator=seeded(), steps=0, batch_norm=weight)
            else:
                result = gradinversion(model, observation, generator=seeded(), steps=0, batch_norm=weight)
                found[name, weight] = result.objective
    assert found["untrained", None] == found["untrained", 0.0]
    for name in ("trained", "leaked"):
        assert found[name, None] == found[name, 0.1] > found[name, 0.0]
    model = victim()
    with pytest.raises(ValueError, match="batch_norm: expected leaked statistics or a model"):
        gradinversion(model, share(CASE, model, 0), generator=seeded(), steps=0, batch_norm=0.1)


def test_leaked_statistics_of_a_trained_net_help():
    """CIFAR-10 test images 0 and 1, each alone, 40 steps on the trained network: at least 1 dB on average; 2.1 dB were
    seen on images 0-3. If it fails, the prior pulls elsewhere than to the private batch."""
    model, data = gia.models.pretrained("cifar10-cnn"), gia.data.load("cifar10-samples")
    images, seen = data.images[:2], {}
    for weight in (0.0, 1e-3):
        found = gia.attacks.run_many(
            "gradinversion",
            model,
            [
                gia.share_gradient(model, images[[i]], data.labels[[i]], reveal=("labels", "batch_norm"))
                for i in range(2)
            ],
            generators=[seeded(0), seeded(1)],
            steps=40,
            noise=0.01,
            objective=Cosine(),
            total_variation=0.1,
            batch_norm=weight,
        )
        seen[weight] = gia.metrics.psnr(torch.cat([each.images for each in found]), images).mean()
    assert seen[1e-3] - seen[0.0] >= 1


def test_trials_of_which_some_leak_their_statistics_are_an_error():
    """If it fails, one observation is searched with less than it gave away, or torch stumbles over shapes."""
    model, (images, labels) = normalized(trained=False), private(torch.float64, 0, 1)
    leaky = gia.share_gradient(model, images, labels, reveal=("labels", "batch_norm"))
    for other in (None, {"bn1": leaky.batch_norm["bn1"]}):
        with pytest.raises(ValueError, match="batch_norm: expected statistics of the same layers in all trials"):
            gia.attacks.run_many(
                "gradinversion", model, [leaky, replace(leaky, batch_norm=other)], generators=[seeded(), seeded()]
            )


@pytest.mark.parametrize("name", ["noise", "total_variation", "l2", "batch_norm", "group"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_weights_are_not_negative(name, value):
    """If it fails, a search runs away from what a prior should pull to."""
    model = victim()
    with pytest.raises(ValueError, match=f"{name}: expected at least 0, got {value}"):
        gradinversion(model, share(CASE, model, 0), generator=seeded(), steps=1, **{name: value})


def test_settings_out_of_range_are_named():
    """If it fails, a search runs without a step size, without a seed, or on shifts that leave no image."""
    model = victim()
    for changes, message in (
        ({"seeds": 0}, "seeds and radius: expected at least 1 and 0, got 0 and 2"),
        ({"radius": -1}, "seeds and radius: expected at least 1 and 0, got 1 and -1"),
        ({"radius": 4, "seeds": 2}, "radius: expected less than half of 8 x 8 pixels, got 4"),
        ({"lr": 0.0}, "lr: expected a step size > 0, got 0.0"),
        ({"lr": float("nan")}, "lr: expected a step size > 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            gradinversion(model, share(CASE, model, 0), generator=seeded(), **{"steps": 1, **changes})
