"""Deep Leakage from Gradients: the paper's settings, images and labels found at once."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import gia
from gia.attacks.optimization import dlg
from gia.attacks.optimization.pixels import Pixels
from tests.contracts.cases import CASES, CLASSES, build, private, share

CASE = CASES["dlg"]


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def test_the_defaults_are_the_papers():
    """Zhu et al., 2019: 300 outer steps of L-BFGS with lr 1, history 100, squared differences. If it fails, they are
    not; the start is uniform by a documented departure."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(dlg).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert defaults == {
        "steps": 300,
        "lr": 1.0,
        "history": 100,
        "converged": None,
        "objective": None,
        "restarts": 1,
        "init": "uniform",
        "loss": cross_entropy,
        "callback": None,
    }


def test_images_and_labels_of_a_batch_are_found_at_once():
    """Two images with labels of their own, in float64; 43 and 48 dB were measured. If it fails, soft labels are not
    searched, or paired wrongly."""
    model = build(CASE, torch.float64)
    images, labels = private(torch.float64, 0, 1)
    observation = gia.share_gradient(model, images, labels)
    found = dlg(model, observation, generator=seeded(), steps=6)
    assert sorted(found.labels.tolist()) == sorted(labels.tolist())
    order = found.labels.argsort()
    assert gia.metrics.psnr(found.images[order], images[labels.argsort()]).min() > 25


def test_known_labels_stay_as_they_are():
    """If it fails, known labels are searched for all the same, or the search has more variables than the images."""
    model = build(CASE, torch.float64)
    observation = gia.share_gradient(model, *private(torch.float64, 0, 1), reveal=("labels",))
    seen = []
    found = dlg(model, observation, generator=seeded(), steps=1, callback=seen.append)
    assert [tuple(variable.shape) for variable in seen[0].variables] == [(1, 2, 3, 8, 8)]
    assert found.labels.equal(observation.labels)


def test_the_start_is_uniform_images_and_normal_labels_of_the_same_generator():
    """If it fails, labels start where images do, or trials share their draws."""
    model = build(CASE, torch.float32)
    seen = []
    dlg(model, share(CASE, model, 0), generator=seeded(4), steps=1, callback=lambda p: seen.extend(p.variables))
    generator = seeded(4)
    # The search moves its variables in place, so a start is drawn again and compared with the reported first step.
    images = torch.rand((1, 3, 8, 8), generator=generator)
    logits = torch.randn((1, CLASSES), generator=generator)
    none = dlg(model, share(CASE, model, 0), generator=seeded(4), steps=0)
    assert none.images.equal(images)
    assert none.labels.tolist() == logits.argmax(-1).tolist()
    assert [tuple(variable.shape) for variable in seen] == [(1, 1, 3, 8, 8), (1, 1, CLASSES)]


def test_of_several_starts_the_attack_takes_the_one_that_it_likes_best():
    """Three starts with labels of their own, against each alone. If it fails, a start that diverged is returned, or its
    images with the labels of another."""
    model = build(CASE, torch.float64)
    observation = gia.share_gradient(model, *private(torch.float64, 0, 1))
    found = dlg(model, observation, generator=seeded(6), steps=1, restarts=3)
    generator = seeded(6)
    images = [torch.rand((2, 3, 8, 8), generator=generator) for _ in range(3)]
    logits = [torch.randn((2, CLASSES), generator=generator) for _ in range(3)]
    alone = []
    for start in zip(images, logits, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            draws = iter(start)
            patch.setattr(Pixels, "start", lambda *_, draws=draws: next(draws)[None].double())
            alone.append(dlg(model, observation, generator=seeded(), steps=1))
    objectives = [one.objective for one in alone]
    best = alone[objectives.index(min(objectives))]
    assert not best.labels.equal(alone[0].labels)
    assert found.objective == pytest.approx(best.objective, rel=1e-9)
    torch.testing.assert_close(found.images, best.images)
    assert found.labels.equal(best.labels)
    assert found.gradient_evaluations == sum(one.gradient_evaluations for one in alone)


def test_the_objective_is_the_sum_of_squared_differences():
    """By hand, in float64. If it fails, it is averaged or scaled, and published step sizes no longer fit."""
    model = build(CASE, torch.float64)
    observation = gia.share_gradient(model, *private(torch.float64, 0, 1), reveal=("labels",))
    found = dlg(model, observation, generator=seeded(), steps=0)
    gradients = torch.autograd.grad(cross_entropy(model(found.images), found.labels), list(model.parameters()))
    expected = sum(
        float((mine - theirs).square().sum())
        for mine, theirs in zip(gradients, observation.gradients.values(), strict=True)
    )
    assert found.objective == pytest.approx(expected, rel=1e-12)


def test_the_search_is_free_and_only_its_result_is_clamped():
    """If it fails, L-BFGS is clamped between its steps, which breaks its curvature."""
    model = build(CASE, torch.float32)
    seen = []
    found = dlg(
        model,
        share(CASE, model, 0),
        generator=seeded(),
        steps=2,
        init="normal",
        callback=lambda progress: seen.append(progress.variables[0].clone()),
    )
    assert not seen[0].equal(seen[1])
    assert seen[1].min() < -0.5
    assert seen[1].max() > 1.5
    assert 0 <= found.images.min() <= found.images.max() <= 1


def test_settings_out_of_range_are_named():
    """If it fails, a search runs on a step size of zero."""
    model = build(CASE, torch.float32)
    for changes in ({"lr": 0.0}, {"lr": float("nan")}, {"history": 0}):
        with pytest.raises(ValueError, match="lr and history: expected lr > 0 and history >= 1, got"):
            dlg(model, share(CASE, model, 0), generator=seeded(), **changes)
    with pytest.raises(ValueError, match="restarts: expected at least 1, got 0"):
        dlg(model, share(CASE, model, 0), generator=seeded(), restarts=0)


@pytest.mark.parametrize("reveal", [(), ("labels",)], ids=["soft labels", "known labels"])
@pytest.mark.parametrize("converged", [None, 0.5], ids=["fixed", "converged"])
def test_clients_that_are_attacked_together_end_as_each_alone(reveal, converged):
    """In float64, where rounding grows too slowly to matter; the third client's search diverges. If it fails, trials
    share curvature, a value goes to another trial, or one lost search moves the others."""
    model = build(CASE, torch.float64)
    observations = [gia.share_gradient(model, *private(torch.float64, i, i + 1), reveal=reveal) for i in range(3)]
    observations[2] = replace(observations[2], gradients={n: 1e200 * g for n, g in observations[2].gradients.items()})
    settings = {"steps": 2, "converged": converged}
    together = dlg.many(model, observations, generators=[seeded(i) for i in range(3)], **settings)
    for i, observation in enumerate(observations[:2]):
        alone = dlg(model, observation, generator=seeded(i), **settings)
        torch.testing.assert_close(together[i].images, alone.images, rtol=1e-6, atol=1e-7)
        assert together[i].labels.equal(alone.labels)
        assert together[i].objective == pytest.approx(alone.objective, rel=1e-5)
        assert together[i].gradient_evaluations == alone.gradient_evaluations
    assert len(together[2].images) == 0
