"""CI-Net: the paper's settings, a search that moves weights alone, and a decoder of the user's own."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

import gia
from gia.attacks.generation import ci_net
from gia.attacks.matching import Interrupted
from gia.attacks.priors import TotalVariation
from gia.attacks.schedules import constant
from tests.contracts.cases import CASES, build, private, share

CASE = CASES["ci_net"]


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim(dtype=torch.float64):
    """The victim of the easy case."""
    return build(CASE, dtype)


def watched(observation, model, **settings):
    """The reconstruction, and what a callback saw before each step."""
    seen = []

    def see(progress):
        seen.append((progress.steps, [variable.clone() for variable in progress.variables]))

    return ci_net(model, observation, generator=seeded(), callback=see, **settings), seen


def test_the_defaults_are_the_papers():
    """Zhang et al., 2023, by the released settings of arXiv 2503.11514: signed Adam of 1e-3, cosine, no total
    variation. If it fails, "the paper's settings" are not."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(ci_net).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert defaults == {
        "steps": None,
        "lr": 1e-3,
        "signed": True,
        "schedule": constant,
        "converged": None,
        "objective": None,
        "total_variation": 0.0,
        "priors": (),
        "decoder": None,
        "loss": cross_entropy,
        "callback": None,
    }


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 2_000), (31, 2_000), (32, 5_000)])
def test_large_batches_get_more_steps(batch_size, steps):
    """If it fails, B=32 and more are searched for 2,000 steps, where the paper takes 5,000."""
    model = gia.models.build("mlp", width=2, num_classes=10, image_size=8, generator=seeded())
    images, labels = torch.rand(batch_size, 3, 8, 8, generator=seeded()), torch.arange(batch_size) % 10
    observation = gia.share_gradient(model, images, labels, reveal=("labels",))

    def stop(progress):
        assert progress.steps == steps
        raise KeyboardInterrupt

    with pytest.warns(Interrupted, match=f"step 0 of {steps}"):
        ci_net(model, observation, generator=seeded(), callback=stop)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_objective_returned_is_that_of_the_images_returned(weight):
    """Computed again without any of the attack's code but the total variation. If it fails, image and objective are
    from different steps, or of different weights."""
    model = victim()
    observation = share(CASE, model, 0, 1)
    found = ci_net(model, observation, generator=seeded(), steps=3, total_variation=weight)
    parameters = [dict(model.named_parameters())[name] for name in observation.gradients]
    gradients = torch.autograd.grad(cross_entropy(model(found.images), observation.labels), parameters)
    mine, theirs = (torch.cat([g.flatten() for g in each]) for each in (gradients, observation.gradients.values()))
    expected = 1 - cosine_similarity(mine, theirs, dim=0) + TotalVariation(weight)(found.images[None])[0]
    assert found.objective == pytest.approx(float(expected), rel=1e-9)


def test_all_weights_move_by_the_step_size_and_the_latents_stay():
    """If it fails, a part of the decoder is frozen, the gradient is not signed, or z is searched too."""
    model = victim()
    found, seen = watched(share(CASE, model, 0), model, steps=2, lr=1e-2)
    (_, first), (_, second) = seen
    decoder = gia.models.OverParameterized(image_shape=(3, 8, 8), batch_size=1, generator=seeded())
    assert [tuple(each.shape[1:]) for each in first] == [tuple(p.shape) for p in decoder.parameters()]
    for before, after in zip(first, second, strict=True):
        moved = (after - before).abs()
        assert moved.max() == pytest.approx(1e-2, rel=1e-6)
        assert (moved > 0).any()
    assert found.gradient_evaluations == 3


def test_the_sign_of_the_gradient_alone_moves_the_weights():
    """By Adam's rule on signs (betas .9, .999) a second step is the step size where the sign stayed, and 1 / 19 of it
    where it turned. If it fails, the search is plain Adam, or `signed` is not heard."""
    model, steps = victim(), {}
    for signed in (True, False):
        _, seen = watched(share(CASE, model, 0), model, steps=3, lr=1e-2, signed=signed)
        (_, before), (_, after) = seen[1:]
        steps[signed] = ((after[0] - before[0]).abs() / 1e-2).flatten()
    known = torch.stack([steps[True] - 1, steps[True] - 1 / 19]).abs().min(0).values
    assert known.max() < 1e-5
    assert (steps[True] < 0.5).any()
    assert ((steps[False] - 1).abs() > 1e-2).any()


def test_each_observation_has_a_start_of_its_own():
    """If it fails, trials search from one and the same decoder."""
    model = victim()
    observation = share(CASE, model, 0)
    seen = []
    gia.attacks.run_many(
        "ci_net",
        model,
        [observation] * 2,
        generators=[seeded(0), seeded(1)],
        steps=1,
        callback=lambda progress: seen.extend(variable.clone() for variable in progress.variables),
    )
    assert not seen[0][0].equal(seen[0][1])


def test_a_given_decoder_is_where_the_search_starts_and_stays_as_it_was():
    """If it fails, `decoder=` is redrawn, or the user's own weights are searched in place."""
    model = victim()
    mine = gia.models.OverParameterized(image_shape=(1, 12, 12), batch_size=1, generator=seeded(7))
    before = [parameter.detach().clone() for parameter in mine.parameters()]
    found, seen = watched(share(CASE, model, 0), model, steps=2, decoder=mine)
    assert all(start[0].equal(weights.double()) for start, weights in zip(seen[0][1], before, strict=True))
    assert all(parameter.equal(kept) for parameter, kept in zip(mine.parameters(), before, strict=True))
    assert found.images.shape == (1, 3, 8, 8)  # gray, 12 pixels wide, in the client's form
    assert found.images[:, 0].equal(found.images[:, 2])


def test_settings_out_of_range_are_named():
    """If it fails, a search runs on a step size of zero or a weight that is not a number."""
    model = victim()
    observation = share(CASE, model, 0)
    for changes, message in (
        ({"lr": 0.0}, "lr and total_variation: expected lr > 0"),
        ({"lr": float("nan")}, "lr and total_variation: expected lr > 0"),
        ({"total_variation": -1.0}, "lr and total_variation: .* a weight >= 0"),
        ({"total_variation": float("nan")}, "lr and total_variation: .* a weight >= 0"),
        ({"decoder": torch.nn.Linear(1, 1)}, "decoder: expected a module whose latent_shape"),
    ):
        with pytest.raises(ValueError, match=message):
            ci_net(model, observation, generator=seeded(), **{"steps": 1, **changes})


def test_local_training_is_simulated_where_it_is_known():
    """If it fails, an update over several steps is matched with a single gradient although its training leaked."""
    model = victim()
    images, labels = private(torch.float64, 0, 1)
    local = gia.LocalTraining(epochs=3, batch_size=1, lr=0.5)
    observation = gia.share_update(model, images, labels, local=local, reveal=("labels", "local"))
    calls = []

    def counted(logits, labels):
        calls.append(len(logits))
        return cross_entropy(logits, labels)

    ci_net(model, observation, generator=seeded(), steps=0, loss=counted)
    assert calls == [1] * 6


def test_a_prior_of_the_user_counts_as_the_attacks_own():
    """If it fails, a further prior is left out, or weighs something else. Total variation is its own oracle."""
    model = victim()
    observation = share(CASE, model, 0)
    results = [
        gia.attacks.ci_net(model, observation, generator=seeded(), steps=5, **settings)
        for settings in (
            {"total_variation": 0.3},
            {"total_variation": 0.1, "priors": [TotalVariation(0.2)]},
            {"total_variation": 0.1},
        )
    ]
    torch.testing.assert_close(results[0].images, results[1].images, rtol=1e-9, atol=1e-12)
    assert results[0].objective == pytest.approx(results[1].objective, rel=1e-9)
    assert results[2].objective != pytest.approx(results[1].objective, rel=1e-3)
