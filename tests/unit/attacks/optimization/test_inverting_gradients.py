"""Inverting Gradients: the paper's settings, restarts judged by the attack alone, boxes and spaces."""

from __future__ import annotations

import inspect
import sys
from functools import partial

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

import gia
from gia.attacks.matching import Found, Matching, minimize
from gia.attacks.optimization import inverting_gradients
from gia.attacks.priors import TotalVariation
from gia.attacks.schedules import constant, step_decay
from tests.contracts.cases import CASES, build, private, share
from tests.contracts.snapshots import same_reconstruction

CASE = CASES["inverting_gradients"]


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim(dtype=torch.float64):
    """The victim of the easy case."""
    return build(CASE, dtype)


def test_the_defaults_are_the_papers():
    """arXiv 2503.11514, Sec. IV-A, and Geiping et al., 2020: 24,000 signed Adam steps of 0.1, decayed at 3/8, 5/8 and
    7/8, total variation 1e-2 on CIFAR, one start, in the box. If it fails, "the paper's settings" are not."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(inverting_gradients).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert defaults == {
        "steps": 24_000,
        "lr": 0.1,
        "signed": True,
        "schedule": step_decay,
        "converged": None,
        "objective": None,
        "total_variation": 1e-2,
        "priors": (),
        "restarts": 1,
        "init": None,
        "space": "pixels",
        "box": True,
        "loss": cross_entropy,
        "callback": None,
    }


def by_hand(model, observation, images, weight):
    """1 - cos + weight * TV at some images, without any of the attack's code but the total variation."""
    parameters = {name: p for name, p in model.named_parameters() if name in observation.gradients}
    gradients = torch.autograd.grad(cross_entropy(model(images), observation.labels), list(parameters.values()))
    mine = torch.cat([g.flatten() for g in gradients])
    theirs = torch.cat([observation.gradients[name].flatten() for name in parameters])
    return float(1 - cosine_similarity(mine, theirs, dim=0) + TotalVariation(weight)(images[None])[0])


@pytest.mark.parametrize("weight", [0.0, 1e-2, 0.3])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_objective_returned_is_that_of_the_images_returned(weight, training):
    """If it fails, image and objective are from different steps, or the objective is not the paper's Eq. 4."""
    generator = seeded()
    model = gia.models.build(
        "resnet10", width=4, num_classes=10, image_size=8, generator=generator, dtype=torch.float64
    )
    images, labels = private(torch.float64, 0, 1)
    observation = gia.share_gradient(model, images, labels, reveal=("labels",), training=training)
    found = inverting_gradients(model, observation, generator=generator, steps=3, total_variation=weight)
    expected = by_hand(model.train(training), observation, found.images, weight)
    assert found.objective == pytest.approx(expected, rel=1e-9)
    assert found.labels.equal(observation.labels)


def test_of_several_starts_the_attack_takes_the_one_that_it_likes_best():
    """Two observations with four starts each, against each start on its own. If it fails, the best is looked up in a
    filtered list, or in another observation's, or the truth has a say."""
    model = victim()
    observations = [share(CASE, model, 0, 1), share(CASE, model, 2, 3)]
    generators = [seeded(10), seeded(11)]
    alone = [
        [inverting_gradients(model, observation, generator=generator, steps=4) for _ in range(4)]
        for observation, generator in zip(observations, generators, strict=True)
    ]
    found = gia.attacks.run_many(
        "inverting_gradients", model, observations, generators=[seeded(10), seeded(11)], restarts=4, steps=4
    )
    for starts, one in zip(alone, found, strict=True):
        best = min(starts, key=lambda start: start.objective)
        assert one.objective == pytest.approx(best.objective, rel=1e-12)
        torch.testing.assert_close(one.images, best.images)
        assert one.gradient_evaluations == 4 * best.gradient_evaluations == 4 * 5
    assert {starts.index(min(starts, key=lambda start: start.objective)) for starts in alone} != {0}


def test_every_iterate_stays_in_the_box_unless_it_is_opened():
    """If it fails, the search runs where no image is, and the final clamp moves it off its objective."""
    model, ranges = victim(), {}
    for box in (True, False):
        seen = []
        found = inverting_gradients(
            model,
            share(CASE, model, 0),
            generator=seeded(),
            steps=12,
            box=box,
            callback=lambda progress, seen=seen: seen.append(progress.variables[0].clone()),
        )
        ranges[box] = float(min(x.min() for x in seen)), float(max(x.max() for x in seen))
        assert 0 <= found.images.min() <= found.images.max() <= 1
    assert ranges[True] == (0, 1)
    assert ranges[False][0] < 0
    assert ranges[False][1] > 1


def test_the_standardized_space_is_that_of_the_victims_first_layer():
    """If it fails, an attack at paper scale starts, steps or clamps in the wrong space."""
    model = gia.models.standardize(victim(), mean=[0.4, 0.5, 0.6], std=[0.2, 0.2, 0.2])
    observation = share(CASE, model, 0)
    seen = []
    found = inverting_gradients(
        model,
        observation,
        generator=seeded(),
        steps=2,
        space="standardized",
        schedule=constant,
        callback=lambda progress: seen.append(progress.variables[0][0].clone()),
    )
    start = torch.randn((1, 3, 8, 8), generator=seeded(), dtype=torch.float32).double()
    assert seen[0].equal(start)
    mean = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(3, 1, 1)
    inside = ((seen[1] * 0.2 + mean) > 1e-9) & ((seen[1] * 0.2 + mean) < 1 - 1e-9)
    assert (seen[1] - start)[inside].abs().numpy() == pytest.approx(0.1, rel=1e-4)
    assert (seen[1] * 0.2 + mean).min() > -1e-12
    assert 0 <= found.images.min() <= found.images.max() <= 1
    pixels = inverting_gradients(model, observation, generator=seeded(), steps=0)
    assert pixels.images.equal(torch.rand((1, 3, 8, 8), generator=seeded(), dtype=torch.float32).double())


def test_settings_out_of_range_are_named():
    """If it fails, a search runs on a step size of zero or a weight that is not a number."""
    model = victim()
    observation = share(CASE, model, 0)
    for changes, message in (
        ({"restarts": 0}, "restarts: expected at least 1, got 0"),
        ({"lr": 0.0}, "lr and total_variation: expected lr > 0"),
        ({"lr": float("nan")}, "lr and total_variation: expected lr > 0"),
        ({"total_variation": -1.0}, "lr and total_variation: .* a weight >= 0"),
        ({"total_variation": float("nan")}, "lr and total_variation: .* a weight >= 0"),
        ({"init": "zeros"}, r"init: expected one of \['normal', 'uniform'\]"),
        ({"space": "latent"}, r"space: expected one of \['pixels', 'standardized'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            inverting_gradients(model, observation, generator=seeded(), **{"steps": 1, **changes})


def test_local_training_is_simulated_where_it_is_known():
    """If it fails, an update over several steps is matched with a single gradient although its training leaked."""
    model = victim()
    images, labels = private(torch.float64, 0, 1)
    images, labels = images[labels.argsort()], labels.sort().values
    local = gia.LocalTraining(epochs=3, batch_size=1, lr=0.5)
    weak, strong = (
        gia.share_update(model, images, labels, local=local, reveal=reveal)
        for reveal in (("labels",), ("labels", "local"))
    )
    calls = {}
    for name, observation in {"weak": weak, "strong": strong}.items():
        calls[name] = []

        def counted(logits, labels, name=name):
            calls[name].append(len(logits))
            return cross_entropy(logits, labels)

        inverting_gradients(model, observation, generator=seeded(), steps=0, loss=counted)
    assert calls == {"weak": [2], "strong": [1] * 6}


def test_a_search_that_converges_is_the_same_bit_for_bit_beside_others(monkeypatch):
    """Four observations with two starts each, by double backward in float64. If it fails, a result depends on what else
    is attacked: the step size of a trial follows another trial, or a finished one is moved or evaluated."""
    module = sys.modules[inverting_gradients.__module__]
    monkeypatch.setattr(module, "minimize", partial(minimize, least=10))
    monkeypatch.setattr(module, "Matching", partial(Matching, engine="plain"))
    model, settings = victim(), {"steps": 90, "converged": 0.02, "restarts": 2}
    observations = [share(CASE, model, i) for i in range(4)]
    together = inverting_gradients.many(model, observations, generators=[seeded(i) for i in range(4)], **settings)
    alone = [
        inverting_gradients(model, observation, generator=seeded(i), **settings)
        for i, observation in enumerate(observations)
    ]
    assert all(same_reconstruction(*pair) for pair in zip(together, alone, strict=True))
    assert len({one.gradient_evaluations for one in alone}) > 1
    assert any(one.converged for one in alone)


def test_the_start_that_is_returned_says_whether_it_converged(monkeypatch):
    """Of three starts, made up, the last has the least objective. If it fails, another start's word is passed on."""
    converged = [False, False, True, True, True, False]

    def made_up(evaluate, start, **settings):
        return Found(torch.tensor([3.0, 2.0, 1.0] * 2), list(start), converged)

    monkeypatch.setattr(sys.modules[inverting_gradients.__module__], "minimize", made_up)
    model = victim()
    observations = [share(CASE, model, i) for i in (0, 1)]
    found = inverting_gradients.many(model, observations, generators=[seeded(0), seeded(1)], restarts=3, converged=0.01)
    assert [one.converged for one in found] == [True, False]


def test_priors_do_not_decide_when_a_search_has_converged(monkeypatch):
    """With a total variation that outweighs the matching term by far. If it fails, the sum of both decides."""
    seen = []

    def watched(evaluate, start, **settings):
        seen.append(evaluate(start, slice(None)))
        return minimize(evaluate, start, **settings)

    monkeypatch.setattr(sys.modules[inverting_gradients.__module__], "minimize", watched)
    model = victim()
    observation = share(CASE, model, 0)
    for weight in (0.0, 1e3):
        inverting_gradients(model, observation, generator=seeded(), steps=0, total_variation=weight)
    assert float(seen[0].data) == float(seen[1].data) == float(seen[0].values)
    assert float(seen[1].values) > 10 * float(seen[1].data)


def test_a_search_that_converges_takes_no_schedule():
    """If it fails, a schedule is ignored in silence."""
    model = victim()
    with pytest.raises(ValueError, match="schedule: expected the default beside converged, which decays by its own"):
        inverting_gradients(model, share(CASE, model, 0), generator=seeded(), converged=0.01, schedule=constant)


def test_a_prior_of_the_user_counts_as_the_attacks_own():
    """If it fails, a further prior is left out, or weighs something else. Total variation is its own oracle."""
    model = victim()
    observation = share(CASE, model, 0)
    results = [
        gia.attacks.inverting_gradients(model, observation, generator=seeded(), steps=5, **settings)
        for settings in (
            {"total_variation": 0.3},
            {"total_variation": 0.1, "priors": [TotalVariation(0.2)]},
            {"total_variation": 0.1},
        )
    ]
    torch.testing.assert_close(results[0].images, results[1].images, rtol=1e-9, atol=1e-12)
    assert results[0].objective == pytest.approx(results[1].objective, rel=1e-9)
    assert results[2].objective != pytest.approx(results[1].objective, rel=1e-3)
