"""Models of the tests of validation: honest ones, and copies in which something was changed."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gia import validate_model
from gia.models import build
from tests.contracts.cases import CLASSES, SIZE, private

IMAGES, LABELS = private(torch.float32, *range(8))

BATCH = (IMAGES, LABELS)


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim(name="convnet", seed=0, **options):
    """An honest model of the images."""
    options = {"width": 16} | options
    return build(name, num_classes=CLASSES, image_size=SIZE, generator=seeded(seed), **options).eval()


def changed(model, name, change):
    """A copy in which `change` was applied to one parameter, in place."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        change(copied.get_parameter(name))
    return copied


def found(*args, **settings):
    """The checks that a report names."""
    return {finding.check for finding in validate_model(*args, **settings).findings}


def normalized(seed=0, inputs=256, width=96, norm=True):
    """A perceptron with batch normalization, in evaluation mode, on gray faces of 16 x 16 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = [nn.Flatten(), nn.Linear(inputs, width), nn.BatchNorm1d(width) if norm else nn.Identity()]
        return nn.Sequential(*first, nn.ReLU(), nn.Linear(width, 40)).eval()
