"""Latent search: what it finds, that both optimizers keep to their budget, bound and generator, and the mirror."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import gia
from gia.attacks import ATTACKS, run_many
from gia.attacks.generation.decoding import as_images
from gia.defenses import clip, noise, prune, quantize
from gia.federated import set_mode

ggl = ATTACKS["ggl"]
SIDE, CLASSES = 8, 4


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


class Small(nn.Module):
    """A decoder with four latents, batch normalization, and classes if asked for."""

    def __init__(self, conditional=False):
        super().__init__()
        self.latent_shape = (4,)
        self.norm = nn.BatchNorm1d(4)
        self.weight = nn.Parameter(torch.randn(4, SIDE * SIDE, generator=seeded(5)))
        if conditional:
            self.forward = self.conditional

    def forward(self, latents):
        return (self.norm(latents) @ self.weight).sigmoid().view(-1, 1, SIDE, SIDE)

    def conditional(self, latents, labels):
        # A class is a brightness, so the label of an image can be read from it.
        brightness = labels / CLASSES + 0 * self.norm(latents).sum(1)
        return brightness.view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)


class Fixed(nn.Module):
    """A decoder of one image, whatever z."""

    latent_shape = (4,)

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, latents):
        return self.image.expand(len(latents), -1, -1, -1) + 0 * latents.sum()


@pytest.fixture
def victim():
    """A smooth net for gray images."""
    return gia.models.build("mlp", num_classes=CLASSES, image_size=SIDE, channels=1, width=16, generator=seeded())


def share(victim, images, *labels, **settings):
    """The gradient of images with these labels, which leak."""
    return gia.share_gradient(victim, images, torch.tensor(labels), reveal=("labels",), **settings)


def own_sample(decoder, seed=1):
    """An image that the decoder makes of a likely z."""
    with torch.no_grad():
        return set_mode(decoder, False)(torch.randn(1, *decoder.latent_shape, generator=seeded(seed)))


def test_samples_of_the_face_decoder_come_back_and_real_faces_less_so():
    """Two of the generator's own samples at 20 dB and more, two ORL faces below them: the prior is an upper bound.

    If it fails, the search does not follow the gradient through the decoder, or a claim shows the easy case alone.
    """
    decoder = gia.models.pretrained("face-decoder")
    faces = gia.data.load("faces", image_size=32, channels=3)
    net = gia.models.build("convnet", num_classes=40, image_size=32, width=16, generator=seeded())
    with torch.no_grad():
        own = as_images(decoder(torch.randn(2, 100, generator=seeded(1))), (3, 32, 32))
    images = torch.cat([own, faces.images[[0, 100]]])
    shared = [share(net, image[None], 0) for image in images]
    found = run_many("ggl", net, shared, generators=[seeded(i) for i in range(4)], optimizer="adam", steps=70)
    psnr = gia.metrics.psnr(torch.cat([each.images for each in found]), images)
    assert psnr[:2].min() >= 20
    assert psnr[2:].max() < psnr[:2].min()


@pytest.mark.parametrize(("optimizer", "steps"), [("cma", 300), ("adam", 100)])
def test_both_optimizers_find_a_sample_of_a_small_decoder(victim, optimizer, steps):
    """If it fails, candidates and their values are mixed up, or z is moved away from the match."""
    decoder = Small()
    image = own_sample(decoder)
    settings = {"decoder": decoder, "optimizer": optimizer, "population": 10, "lr": 0.1}
    found = ggl(victim, share(victim, image, 1), generator=seeded(), steps=steps, **settings)
    start = ggl(victim, share(victim, image, 1), generator=seeded(), steps=0, **settings)
    assert gia.metrics.psnr(found.images, image) > 30 > gia.metrics.psnr(start.images, image)
    assert found.objective < 1e-3 * start.objective


@pytest.mark.parametrize("optimizer", ["cma", "adam"])
def test_a_budget_of_one_evaluation_returns_a_sample_of_the_right_class(victim, optimizer):
    """The released notebooks' setting. If it fails, it costs more than one evaluation, or labels are not handed on."""
    images = torch.rand(3, 1, SIDE, SIDE, generator=seeded())
    settings = {"decoder": Small(conditional=True), "optimizer": optimizer, "steps": 0}
    found = ggl(victim, share(victim, images, 3, 0, 1), generator=seeded(), **settings)
    assert found.labels.tolist() == [0, 1, 3]
    assert found.images.mean((1, 2, 3)).tolist() == pytest.approx([0, 1 / 4, 3 / 4])
    assert found.gradient_evaluations == 1


@pytest.mark.parametrize("optimizer", ["cma", "adam"])
def test_z_stays_within_its_bound(victim, optimizer):
    """If it fails, the search leaves what the decoder was trained on."""
    decoder, seen = Small(), []
    settings = {"decoder": decoder, "optimizer": optimizer, "population": 5, "bound": 0.3, "steps": 40}
    watch = {"callback": lambda progress: seen.append(progress.variables[0].abs().max())}
    ggl(victim, share(victim, own_sample(decoder), 1), generator=seeded(), **settings, **watch)
    assert 0.2 < max(seen) <= 0.3 + 1e-6


def test_a_generation_is_drawn_before_any_of_its_values_is_used(victim):
    """The first five candidates do not depend on what was shared, the next do. If it fails, `population` is ignored."""

    def candidates(seed):
        seen = []
        ggl(
            victim,
            share(victim, own_sample(Small(), seed), 1),
            generator=seeded(),
            decoder=Small(),
            population=5,
            steps=10,
            callback=lambda progress: seen.append(progress.variables[0].clone()),
        )
        return torch.stack(seen)

    one, other = candidates(1), candidates(2)
    assert one[:5].equal(other[:5])
    assert not one[5].equal(other[5])


def test_evolution_draws_from_the_generator_alone_and_leaves_no_trace(victim, capfd, tmp_path, monkeypatch):
    """If it fails, cma seeds or reads numpy's global state, prints, writes its logs, or one seed gives two results."""
    monkeypatch.chdir(tmp_path)
    observation = share(victim, own_sample(Small()), 1)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - it is what is watched
    runs = [ggl(victim, observation, generator=seeded(s), decoder=Small(), steps=60).images for s in (0, 0, 1)]
    assert runs[0].equal(runs[1])
    assert not runs[0].equal(runs[2])
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_trials_of_an_evolution_do_not_mix(victim):
    """If it fails, a result depends on what else was attacked, or a candidate gets another trial's value."""
    observations = [share(victim, own_sample(Small(), seed), 1) for seed in (1, 2, 3)]
    settings = {"decoder": Small(), "population": 5, "steps": 50}
    together = run_many("ggl", victim, observations, generators=[seeded(i) for i in range(3)], **settings)
    for i, observation in enumerate(observations):
        alone = ggl(victim, observation, generator=seeded(i), **settings)
        torch.testing.assert_close(together[i].images, alone.images, rtol=0, atol=1e-5)
        assert together[i].gradient_evaluations == alone.gradient_evaluations == 51


def halved(observation):
    """A defence: gradients at half their size."""
    return replace(observation, gradients={name: g / 2 for name, g in observation.gradients.items()})


def signed(observation):
    """Another: signs only."""
    return replace(observation, gradients={name: g.sign() for name, g in observation.gradients.items()})


def test_the_clients_defence_is_mirrored_in_order(victim):
    """At the private image itself, a mirrored objective is zero. If it fails, what is compared is not what was shared,
    or the target is defended twice."""
    image = torch.rand(1, 1, SIDE, SIDE, generator=seeded())
    observation = halved(signed(share(victim, image, 2)))
    before = {name: g.clone() for name, g in observation.gradients.items()}
    settings = {"generator": seeded(), "decoder": Fixed(image), "steps": 0}
    assert ggl(victim, observation, mirror=(signed, halved), **settings).objective == 0
    assert ggl(victim, observation, mirror=(halved, signed), **settings).objective > 0
    assert ggl(victim, observation, **settings).objective > 0
    settings = {"decoder": Fixed(image), "mirror": (signed, halved)}
    assert gia.attacks.data_term("ggl", victim, observation, image, **settings) == 0
    assert all(observation.gradients[name].equal(g) for name, g in before.items())


@pytest.mark.parametrize(
    "defenses",
    [(clip(norm=1e-3), prune(keep=0.3)), (prune(keep=0.3), quantize(bits=1)), (noise(std=0.1),)],
    ids=["clip, prune", "prune, signs", "noise"],
)
def test_a_mirror_takes_the_client_s_own_defenses(victim, defenses):
    """At the private image the data term is zero where the defense is a function of the gradient. Noise that the
    attacker draws again is other noise, unless its generator has the client's seed."""
    image, label = torch.rand(1, 1, SIDE, SIDE, generator=seeded()), torch.tensor([2])
    client = gia.federated.Client(
        image, label, defenses=defenses, defense_generator=torch.Generator().manual_seed(5), reveal=("labels",)
    )
    observation, settings = client.answer(victim), {"decoder": Fixed(image)}

    def term(seed):
        mirror = tuple(partial(each, generator=torch.Generator().manual_seed(seed)) for each in defenses)
        return gia.attacks.data_term("ggl", victim, observation, image, **settings, mirror=mirror)

    assert term(5) == pytest.approx(0, abs=1e-12)
    assert (term(6) > 1e-6) == (defenses == (noise(std=0.1),))
    assert gia.attacks.data_term("ggl", victim, observation, image, **settings) > 1e-6


def test_local_training_is_simulated_without_a_gradient_too(victim):
    """At the private image itself, the objective is zero. If it fails, an update is compared with a gradient."""
    image = torch.rand(1, 1, SIDE, SIDE, generator=seeded())
    local = gia.LocalTraining(epochs=3, batch_size=1, lr=0.1)
    observation = gia.share_update(victim, image, torch.tensor([2]), local=local, reveal=("labels", "local"))
    found = ggl(victim, observation, generator=seeded(), decoder=Fixed(image), steps=0)
    assert found.objective < 1e-12
    assert found.gradient_evaluations == 3


def test_the_real_face_decoder_is_the_default_and_takes_the_clients_shape(victim):
    """If it fails, gray or small images cannot be attacked without a decoder of their own."""
    observation = share(victim, torch.rand(2, 1, SIDE, SIDE, generator=seeded()), 0, 1)
    decoder = gia.models.pretrained("face-decoder")
    found = ggl(victim, observation, generator=seeded(), optimizer="adam", steps=0, bound=None)
    with torch.no_grad():
        expected = as_images(decoder(torch.randn(2, 100, generator=seeded())), (1, SIDE, SIDE))
    torch.testing.assert_close(found.images, expected)


def test_a_decoder_is_run_in_evaluation_mode_and_left_alone(victim):
    """If it fails, batch statistics mix the images of all trials, or a user's decoder comes back changed."""
    decoder = Small().train()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    observation = share(victim, own_sample(Small()), 1)
    ggl(victim, observation, generator=seeded(), decoder=decoder, optimizer="adam", steps=2)
    assert decoder.training
    assert all(decoder.state_dict()[name].equal(value) for name, value in before.items())
    assert all(p.requires_grad and p.grad is None for p in decoder.parameters())


class Bright(Small):
    """A decoder whose images leave [0, 1]."""

    def forward(self, latents):
        return 2 + super().forward(latents)


class Few(Small):
    """A decoder that loses images."""

    def forward(self, latents):
        return super().forward(latents)[:0]


class Two(Small):
    """A decoder of two classes."""

    def forward(self, latents, labels):
        return super().forward(latents) * nn.functional.one_hot(labels, 2).sum(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": "sgd"}, ValueError, r"optimizer: expected one of \['cma', 'adam'\], got 'sgd'"),
        ({"population": 1}, ValueError, "population: expected at least 2, got 1"),
        ({"lr": 0}, ValueError, "lr: expected a step size > 0, got 0"),
        ({"bound": -1.0}, ValueError, r"bound: expected > 0 or None, got -1\.0"),
        ({"mirror": halved}, TypeError, "mirror: expected a sequence of callables"),
        ({"mirror": (halved,), "optimizer": "adam"}, ValueError, "mirror: expected optimizer='cma'"),
        (
            {"mirror": (lambda o: o.gradients,)},
            TypeError,
            "mirror: expected callables that return an Observation, got dict",
        ),
        ({"decoder": Bright()}, ValueError, r"decoder: expected images in \[0, 1\], got 2\.5 to 2\.5"),
        ({"decoder": Few()}, ValueError, "decoder: expected 1 images, got 0"),
        ({"decoder": Two()}, ValueError, r"decoder: expected one that takes latents \(1, 4\) and labels \[3\], got"),
    ],
    ids=["optimizer", "population", "lr", "bound", "no sequence", "adam", "no observation", "range", "count", "labels"],
)
def test_bad_settings_are_named(victim, settings, error, message):
    """If it fails, a mistake ends deep inside cma or torch, or in a score."""
    observation = share(victim, own_sample(Small()), 3)
    with pytest.raises(error, match=message):
        ggl(victim, observation, generator=seeded(), **{"decoder": Small(), "steps": 1, **settings})


@pytest.mark.parametrize(("optimizer", "first"), [("cma", 20 * 4), ("adam", 100)])
def test_a_search_is_first_asked_after_generations_of_evolution_or_steps(victim, optimizer, first):
    """A decoder of one image, so nothing falls and the first check ends the search. If it fails, the first candidates
    of evolution, of which most are no better than the best, pass for convergence."""
    image = torch.full((1, 1, SIDE, SIDE), 0.5)
    observation = share(victim, torch.rand(1, 1, SIDE, SIDE, generator=seeded()), 1)
    settings = {"optimizer": optimizer, "population": 4, "steps": 900, "converged": 0.01}
    found = ggl(victim, observation, generator=seeded(), decoder=Fixed(image), **settings)
    assert (found.gradient_evaluations, found.converged) == (first + -(-first // 3) + 1, True)


class Shared(list):
    """A list that a copy of its holder shares."""

    def __deepcopy__(self, memo):
        return self


class Counting(Small):
    """A decoder that records how many latents it gets at once, and has room for some."""

    def __init__(self, room=99):
        super().__init__()
        self._sizes, self.room = Shared(), room  # what begins with _ is no part of a decoder's identity

    def forward(self, latents):
        if len(latents) > self.room:
            raise torch.OutOfMemoryError("no room")
        self._sizes.append(len(latents))
        return super().forward(latents)


def evolved(decoder, victim, **settings):
    """Candidates in float64, and what is found: 14 evaluations in generations of 5."""
    seen = []
    observation = share(victim.double(), own_sample(Small()).double(), 1)
    settings = {"population": 5, "steps": 13, "callback": lambda p: seen.append(p.variables[0].clone()), **settings}
    found = ggl(victim, observation, generator=seeded(), decoder=decoder, **settings)
    return seen, found


def test_a_generation_is_evaluated_at_once_and_moves_as_one_by_one(victim):
    """An identity as mirror lets the same search evaluate one candidate at a time. If it fails, candidates get each
    other's values, a budget is overspent, or an evolution takes as long as it took before."""
    decoder = Counting()
    together, found = evolved(decoder, victim)
    assert decoder._sizes == [1, 5, 5, 4, 1]  # the check of the decoder, three generations, and the result
    one_by_one, alone = evolved(Counting(), victim, mirror=(lambda observation: observation,))
    torch.testing.assert_close(together, one_by_one, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.images, alone.images, rtol=1e-7, atol=1e-9)
    assert found.objective == pytest.approx(alone.objective, rel=1e-9)
    assert found.gradient_evaluations == alone.gradient_evaluations == 14


def test_a_generation_that_does_not_fit_is_split(victim, caplog):
    """If it fails, an attack that ran one candidate at a time ends by want of memory, or counts what failed."""
    whole, _ = evolved(Counting(), victim)
    decoder = Counting(room=2)
    split, found = evolved(decoder, victim)
    assert decoder._sizes == [1, 2, 2, 1, 2, 2, 1, 2, 2, 1]
    assert "a search of 5 candidates evaluates 2 at a time from now on" in caplog.text
    torch.testing.assert_close(split, whole, rtol=1e-7, atol=1e-9)
    assert found.gradient_evaluations == 14


def test_a_large_generation_is_evaluated_in_parts_of_64_images(victim):
    """If it fails, 50 candidates of a large batch take 50 times its memory, and a system without an error for want of
    memory ends the process."""
    decoder = Counting()
    evolved(decoder, victim, population=80, steps=79)
    assert decoder._sizes == [1, 64, 16, 1]


def test_a_killed_evolution_asks_for_no_candidate_twice(victim, tmp_path):
    """It is killed in the middle of a generation. If it fails, the rest of it is evaluated again, in another batch and
    with other last bits."""
    whole, _ = evolved(Counting(), victim)
    decoder = Counting()

    def kill(progress):
        if progress.step == 7:
            raise LookupError("a kill")

    observation = share(victim, own_sample(Small()).double(), 1)
    settings = {"decoder": decoder, "population": 5, "steps": 13}
    with pytest.raises(LookupError), gia.attacks.checkpointing(tmp_path / "run", every=0):
        ggl(victim, observation, generator=seeded(), callback=kill, **settings)
    decoder._sizes, seen = Shared(), []
    with gia.attacks.checkpointing(tmp_path / "run", every=0):
        watch = {"callback": lambda progress: seen.append(progress.variables[0].clone())}
        ggl(victim, observation, generator=seeded(), **settings, **watch)
    assert decoder._sizes == [1, 4, 1]
    assert torch.stack(seen).equal(torch.stack(whole[7:]))


def test_a_mirror_is_asked_in_the_order_of_the_steps(victim):
    """A defence that draws numbers is asked once before each step. If it fails, a generation's draws are those of other
    candidates, and a search with noise is not the one that it was."""
    asked = []
    settings = {"mirror": (lambda o: asked.append("mirror") or o,), "callback": lambda p: asked.append(p.step)}
    evolved(Small(), victim, **settings)
    assert asked[:6] == [0, "mirror", 1, "mirror", 2, "mirror"]
