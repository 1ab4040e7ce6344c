"""A decoder trained on digits makes the digits that it is asked for, and its cache never answers for another one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from claims import judges
from gia import data
from gia.federated import accuracy
from gia.models import train_decoder

DIGITS = data.load("digits")


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def quick(images=DIGITS, **settings):
    """A decoder trained on two hundred images for a moment."""
    return train_decoder(
        images.take(torch.arange(200)), **{"epochs": 1, "width": 16, "latent": 4, "generator": seeded(), **settings}
    )


def same(one, other):
    """Whether two nets have the same weights bit for bit."""
    return all(other.state_dict()[name].equal(value) for name, value in one.state_dict().items())


def test_a_judge_of_digits_recognizes_what_the_decoder_is_asked_for():
    """98 % of 1,000 samples at least, by a classifier that is right on 94 % of real digits that neither was trained on.

    If it fails, label agreement says nothing of an attack: the decoder ignores its labels, or the judge guesses.
    """
    order = torch.randperm(len(DIGITS), generator=seeded())
    public, kept = DIGITS.take(order[400:]), DIGITS.take(order[:400])
    judge = judges.perceptron(public, generator=seeded(1), cache=None)
    assert accuracy(judge, kept) >= 0.94
    decoder = train_decoder(public, generator=seeded(2))
    asked = torch.arange(10).repeat(100)
    with torch.no_grad():
        made = decoder(torch.randn(1000, *decoder.latent_shape, generator=seeded(3)), asked)
        agreement = (judge(made).argmax(1) == asked).double().mean()
    assert agreement >= 0.98
    assert made.view(100, 10, -1).std(0).mean() > 0.05, "the images of a class differ"


def test_the_judge_of_cifar_10_is_right_on_its_samples():
    """If it fails, pictures are turned or scaled on their way to the trained network."""
    images = data.load("cifar10-samples")
    assert accuracy(judges.cifar10(images, generator=seeded(), cache=None), images) == 1


def test_the_generator_alone_decides():
    """If it fails, a decoder cannot be made again, or training moves the caller's random states."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - it is what is watched
    one, again, other = quick(), quick(), quick(generator=seeded(1))
    assert same(one, again)
    assert not same(one, other)
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert not one.training
    with torch.no_grad():
        assert same(one, quick())


def test_training_in_float64_follows_the_same_draws(tmp_path):
    """If it fails, samples that are compared between machines depend on how a processor rounds float32."""
    one, double = quick(cache=tmp_path), quick(cache=tmp_path, dtype=torch.float64)
    again = quick(cache=tmp_path, dtype=torch.float64)
    assert len(list(tmp_path.iterdir())) == 2
    assert same(double, again)
    for name, value in one.state_dict().items():
        assert value.dtype is torch.float32
        assert double.state_dict()[name].dtype is torch.float64
        torch.testing.assert_close(value, double.state_dict()[name].float(), rtol=1e-3, atol=1e-4)
    rounded = double.state_dict()["layers.0.weight"].float().double()
    assert not rounded.equal(double.state_dict()["layers.0.weight"]), "weights of float32 in a wider type"


def test_a_decoder_has_the_form_that_attacks_expect():
    """If it fails, an attack gets images of another shape or range, or a label that it does not know passes."""
    decoder = quick()
    images = decoder(torch.randn(3, 4, generator=seeded()), torch.tensor([0, 9, 5]))
    assert images.shape == (3, 1, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1
    assert decoder.latent_shape == (4,)
    with pytest.raises(RuntimeError, match="Class values"):
        decoder(torch.zeros(1, 4), torch.tensor([10]))


def test_a_finished_decoder_comes_from_the_cache_unchanged(tmp_path):
    """If it fails, decoders are trained again at each level, or the next draw depends on the cache."""
    epochs, source, again = [], seeded(), seeded()
    settings = {"cache": tmp_path, "progress": lambda *seen: epochs.append(seen)}
    first = quick(**settings, generator=source, epochs=2)
    second = quick(**settings, generator=again, epochs=2)
    assert same(first, second)
    assert source.get_state().equal(again.get_state())
    assert [(done, of) for done, of, _ in epochs] == [(1, 2), (2, 2)]
    assert epochs[1][2] < epochs[0][2]


@pytest.mark.parametrize(
    "change",
    [
        *({"generator": seeded(1)}, {"epochs": 2}, {"batch_size": 32}, {"lr": 1e-3}, {"divergence": 1e-3}),
        *({"width": 8}, {"latent": 5}),
        {"images": DIGITS.take(torch.arange(len(DIGITS)).roll(1))},
        {"images": data.Images(DIGITS.images, DIGITS.labels.roll(1), DIGITS.source, DIGITS.licence, 10)},
    ],
    ids=["generator", "epochs", "batch_size", "lr", "divergence", "width", "latent", "images", "labels"],
)
def test_the_cache_does_not_answer_for_another_decoder(tmp_path, change):
    """If it fails, an attack is equipped with a decoder that was trained otherwise, or on what it must not see."""
    quick(cache=tmp_path)
    trained = []
    quick(cache=tmp_path, progress=lambda *seen: trained.append(seen), **change)
    assert trained


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"latent": 0}, "latent: expected at least 1, got 0"),
        ({"lr": 0.0}, "lr: expected a positive step size, got 0.0"),
        ({"divergence": -1.0}, "divergence: expected a weight of at least 0, got -1.0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(change, message):
    """If it fails, a decoder that was never trained is searched."""
    with pytest.raises(ValueError, match=message):
        quick(**change)
