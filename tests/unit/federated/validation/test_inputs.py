"""What `validate_model` takes: batches as clients hold them, and models that run on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gia import validate_model
from tests.contracts.cases import CLASSES
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


class Unrecorded(nn.Linear):
    """A layer that autograd does not see."""

    @torch.no_grad()
    def forward(self, images):
        """(N, C, H, W) -> logits."""
        return super().forward(images.flatten(1))


class Missing(nn.Linear):
    """A forward pass that dies of an error of Python, with two lines of words."""

    def forward(self, images):
        """(N, C, H, W) -> nothing."""
        raise KeyError(f"{len(images)}\nimages")


def strided(stride=1):
    """A network whose classifier fits the stride 1 only."""
    first = nn.Conv2d(IMAGES.shape[1], 4, 3, stride, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(4 * IMAGES[0, 0].numel(), CLASSES))


PIXELS = IMAGES[0].numel()
BROKEN = {
    "a stride": (
        lambda: strided(2),
        r"a forward pass on images \(8, 3, 8, 8\), got RuntimeError: mat1 and mat2 shapes cannot",
    ),
    "an error": (lambda: Missing(PIXELS, CLASSES), r"a forward pass on images .*, got KeyError: '8\\nimages'$"),
    "no gradient": (lambda: Unrecorded(PIXELS, CLASSES), "a forward pass that autograd records"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_does_not_run_on_the_batch_is_named(kind):
    """If it fails, a client that is sent such a model dies of torch's words, which name nothing."""
    make, words = BROKEN[kind]
    for arguments in ((make(),), (make(), strided())):
        with pytest.raises(ValueError, match=f"model: expected {words}"):
            validate_model(*arguments, batch=BATCH)


def test_a_broken_agreed_model_is_named_too():
    """If it fails, the comparison of forward passes ends in torch's words."""
    with pytest.raises(ValueError, match="model: expected a forward pass on images"):
        validate_model(strided(), strided(2), batch=BATCH)


def test_a_model_without_parameters_is_named():
    """If it fails, a client that is sent one reads StopIteration."""
    with pytest.raises(ValueError, match="model: expected parameters, which a client trains, got none"):
        validate_model(nn.Flatten(), batch=BATCH)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripts_are_refused_wherever_they_are():
    """Nothing sees the functions that they call. If it fails, they are not judged, and nothing says so."""
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES)))
    with pytest.raises(ValueError, match="model: expected a module of Python, got a RecursiveScriptModule"):
        validate_model(script)
    for settings in ({}, {"batch": BATCH}):
        with pytest.raises(ValueError, match=r"model: expected modules of Python.*got the script '0'"):
            validate_model(nn.Sequential(script), **settings)
