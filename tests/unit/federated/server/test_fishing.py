"""A fished classifier: before it, B times the batch gradient is the gradient of one image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gia
from gia.federated.server import classifier, fish_class, fish_feature
from tests.contracts.cases import CLASSES, SIZE, private, tangled
from tests.contracts.snapshots import global_state, model_state

VICTIMS = {
    "convnet": {},
    "mlp": {},
    "sigmoid lenet": {"name": "lenet", "activation": "sigmoid", "init": "dlg"},
    "resnet10": {"width": 8},
}
each_victim = pytest.mark.parametrize("victim", VICTIMS)


def build(victim, seed=0):
    """One of the victims, in float64."""
    options = {"name": victim, "num_classes": CLASSES, "image_size": SIZE, **VICTIMS[victim]}
    return gia.models.build(generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **options).eval()


def before_classifier(model, images, labels):
    """The shared gradient but for the classifier, as one vector, times the number of images."""
    observation = gia.share_gradient(model, images, labels)
    kept = [g.flatten() for key, g in observation.gradients.items() if not key.startswith(classifier(model))]
    return len(images) * torch.cat(kept)


def features(model, images):
    """Half the sum of what enters the classifier."""
    seen = []
    model.get_submodule(classifier(model)).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(images)
    return seen[0].detach().sum(1) / 2


@each_victim
def test_class_fishing_leaves_the_target_alone_and_at_full_strength(victim):
    """Eight images, one of the class. If it fails, other images leak in, or the target's gradient is not the full."""
    images, labels = private(torch.float64, *range(8))
    labels = torch.tensor([1, 1, 1, 4, 0, 2, 2, 9])
    sent = fish_class(build(victim), target=4)
    both = before_classifier(sent, images, labels)
    torch.testing.assert_close(both, before_classifier(sent, images[3:4], labels[3:4]), rtol=1e-9, atol=1e-12)
    assert both.any()
    none = before_classifier(sent, images, labels.where(labels != 4, torch.tensor(5)))
    assert none.norm() < 1e-9 * both.norm()


@each_victim
def test_class_fishing_does_not_separate_equal_labels(victim):
    """Two images of the class come back as a sum. If it fails, the isolation is not understood."""
    images, labels = private(torch.float64, *range(8))
    labels = torch.tensor([1, 4, 1, 4, 0, 2, 2, 9])
    sent = fish_class(build(victim), target=4)
    both, alone = before_classifier(sent, images, labels), before_classifier(sent, images[1:2], labels[1:2])
    other = before_classifier(sent, images[3:4], labels[3:4])
    torch.testing.assert_close(both, alone + other, rtol=1e-9, atol=1e-12)


@each_victim
@pytest.mark.parametrize("labels", [[4] * 8, [1, 4, 1, 4, 0, 2, 2, 9]], ids=["equal", "mixed"])
def test_feature_fishing_leaves_the_images_above_the_cut_off_whatever_their_labels(victim, labels):
    """If it fails, images below the cut-off leak in, or labels matter; and the bias gradient does not count them."""
    images, labels = private(torch.float64, *range(8))[0], torch.tensor(labels)
    model = build(victim)
    order = features(build(victim), images).argsort(descending=True)
    values = features(build(victim), images)[order]
    for above in (1, 3):
        cutoff = float(values[above - 1] + values[above]) / 2
        sharpness = 100 / float(values[above - 1] - values[above])
        sent = fish_feature(model, decoy=7, cutoff=cutoff, sharpness=sharpness)
        expected = sum(before_classifier(sent, images[i : i + 1], labels[i : i + 1]) for i in order[:above])
        torch.testing.assert_close(before_classifier(sent, images, labels), expected, rtol=1e-7, atol=1e-9)
        assert expected.any()
        bias = gia.share_gradient(sent, images, labels).gradients[f"{classifier(model)}.bias"]
        assert 8 * float(bias[7]) == pytest.approx(above, abs=1e-6)


def test_the_given_model_is_left_alone_and_only_the_classifier_changes():
    """If it fails, a server's edit changes the model that it was given, or more than the paper's manipulation does."""
    model = tangled()
    before = model_state(model), global_state()
    for sent in (fish_class(model, target=3), fish_feature(model, decoy=3, cutoff=0.0)):
        assert (model_state(model), global_state()) == before
        parameters = dict(sent.named_parameters())
        changed = {name for name, p in model.named_parameters() if not p.equal(parameters[name])}
        assert changed == {"6.weight", "6.bias"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: fish_class(model, target=CLASSES), "target: expected a class from 0 to 9, got 10"),
        (lambda model: fish_class(model, target=0, row=0.0), "row: expected a number other than 0"),
        (lambda model: fish_feature(model, decoy=-1, cutoff=0.0), "decoy: expected a class from 0 to 9, got -1"),
        (
            lambda model: fish_feature(model, decoy=0, cutoff=0.0, sharpness=0.0),
            "sharpness: expected a positive number, got 0",
        ),
        (lambda _: fish_class(nn.Conv2d(3, 3, 3), target=0), "model: expected a linear classifier with a bias"),
        (lambda _: fish_class(nn.Linear(3, 3, bias=False), target=0), "model: expected a linear classifier"),
    ],
)
def test_what_cannot_be_fished_is_named(call, message):
    """If it fails, a manipulation that isolates nothing is sent, or an index error comes from inside."""
    with pytest.raises(ValueError, match=message):
        call(build("mlp"))
