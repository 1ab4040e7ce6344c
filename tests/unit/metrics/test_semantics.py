"""Jaccard index of a classifier's top-k labels."""

import pytest
import torch
from torch import nn

from gia import metrics


def brightness_classes(images):
    """Six "classes" whose logits rank by closeness of the brightness to 0, .2, .4, .6, .8, 1: no ties, by hand."""
    return -(images.mean(dim=(1, 2, 3))[:, None] - torch.arange(6, dtype=images.dtype) / 5).abs()


def flat(*levels):
    """One gray image for each level."""
    return torch.stack([torch.full((3, 8, 8), level, dtype=torch.float64) for level in levels])


def test_the_index_is_the_intersection_over_the_union_by_hand():
    """If this fails, "overlap" is another quotient: top three 0 .2 .4 for .01, .4 .6 .2 for .41, 1 .8 .6 for .99."""
    reference, reconstruction = flat(0.01, 0.01, 0.01), flat(0.02, 0.41, 0.99)
    score = metrics.jaccard(reconstruction, reference, classifier=brightness_classes, k=3)
    assert score.tolist() == [1, 2 / 4, 0]
    assert metrics.jaccard(reconstruction, reference, classifier=brightness_classes, k=6).tolist() == [1, 1, 1]
    assert metrics.jaccard(reconstruction, reference, classifier=brightness_classes, k=1).tolist() == [1, 0, 0]


def test_the_reconstruction_is_clamped_before_it_is_classified():
    """If this fails, the classifier sees values that it was never trained on."""
    score = metrics.jaccard(flat(7.0), flat(1.0), classifier=brightness_classes, k=2)
    assert score.tolist() == [1]


def test_a_classifier_in_training_mode_is_refused_and_not_changed():
    """If this fails, batch statistics mix the images and scoring changes the user's model."""
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4)).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="classifier: expected all modules in eval mode"):
        metrics.jaccard(flat(0.1), flat(0.2), classifier=network, k=2)
    metrics.jaccard(flat(0.1), flat(0.2), classifier=network.eval(), k=2)
    assert all(before[name].equal(value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_k_must_be_a_positive_integer(k):
    """If this fails, a wrong k gives a number or an error that does not name it."""
    with pytest.raises(ValueError, match="k: expected a positive int"):
        metrics.jaccard(flat(0.1), flat(0.2), classifier=brightness_classes, k=k)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (lambda images: images.mean(dim=(2, 3)), "k: expected at most the number of classes, 3, got 4"),
        (lambda images: images, r"classifier: expected logits of shape \(1, classes\), got \(1, 3, 8, 8\)"),
        (lambda images: brightness_classes(images) * torch.nan, "classifier: expected finite logits"),
    ],
)
def test_unfit_logits_are_refused(classifier, message):
    """If this fails, a broken classifier gives an overlap."""
    with pytest.raises(ValueError, match=message):
        metrics.jaccard(flat(0.1), flat(0.2), classifier=classifier, k=4)
