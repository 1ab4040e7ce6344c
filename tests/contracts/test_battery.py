"""One battery over every attack: what each of them owes its caller, whatever it does inside.

The easy cases and the declared exceptions stand in `cases.py`. A new attack is tested as soon as it is in `ATTACKS`.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import gia
from gia import attacks
from gia.attacks import CARDS, NothingFound
from gia.attacks.matching import Interrupted, loop
from gia.attacks.matching.convergence import Trials
from gia.attacks.trials import LEAVES
from tests.contracts.cases import CASES, CLASSES, SIZE, build, disturbed, each, private, share, tangled
from tests.contracts.fresh import equipped
from tests.contracts.snapshots import global_state, model_state, observation_state, same_reconstruction


class Equipped:
    """An attack that is equipped when it is called: what it needs may depend on the victim and on what is shared."""

    def __init__(self, attack):
        self.attack = attack

    def __getattr__(self, name):
        return getattr(self.attack, name)

    def __call__(self, model, observation, **settings):
        return self.attack(model, observation, **equipped(settings, model, observation))


ATTACKS = {name: Equipped(attack) for name, attack in attacks.ATTACKS.items()}


def run_many(name, model, observations, **settings):
    """`gia.attacks.run_many`, equipped for the first of the observations."""
    if observations:
        settings = equipped(settings, model, observations[0])
    return attacks.run_many(name, model, observations, **settings)


FLOATS = (torch.float32, torch.float64)
each_attack = each(ATTACKS)
each_search = each(name for name in ATTACKS if CARDS[name].iterative)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def quick(name: str) -> dict:
    """Settings for a search whose success does not matter."""
    return equipped({**CASES[name].settings, **CASES[name].quick})


@pytest.fixture(params=FLOATS, ids=["float32", "float64"])
def dtype(request):
    """Both precisions."""
    return request.param


def test_every_attack_has_an_easy_case_and_no_case_is_left_over():
    """If it fails, an attack escapes this battery, or a case tests nothing."""
    assert set(CASES) == set(ATTACKS) == set(CARDS)


@each_attack
def test_a_card_tells_the_truth(name):
    """If it fails, a user who reads the card meets an attack with other needs or settings."""
    attack, card = ATTACKS[name], CARDS[name]
    settings = inspect.signature(attacks.ATTACKS[name]).parameters
    assert attack.__name__ == name
    assert attack.card is card
    assert card.leaf in LEAVES
    assert card.source
    assert card.iterative == ("steps" in settings) == ("callback" in settings)
    assert ("labels" in card.needs) == ("labels" in CASES[name].reveal)


@each_attack
def test_the_same_generator_gives_the_same_bits_and_another_one_another_start(name, dtype):
    """If it fails, no result can be reproduced, or restarts and seeds search from one and the same start."""
    model = build(CASES[name], dtype)
    observation = share(CASES[name], model, 0)
    first, again, other = (
        ATTACKS[name](model, observation, generator=seeded(seed), **quick(name)) for seed in (0, 0, 1)
    )
    assert same_reconstruction(first, again)
    assert same_reconstruction(first, other) == (not CARDS[name].iterative)


@each_attack
def test_the_generator_alone_decides(name):
    """If it fails, a result depends on the caller's default dtype, gradient mode or random states."""
    model = build(CASES[name], torch.float32)
    observation = share(CASES[name], model, 0)
    plain = ATTACKS[name](model, observation, generator=seeded(), **quick(name))
    with torch.random.fork_rng(), torch.no_grad():
        torch.rand(5)
        torch.set_default_dtype(torch.float64)
        try:
            elsewhere = ATTACKS[name](model, observation, generator=seeded(), **quick(name))
        finally:
            torch.set_default_dtype(torch.float32)
    assert same_reconstruction(plain, elsewhere)


@each_attack
def test_nothing_outside_an_attack_is_touched(name):
    """If it fails, an attack moves global random states, modes, flags, threads or the environment, or changes the
    model, down to modes, `.grad` and hooks, or the observation."""
    model, batch = disturbed(name), CASES[name].batch(0, 1)
    # A single image has no batch statistics at a layer without places.
    several, (images, labels) = len(batch) > 1, private(torch.float32, *batch)
    observation = gia.share_gradient(model, images, labels, reveal=("labels", "batch_norm"), training=several)
    before = model_state(model), observation_state(observation), global_state()
    ATTACKS[name](model, observation, generator=seeded(), **quick(name))
    assert (model_state(model), observation_state(observation), global_state()) == before


@each_search
@pytest.mark.parametrize("where", ["callback", "loss"])
def test_nothing_is_left_behind_by_an_attack_that_breaks_off(name, where):
    """If it fails, an error in the middle of a search leaves a changed model, observation, mode or flag behind."""
    model, batch = disturbed(name), CASES[name].batch(0, 1)
    several, (images, labels) = len(batch) > 1, private(torch.float32, *batch)
    observation = gia.share_gradient(model, images, labels, reveal=("labels",), training=several)
    before = model_state(model), observation_state(observation), global_state()
    calls = iter(range(3))

    def stumble(*arguments):
        if next(calls) == 2:
            raise LookupError("on purpose")
        return cross_entropy(*arguments) if where == "loss" else None

    with pytest.raises(LookupError, match="on purpose"):
        ATTACKS[name](model, observation, generator=seeded(), **{**quick(name), "steps": 4, where: stumble})
    assert (model_state(model), observation_state(observation), global_state()) == before


@each_attack
def test_images_and_labels_have_the_promised_form(name, dtype):
    """If it fails, a score would meet another shape, dtype or range than the documentation promises."""
    model = build(CASES[name], dtype)
    batch = CASES[name].batch(0, 1)
    found = ATTACKS[name](model, share(CASES[name], model, *batch), generator=seeded(), **quick(name))
    assert found.images.shape[1:] == (3, SIZE, SIZE)
    assert found.images.dtype == dtype
    assert not found.images.requires_grad
    if CARDS[name].iterative:
        assert len(found.images) == (1 if "an image for each" in CASES[name].exempt else len(batch))
        assert 0 <= found.images.min() <= found.images.max() <= 1
        assert isinstance(found.objective, float)
    if found.labels is not None:
        assert found.labels.dtype == torch.int64
        assert found.labels.shape == (len(found.images),)
        assert 0 <= found.labels.min() <= found.labels.max() < CLASSES
    if found.exact is not None:
        assert found.exact.dtype == torch.bool
        assert found.exact.shape == (len(found.images),)


@each_attack
def test_the_easy_case_beats_the_blind_guess(name, dtype):
    """If it fails, the attack is dead: it shows no more of images 0-3 than their best constant colors do."""
    case = CASES[name]
    model = build(case, dtype)
    observations = [share(case, model, i) for i in range(4)]
    found = run_many(name, model, observations, generators=[seeded(i) for i in range(4)], **equipped(case.settings))
    images, labels = private(dtype, 0, 1, 2, 3)
    blind = gia.metrics.psnr(gia.metrics.blind_guess(images), images)
    seen = gia.metrics.psnr(torch.cat([each.images for each in found]), images)
    assert (seen - blind).min() > 0
    assert (seen - blind).mean() >= case.gain
    if all(each.labels is not None for each in found):
        assert torch.cat([each.labels for each in found]).equal(labels)


@each_attack
@pytest.mark.parametrize("count", [1, 3])
def test_gradient_evaluations_are_the_calls_of_the_loss(name, count):
    """If it fails, the machine-free cost that baselines pin is wrong."""
    model = build(CASES[name], torch.float32)
    calls = []

    def counted(logits, labels):
        calls.append(len(logits))
        return cross_entropy(logits, labels)

    found = ATTACKS[name](
        model,
        share(CASES[name], model, *CASES[name].batch(*range(count))),
        generator=seeded(),
        loss=counted,
        **quick(name),
    )
    assert found.gradient_evaluations == len(calls)
    assert not CARDS[name].iterative or len(calls) > quick(name)["steps"]


def calm(name):
    """Quick settings of a search that does not multiply rounding: L-BFGS without a line search may diverge at lr=1."""
    return quick(name) | ({"lr": 0.01} if name == "dlg" else {})


@each_attack
def test_trials_together_give_what_they_give_alone(name):
    """If it fails, trials mix: a result depends on what else was attacked in the same search, or on its order.

    In float64, to 1e-9: trials that run together are summed in another order than one that runs alone.
    """
    model = build(CASES[name], torch.float64)
    batches = [CASES[name].batch(*pair) for pair in ((0, 1), (5, 6), (2, 3))]
    observations = [share(CASES[name], model, *batch) for batch in batches]
    alone = [ATTACKS[name](model, each, generator=seeded(i), **calm(name)) for i, each in enumerate(observations)]
    together = run_many(name, model, observations, generators=[seeded(i) for i in range(3)], **calm(name))
    backwards = run_many(name, model, observations[::-1], generators=[seeded(i) for i in (2, 1, 0)], **calm(name))
    for one, two, three in zip(alone, together, backwards[::-1], strict=True):
        for other in (two, three):
            torch.testing.assert_close(other.images, one.images, rtol=0, atol=1e-9)
            assert other.gradient_evaluations == one.gradient_evaluations
            assert (other.objective is None) == (one.objective is None)
            assert other.objective is None or other.objective == pytest.approx(one.objective, rel=1e-7, abs=1e-12)


@each_search
def test_a_search_says_whether_it_converged_and_ends_at_its_cap(name):
    """If it fails, a search exceeds its cap or its count, or one that ended there passes for converged."""
    model = build(CASES[name], torch.float32)
    observation = share(CASES[name], model, 0)
    calls = []

    def counted(logits, labels):
        calls.append(len(logits))
        return cross_entropy(logits, labels)

    settings = quick(name) | {"steps": 8, "loss": counted}
    fixed = ATTACKS[name](model, observation, generator=seeded(), **settings)
    expected = len(calls)
    found = ATTACKS[name](model, observation, generator=seeded(), converged=0.01, **settings)
    assert (fixed.converged, found.converged) == (None, False)
    assert found.gradient_evaluations == len(calls) - expected
    assert fixed.gradient_evaluations == expected
    # The two inner steps of L-BFGS that end early are not equally many in both.
    assert found.gradient_evaluations == expected == 9 or name in ("dlg", "idlg")
    with pytest.raises(ValueError, match="converged: expected a share between 0 and 1, or None, got 2"):
        ATTACKS[name](model, observation, generator=seeded(), converged=2, **settings)


class Scripted(Trials):
    """Each trial's constant phase ends after 1 to 7 steps, according to its start alone."""

    def __init__(self, update, variables, **settings):
        self.ends = [1 + int(1e4 * float(own.abs().sum())) % 7 for own in variables[0]]
        super().__init__(update, variables, **settings)

    def go_on(self, done):
        for group, end in zip(self._groups, self.ends, strict=True):
            if done == end:
                group.decay(done, self._steps, converged=True)
        return super().go_on(done)


@each_search
def test_trials_that_end_at_different_steps_give_what_they_give_alone(name, monkeypatch):
    """In float64, to 1e-9, as above. If it fails, a trial that goes on alone is taken for another, or one that is
    finished is still searched."""
    monkeypatch.setattr(loop, "Trials", Scripted)
    model = build(CASES[name], torch.float64)
    observations = [share(CASES[name], model, *CASES[name].batch(*pair)) for pair in ((0, 1), (5, 6), (2, 3))]
    settings = calm(name) | {"steps": 12, "converged": 0.01}
    alone = [ATTACKS[name](model, each, generator=seeded(i), **settings) for i, each in enumerate(observations)]
    together = run_many(name, model, observations, generators=[seeded(i) for i in range(3)], **settings)
    assert len({one.gradient_evaluations for one in alone}) > 1
    for one, two in zip(alone, together, strict=True):
        # dlg takes 240 inner steps here, which multiply rounding a little even at a small step size.
        torch.testing.assert_close(two.images, one.images, rtol=0, atol=1e-7 if name == "dlg" else 1e-9)
        assert two.gradient_evaluations == one.gradient_evaluations
        assert two.converged == one.converged
        assert two.objective == pytest.approx(one.objective, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "silent"),
    [(name, "") for name in ATTACKS] + [("idlg", r"fc\."), ("fishing", r"(?!fc\.)")],
    ids=[*ATTACKS, "idlg without a label", "fishing in the classifier alone"],
)
def test_a_client_that_sends_zeros_is_lost_alone(name, silent):
    """One client among three that sends zeros, at least where the attack reads, then nothing else. If it fails, it ends
    the attack on all, or gets an image."""
    model = build(CASES[name], torch.float64)
    live = [share(CASES[name], model, *CASES[name].batch(*pair)) for pair in ((0, 1), (2, 3))]
    zeros = {key: g * 0 if re.match(silent, key) else g for key, g in live[0].gradients.items()}
    observations = [live[0], replace(live[0], gradients=zeros), live[1]]
    settings = quick(name)
    found = run_many(name, model, observations, generators=[seeded(i) for i in range(3)], **settings)
    alone = run_many(name, model, live, generators=[seeded(0), seeded(2)], **settings)
    assert [len(each.images) for each in found] == [len(alone[0].images), 0, len(alone[1].images)]
    assert [each.lost > 0 for each in found] == [False, True, False]
    assert found[1].images.shape[1:] == alone[0].images.shape[1:]
    for one, two in zip(found[::2], alone, strict=True):
        torch.testing.assert_close(one.images, two.images, rtol=0, atol=1e-7)
    with pytest.raises(NothingFound, match="gradients: expected"):
        run_many(name, model, [observations[1]] * 2, generators=[seeded(0), seeded(1)], **settings)


@each_search
def test_the_data_term_is_zero_at_the_truth_and_larger_elsewhere(name, dtype):
    """For a batch and, where it is simulated, for local training. If it fails, images that were found cannot be
    compared with the private ones: another gradient, objective or mode is compared than the attack's."""
    case, generator = CASES[name], seeded(3)
    model = build(case, dtype)
    isolated = "an image for each" in case.exempt
    batch = (0,) if isolated else case.batch(0, 1, 2)
    images, labels = private(dtype, *batch)
    order = labels.argsort(stable=True)  # in which an observation holds them
    images, labels = images[order], labels[order]
    shared = [gia.share_gradient(model, images, labels, reveal=case.reveal)]
    if "simulated local training" not in case.exempt:
        local = gia.LocalTraining(epochs=2, batch_size=2, lr=0.1)
        shared.append(gia.share_update(model, images, labels, local=local, reveal=("labels", "local")))
    settings = {name: value for name, value in quick(name).items() if name != "steps"}
    for observation in shared:
        noisy = images + 0.1 * torch.randn(images.shape, generator=generator).to(dtype)
        noise = torch.rand(images.shape, generator=generator).to(dtype)
        at = [attacks.data_term(name, model, observation, each, labels, **settings) for each in (images, noisy, noise)]
        assert abs(at[0]) <= (1e-14 if dtype == torch.float64 else 1e-6) * max(1, at[2])
        assert max(at[0], 0) < at[1] < at[2]
        assert attacks.data_terms(name, model, observation, [images, noisy, noise], labels, **settings) == at
        if observation.labels is not None:
            assert attacks.data_term(name, model, observation, noisy, **settings) == at[1]


@each_search
def test_the_data_term_of_images_that_were_found_is_the_objective_without_priors(name):
    """If it fails, the data term is of another scale or of other layers than what the attack minimizes."""
    case = CASES[name]
    model = build(case, torch.float64)
    observation = share(case, model, *case.batch(0, 1))
    known = inspect.signature(attacks.ATTACKS[name]).parameters
    none = {key: 0.0 for key in ("total_variation", "l2", "batch_norm", "divergence") if key in known}
    settings = quick(name) | none
    found = ATTACKS[name](model, observation, generator=seeded(), **settings)
    if name in ("dlg", "idlg") and not bool(((found.images > 0) & (found.images < 1)).all()):
        pytest.skip("its images were clamped after the search")
    term = attacks.data_term(name, model, observation, found.images, found.labels, **settings)
    assert term == pytest.approx(found.objective, rel=1e-9)


@each_search
def test_zero_steps_return_the_start(name, dtype):
    """If it fails, a search cannot be told from its start, and the start is not what the callback sees, or not what an
    interrupt before the first step returns."""
    model = build(CASES[name], dtype)
    observation = share(CASES[name], model, 0)
    seen = []
    watched = quick(name) | {"steps": 1, "callback": lambda progress: seen.append(progress.variables[0].clone())}
    ATTACKS[name](model, observation, generator=seeded(), **watched)
    none = ATTACKS[name](model, observation, generator=seeded(), **quick(name) | {"steps": 0})
    if "the start is an image" not in CASES[name].exempt:
        assert none.images.equal(seen[0][0].clamp(0, 1))

    def stop(_):
        raise KeyboardInterrupt

    with pytest.warns(Interrupted, match="step 0 of 1"):
        stopped = ATTACKS[name](model, observation, generator=seeded(), **watched | {"callback": stop})
    assert stopped.images.equal(none.images)
    assert none.gradient_evaluations == 1


@each_search
def test_a_callback_sees_each_step_and_the_best_objective_never_rises(name):
    """If it fails, progress bars count wrongly, or what is called the best is not."""
    model = build(CASES[name], torch.float32)
    seen = []
    found = ATTACKS[name](
        model, share(CASES[name], model, 0), generator=seeded(), callback=seen.append, **quick(name) | {"steps": 4}
    )
    best = [float(progress.best) for progress in seen] + [found.objective]
    assert [(progress.step, progress.steps) for progress in seen] == [(step, 4) for step in range(4)]
    assert best[0] == torch.inf
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[1]


@each_search
def test_an_interrupt_returns_the_best_so_far(name):
    """If it fails, Ctrl-C throws away a search of hours."""
    model = build(CASES[name], torch.float32)
    observation = share(CASES[name], model, 0)
    seen = []

    def stop(progress):
        seen.append(float(progress.best))
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.warns(Interrupted, match="step 2 of 9"):
        found = ATTACKS[name](model, observation, generator=seeded(), **quick(name) | {"steps": 9, "callback": stop})
    assert found.objective == seen[-1] < seen[1]


@each_search
def test_an_objective_that_is_never_finite_again_ends_the_search_and_names_the_step(name):
    """If it fails, a diverged search passes for a weak one."""
    model = build(CASES[name], torch.float32)
    observation = share(CASES[name], model, 0)
    steps = []

    def breaking(logits, labels):
        return cross_entropy(logits, labels) * (torch.nan if len(steps) == 3 else 1)

    with pytest.raises(NothingFound, match="none that is finite in its only trial by step 2"):
        ATTACKS[name](
            model,
            observation,
            generator=seeded(),
            **quick(name) | {"steps": 5, "loss": breaking, "callback": lambda progress: steps.append(progress.step)},
        )


@each_search
def test_simulated_local_training_is_counted_step_by_step(name):
    """If it fails, an attack on federated averaging looks as cheap as one on a single gradient."""
    if "simulated local training" in CASES[name].exempt:
        pytest.skip(CASES[name].exempt["simulated local training"])
    model = build(CASES[name], torch.float32)
    batch = CASES[name].batch(0, 1, 2)
    images, labels = private(torch.float32, *batch)
    local = gia.LocalTraining(epochs=2, batch_size=2, lr=0.1)
    observation = gia.share_update(model, images, labels, local=local, reveal=("labels", "local"))
    calls = []

    def counted(logits, labels):
        calls.append(len(logits))
        return cross_entropy(logits, labels)

    one_by_one = {"steps": 1, **({"optimizer": "adam"} if name == "ggl" else {})}  # a generation is one call of `vmap`
    found = ATTACKS[name](model, observation, generator=seeded(), loss=counted, **one_by_one)
    assert found.gradient_evaluations == len(calls)
    assert calls[:4] == ([2, 1, 2, 1] if len(batch) == 3 else [1, 1, 1, 1])


@each_attack
def test_private_data_changed_after_sharing_changes_nothing(name):
    """If it fails, an observation still holds on to the client's tensors: the wall has a hole."""
    model = build(CASES[name], torch.float32)
    images, labels = private(torch.float32, 0)
    observation = gia.share_gradient(model, images, labels, reveal=CASES[name].reveal)
    before = ATTACKS[name](model, observation, generator=seeded(), **quick(name))
    images.zero_()
    labels.zero_()
    assert same_reconstruction(before, ATTACKS[name](model, observation, generator=seeded(), **quick(name)))


def test_run_many_knows_its_attacks():
    """If it fails, a mistyped name is a KeyError that does not say what there is."""
    with pytest.raises(ValueError, match=r"attack: expected one of .*'linear_layer'.*, got 'dlgg'"):
        run_many("dlgg", tangled(), [], generators=[])


@each_attack
def test_trials_must_be_alike_and_have_a_generator_each(name):
    """If it fails, trials of different form are searched as if they were alike."""
    model = build(CASES[name], torch.float32)
    one, two = share(CASES[name], model, 0), share(CASES[name], model, 0, 1)
    with pytest.raises(ValueError, match="observations: expected at least one"):
        run_many(name, model, [], generators=[], **quick(name))
    with pytest.raises(ValueError, match="generators: expected 2, one per observation, got 1"):
        run_many(name, model, [one, one], generators=[seeded()], **quick(name))
    with pytest.raises(ValueError, match="observations: expected the same batch_size in all trials"):
        run_many(name, model, [one, two], generators=[seeded(), seeded()], **quick(name))
    with pytest.raises(ValueError, match="observations: expected the same training in all trials"):
        run_many(name, model, [one, replace(one, training=True)], generators=[seeded(), seeded()], **quick(name))
    labelled = replace(one, labels=torch.tensor([3])), replace(one, labels=None)
    with pytest.raises(ValueError, match="observations: expected labels in all trials or in none"):
        run_many(name, model, labelled, generators=[seeded(), seeded()], **quick(name))
