"""Fishing (Wen et al., ICML 2022): a classifier in which all but one image's gradients vanish."""

from __future__ import annotations

import copy

import torch
from torch import nn


def classifier(model: nn.Module) -> str:
    """Name of the last linear layer, which is taken for the classifier. Raises ValueError unless it has a bias."""
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or model.get_submodule(linear[-1]).bias is None:
        raise ValueError(f"model: expected a linear classifier with a bias at the end, got the linear layers {linear}")
    return linear[-1]


def fish_class(model: nn.Module, *, target: int, row: float = 0.5, bias: float = 1000.0) -> nn.Module:
    """A copy of `model` in which only images of one class have a gradient before the classifier (Wen et al., 2022).

    The target's row becomes the constant `row`, the other rows 0, the other biases `bias`: images of other classes are
    sure of not being the target, and what else they are unsure of meets rows of zeros. An image of the target class
    is classified wrongly with certainty, so its gradient is the full one. B times the batch gradient before the
    classifier is then the sum over the images of that class: with one of them it is that image's own, with several it
    is not separated (`fish_feature`).

    Args:
        model: ends in a linear layer with a bias; it is not changed.
        target: class of the image to isolate.
        row: not 0; with features that add up to S, the manipulation is at full strength while row * S is some ten below
            `bias`.
        bias: of the other classes.

    Raises ValueError for a class that the model does not have, or `row` = 0.
    """
    if row == 0:
        raise ValueError("row: expected a number other than 0, since features reach the loss through it alone")
    return _classified(model, "target", target, row, 0.0, bias)


def fish_feature(model: nn.Module, *, decoy: int, cutoff: float, row: float = 0.5, sharpness: float = 1e4) -> nn.Module:
    """A copy of `model` in which only images with large features have a gradient before the classifier.

    For equal labels, which `fish_class` cannot separate. The feature is the sum of the classifier's inputs times
    `row`. The decoy's logit is `sharpness` * (feature - `cutoff`), all others are 0, so images above the cut-off are
    taken for the decoy and all others surely not. A linear classifier gives every label but the decoy's the same
    gradient: the labels do not matter, as long as no image has the decoy's. The decoy is a departure: with the
    cut-off in the target's own row, images of other classes would answer on the other side of it.

    B times the gradient of the decoy's bias is the number of images above the cut-off.

    Args:
        model: ends in a linear layer with a bias; it is not changed.
        decoy: a class that no private image has.
        cutoff: of the feature.
        row, sharpness: not 0, positive.

    Raises ValueError for a class that the model does not have, `row` = 0 or `sharpness` <= 0.
    """
    if row == 0 or not sharpness > 0:
        raise ValueError(f"row and sharpness: expected row other than 0 and sharpness > 0, got {row} and {sharpness}")
    return _classified(model, "decoy", decoy, row * sharpness, -cutoff * sharpness, 0.0)


def _classified(model: nn.Module, what: str, chosen: int, row: float, bias: float, others: float) -> nn.Module:
    copied = copy.deepcopy(model)
    name = classifier(copied)
    weights, biases = copied.get_parameter(f"{name}.weight"), copied.get_parameter(f"{name}.bias")
    classes = len(biases)
    if not 0 <= chosen < classes:
        raise ValueError(f"{what}: expected a class from 0 to {classes - 1}, got {chosen}")
    with torch.no_grad():
        weights.zero_()[chosen] = row
        biases.fill_(others)[chosen] = bias
    return copied
