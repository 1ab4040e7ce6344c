"""Pairs of a gradient and its images are those that a client would give."""

from __future__ import annotations

import pytest
import torch

import gia
from gia.attacks import Inverter
from gia.attacks.generation.pairs import gradients_of_batches, gradients_of_images
from tests.unit.attacks.generation.victims import DIGITS, normalized, victim

IMAGES, LABELS = DIGITS.images[:12].double(), DIGITS.labels[:12]
CE = torch.nn.functional.cross_entropy


def blank(model, *, batch_size, training=False, local=None):
    """An inverter without scales yet, every entry a feature."""
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    form = {"batch_size": batch_size, "training": training, "local": local}
    inverter = Inverter(shapes=shapes, image_shape=(1, 8, 8), hashed=None, hidden=(), **form).double()
    inverter.scales.zero_()
    return inverter


def buckets(inverter, observation):
    """What an inverter sees of an observation."""
    return inverter.buckets([observation.gradients[name][None] for name in inverter.shapes])[0]


@pytest.mark.parametrize("make", [victim, normalized], ids=["LeNet", "with running statistics"])
def test_gradients_of_single_images_put_together_are_those_of_batches(make):
    """To 1e-10. If it fails, an inverter learns from gradients that no client sends."""
    model = make(torch.float64).eval()
    inverter = blank(model, batch_size=3)
    pairs = gradients_of_images(model, inverter, IMAGES, LABELS, loss=CE, training=False)
    rows, members = pairs.drawn(torch.Generator().manual_seed(0))
    for row, member in zip(rows[:4], members[:4], strict=True):
        expected = buckets(inverter, gia.share_gradient(model, IMAGES[member], LABELS[member]))
        torch.testing.assert_close(pairs.buckets[row].mean(0), expected, rtol=1e-10, atol=1e-12)


def test_each_image_occurs_once_in_a_batch_and_equally_often():
    """If it fails, some images are learned more than others, or a batch holds one twice, which no client's does."""
    model = victim(torch.float64)
    pairs = gradients_of_images(model, blank(model, batch_size=3), IMAGES, LABELS, loss=CE, training=False)
    _, members = pairs.drawn(torch.Generator().manual_seed(0))
    assert members.shape == (12, 3)
    assert all(len(set(batch)) == 3 for batch in members.tolist())
    assert members.flatten().bincount().tolist() == [3] * 12


def test_every_parameter_has_the_same_weight():
    """If it fails, the hash of a network shows its largest layer and hides the others."""
    model = victim(torch.float64)
    inverter = blank(model, batch_size=1)
    pairs = gradients_of_images(model, inverter, IMAGES, LABELS, loss=CE, training=False)
    sizes = [part.square().sum(1).mean() for part in pairs.buckets.split(inverter.sizes, 1)]
    torch.testing.assert_close(torch.stack(sizes), torch.ones(len(sizes), dtype=torch.float64))


def test_batch_statistics_are_those_of_the_batch():
    """If it fails, a victim in training mode is learned from running statistics, or from single images, or the rounding
    that is all of the gradient of a bias before them is scaled up to a feature."""
    model = normalized(torch.float64)
    inverter = blank(model, batch_size=3, training=True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    pairs = gradients_of_batches(
        model, inverter, IMAGES, LABELS, local=None, loss=CE, training=True, generator=torch.Generator().manual_seed(0)
    )
    for row, member in zip(pairs.buckets[:3], pairs.members[:3], strict=True):
        expected = buckets(inverter, gia.share_gradient(model, IMAGES[member], LABELS[member], training=True))
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-12)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("local", [(1, 3, 0.5, 0.0), (1, 2, 0.5, 0.9)], ids=["one step", "two steps, momentum"])
def test_an_update_is_the_one_of_local_training_in_some_order(local):
    """To 1e-9, in one of the orders that an epoch can have. If it fails, FedAvg is simulated wrongly."""
    local, model = gia.LocalTraining(*local), victim(torch.float64)
    inverter = blank(model, batch_size=3, local=local)
    pairs = gradients_of_batches(
        model, inverter, IMAGES, LABELS, local=local, loss=CE, training=False, generator=torch.Generator()
    )
    orders = [torch.tensor([o]) for o in ([0, 1, 2], [0, 2, 1], [1, 2, 0])]  # which one comes last matters

    def update_in(order, member):
        return gia.share_update(model, IMAGES[member], LABELS[member], local=local, order=order)

    for row, member in zip(pairs.buckets[:3], pairs.members[:3], strict=True):
        near = [
            float(
                (buckets(inverter, gia.share_update(model, IMAGES[member], LABELS[member], local=local, order=o)) - row)
                .abs()
                .max()
            )
            for o in orders
        ]
        assert min(near) < 1e-9
    rows, members = pairs.drawn(torch.Generator())
    assert pairs.members[rows[:, 0]].equal(members)


def test_epochs_of_an_update_have_orders_of_their_own():
    """If it fails, an inverter knows only clients that never shuffle."""
    local, model = gia.LocalTraining(epochs=1, batch_size=1, lr=5.0), victim(torch.float64)
    inverter = blank(model, batch_size=3, local=local)
    pairs = gradients_of_batches(
        model, inverter, IMAGES, LABELS, local=local, loss=CE, training=False, generator=torch.Generator()
    )
    plain = [buckets(inverter, gia.share_update(model, IMAGES[m], LABELS[m], local=local)) for m in pairs.members]
    as_drawn = [float((row - one).abs().max()) < 1e-9 for row, one in zip(pairs.buckets, plain, strict=True)]
    assert 0 <= sum(as_drawn) < len(as_drawn) / 2
