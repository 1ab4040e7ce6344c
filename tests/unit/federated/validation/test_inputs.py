"""What `validate_model` takes: batches as clients hold them, and models that run on them."""

from __future__ import annotations

import numpy as np
import pytest

from gia import validate_model
from tests.unit.federated.validation.models import BATCH, IMAGES, LABELS, victim


def test_arrays_are_taken_as_tensors_are():
    """If it fails, a batch that `share_gradient` takes ends in an AttributeError."""
    model = victim()
    arrays = IMAGES.numpy(), LABELS.numpy()
    assert validate_model(model, model, batch=arrays) == validate_model(model, model, batch=BATCH)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ((IMAGES, LABELS.int()), ValueError, r"labels: expected \(8,\) of int64, got \(8,\) of torch.int32"),
        ((IMAGES, LABELS.numpy().astype(np.uint8)), ValueError, r"labels: expected \(8,\) of int64"),
        ((IMAGES, LABELS[:3]), ValueError, r"labels: expected \(8,\) of int64, got \(3,\)"),
        ((IMAGES, LABELS.tolist()), TypeError, "labels: expected a tensor or a NumPy array, got list"),
        ((IMAGES * 255, LABELS), ValueError, r"images: expected values in \[0, 1\]"),
        ((IMAGES[:0], LABELS[:0]), ValueError, "images: expected at least one image, got none"),
    ],
    ids=["int32", "uint8", "fewer", "list", "255", "none"],
)
def test_the_batch_is_checked_as_a_client_s_is(batch, error, words):
    """If it fails, torch's or Python's own words are all that a client reads."""
    with pytest.raises(error, match=words):
        validate_model(victim(), batch=batch)
