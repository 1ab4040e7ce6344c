"""Fishing (Wen et al., ICML 2022): a classifier for which the gradients of all but one image vanish."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gia.federated.layers import classifier

__all__ = ["fish_class", "fish_feature"]


def fish_class(model: nn.Module, *, target: int, row: float = 0.5, bias: float = 1000.0) -> nn.Module:
    """A copy of `model` in which only images of one class have a gradient before the classifier (Wen et al., 2022).

    The target's row of the classifier becomes the constant `row`, all other rows 0, the target's bias 0 and all other
    biases `bias`. An image of another class then has probability 0 for the target, and its remaining loss meets rows of
    zeros, so it has no gradient before the classifier. An image of the target class is misclassified with probability
    1, so it has its full gradient. B times the batch gradient before the classifier is therefore the sum over the
    images of the target class. `fish_feature` separates several of them.

    Args:
        model: ends in a linear layer with a bias; it is not changed.
        target: class of the image to isolate, from 0.
        row: not 0. If the features add up to S, the isolation is complete while row * S is at least about ten below
            `bias`.
        bias: of the other classes.

    Returns:
        The model to send.

    Raises:
        ValueError: a class that the model does not have, `row` = 0, or a model without a linear classifier.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> sent = gia.federated.server.fish_class(model, target=1)
    >>> sent.layers[-1].weight.detach()
    tensor([[0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.5000, 0.5000, 0.5000],
            [0.0000, 0.0000, 0.0000, 0.0000, 0.0000]])
    """
    if row == 0:
        raise ValueError("row: expected a number other than 0, got 0; the features reach the loss only through it")
    return _classified(model, "target", target, row, 0.0, bias)


def fish_feature(model: nn.Module, *, decoy: int, cutoff: float, row: float = 0.5, sharpness: float = 1e4) -> nn.Module:
    """A copy of `model` in which only images with large features have a gradient before the classifier.

    It separates images with equal labels, which `fish_class` cannot (Wen et al., 2022). The feature of an image is
    `row` times the sum of the classifier's inputs. The decoy's logit becomes `sharpness` * (feature - `cutoff`) and all
    other logits 0, so the model assigns images above the cut-off to the decoy class, and no image below it. The
    gradient before the classifier does not depend on the label, unless an image has the decoy's label. B times the
    gradient of the decoy's bias is the number of images above the cut-off.

    The decoy class is a departure from the paper, which puts the cut-off into the target's own row. There, images of
    other classes have a gradient when they lie below the cut-off.

    Args:
        model: ends in a linear layer with a bias; it is not changed.
        decoy: a class, from 0, that no private image has.
        cutoff: threshold of the feature.
        row: not 0.
        sharpness: positive.

    Returns:
        The model to send.

    Raises:
        ValueError: a class that the model does not have, `row` = 0, `sharpness` <= 0, or a model without a linear
            classifier.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> sent = gia.federated.server.fish_feature(model, decoy=2, cutoff=0.25, sharpness=100.0)
    >>> sent.layers[-1].bias.detach()
    tensor([  0.,   0., -25.])
    """
    if row == 0:
        raise ValueError("row: expected a number other than 0, got 0; the features reach the loss only through it")
    if not sharpness > 0:
        raise ValueError(f"sharpness: expected a positive number, got {sharpness}")
    return _classified(model, "decoy", decoy, row * sharpness, -cutoff * sharpness, 0.0)


def _classified(model: nn.Module, argument: str, chosen: int, row: float, bias: float, others: float) -> nn.Module:
    """A copy whose classifier has only zeros as weights but `row` for the chosen class, and the biases given."""
    copied = copy.deepcopy(model)
    name = classifier(copied)
    weights, biases = copied.get_parameter(f"{name}.weight"), copied.get_parameter(f"{name}.bias")
    classes = len(biases)
    if not 0 <= chosen < classes:
        raise ValueError(f"{argument}: expected a class from 0 to {classes - 1}, got {chosen}")
    with torch.no_grad():
        weights.zero_()[chosen] = row
        biases.fill_(others)[chosen] = bias
    return copied
