"""Secure aggregation: the server sees the gradient over all clients' images."""

from __future__ import annotations

import pytest
import torch

import gia
from gia.defenses import secure_aggregation
from gia.federated import LocalTraining, Observation


def test_the_sum_of_three_clients_is_the_gradient_of_all_their_images() -> None:
    """The attacker's batch is that of all clients, whatever their sizes."""
    generator = torch.Generator().manual_seed(0)
    model = gia.models.build("mlp", num_classes=4, image_size=4, width=5, generator=generator, dtype=torch.float64)
    images = torch.rand(7, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([3, 1, 0, 2, 2, 1, 0])
    parts = [slice(0, 1), slice(1, 3), slice(3, 7)]
    seen = secure_aggregation([gia.share_gradient(model, images[p], labels[p], reveal=("labels",)) for p in parts])
    together = gia.share_gradient(model, images, labels, reveal=("labels",))
    assert seen.batch_size == 7
    assert seen.labels is not None
    assert seen.labels.tolist() == labels.sort().values.tolist()
    for name, expected in together.gradients.items():
        torch.testing.assert_close(seen.gradients[name], expected)


def answer(**changes: object) -> Observation:
    """A client's answer."""
    given = {"gradients": {"w": torch.ones(2)}, "image_shape": (1, 2, 2), "batch_size": 1, "labels": torch.tensor([0])}
    return Observation(**{**given, **changes})  # type: ignore[arg-type]


def test_what_one_client_alone_leaks_is_not_in_the_sum() -> None:
    """Labels of some clients do not give those of all, and no single client trained as the sum of them did."""
    local = LocalTraining(epochs=2, batch_size=1, lr=0.1)
    seen = secure_aggregation([answer(local=local), answer(labels=None, local=local)])
    assert (seen.labels, seen.local, seen.batch_norm) == (None, None, None)


def test_answers_that_do_not_fit_together_are_refused() -> None:
    """They are answers to different models or about different images."""
    with pytest.raises(ValueError, match="observations: expected at least one, got none"):
        secure_aggregation([])
    with pytest.raises(ValueError, match="observations: expected the same training"):
        secure_aggregation([answer(), answer(training=True)])
    with pytest.raises(ValueError, match="observations: expected gradients of the same parameters"):
        secure_aggregation([answer(), answer(gradients={"w": torch.ones(3)})])
