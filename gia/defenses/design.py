"""What a network leaks by its shape, and what the register says about it (arXiv 2503.11514, Sec. VI, stage 1).

The outcomes are those that the project has published: in `docs/results.md`, after the confirming run where there was
one. A finding whose row is inconclusive repeats the paper's advice, and says that it is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gia.federated.victims import victim_of

__all__ = ["DesignFinding", "design_findings"]

Outcome = Literal["supported", "inconclusive", "refuted"]

#: check -> (row of the register, its published outcome, the sentence about a finding).
CHECKS: Mapping[str, tuple[str, Outcome, str]] = {
    "linear input": (
        "linear.exact",
        "supported",
        "the first layer is linear with a bias: where one image alone reaches one of its {value} neurons, the gradient "
        "reveals that image exactly",
    ),
    "mixed linear input": (
        "linear.mixture",
        "supported",
        "where several images reach one of these {value} neurons, the gradient reveals their weighted average",
    ),
    "patch embedding": (
        "peft.embeddings",
        "supported",
        "patches are embedded by a convolution and {value} position embeddings are trained with it: the gradient "
        "reveals a single image exactly where the width is at least the number of patches",
    ),
    "sigmoid": (
        "gen_w.sigmoid/2",
        "inconclusive",
        "Sigmoid with batch normalization in train mode, in {value} places: a search over generator weights is said to "
        "work much better there",
    ),
    "few layers": (
        "op.architecture",
        "inconclusive",
        "only {value} layers with weights: optimization attacks are said to work better on shallow networks",
    ),
}

#: The shallower of the two networks that `op.architecture` compares has this number of layers on its longest path.
FEW = 8

#: Outcome -> what it means for advice that rests on the row.
_MEANING: Mapping[str, str] = {
    "supported": "measured: supported",
    "inconclusive": "measured: inconclusive, so this is the paper's advice and not shown",
    "refuted": "measured: refuted",
}


@dataclass(frozen=True)
class DesignFinding:
    """A shape of a network that is said to leak; `str` is a sentence about it.

    Attributes:
        check: a key of `gia.defenses.design.CHECKS`.
        layer: the model's name for the first layer that it is about.
        value: how many neurons, places or layers.

    >>> from gia.defenses import DesignFinding
    >>> print(DesignFinding(check="few layers", layer="0", value=2))
    0: only 2 layers with weights: ... (op.architecture; measured: inconclusive, so this is the paper's advice ...)
    """

    check: str
    layer: str
    value: int

    @property
    def row(self) -> str:
        """The row of the register that measures it."""
        return CHECKS[self.check][0]

    @property
    def outcome(self) -> Outcome:
        """What the project has published about that row."""
        return CHECKS[self.check][1]

    def __str__(self) -> str:
        sentence = CHECKS[self.check][2].format(value=self.value)
        return f"{self.layer}: {sentence} ({self.row}; {_MEANING[self.outcome]})"


def design_findings(
    model: nn.Module, *, image_shape: tuple[int, int, int] | None = None, training: bool = True
) -> tuple[DesignFinding, ...]:
    """Shapes of a network that are said to leak images, each with the row of the register about it.

    It looks at modules: a Sigmoid that a forward pass calls as a function is not seen.

    Args:
        model: not changed.
        image_shape: (C, H, W) of the images. With it the layers are in the order of a forward pass; without it they
            are in the order in which the model lists them.
        training: whether clients train with batch statistics.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> perceptron = gia.models.build("mlp", num_classes=3, image_size=8, width=16, generator=g)
    >>> [(finding.check, finding.row, finding.outcome) for finding in gia.defenses.design_findings(perceptron)][0]
    ('linear input', 'linear.exact', 'supported')
    """
    layers = _layers(model, image_shape)
    found = []
    if layers:
        name, first = layers[0]
        if isinstance(first, nn.Linear) and first.bias is not None:
            found += [
                DesignFinding(check, name, first.out_features) for check in ("linear input", "mixed linear input")
            ]
    found += _embeddings(model)
    sigmoids = [name for name, module in model.named_modules() if isinstance(module, nn.Sigmoid)]
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if sigmoids and normalized and training:
        found.append(DesignFinding("sigmoid", sigmoids[0], len(sigmoids)))
    if 0 < len(layers) <= FEW:
        found.append(DesignFinding("few layers", layers[0][0], len(layers)))
    return tuple(found)


def _embeddings(model: nn.Module) -> list[DesignFinding]:
    """A trained convolution of patches side by side, and trained embeddings (1, n, d) or (n, d) of as many features."""
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    rows = {
        parameter.shape[-1]: parameter.shape[-2]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (name in tables or (parameter.dim() == 3 and len(parameter) == 1 and parameter.shape[1] > 1))
    }
    for name, module in model.named_modules():
        patches = isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1)
        if patches and module.weight.requires_grad and module.out_channels in rows:
            return [DesignFinding("patch embedding", name, rows[module.out_channels])]
    return []


def _layers(model: nn.Module, image_shape: tuple[int, int, int] | None) -> list[tuple[str, nn.Module]]:
    """The modules with a weight matrix or kernel, each once."""
    weighted = {
        name: module
        for name, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), torch.Tensor) and weight.dim() > 1
    }
    if image_shape is None:
        return list(weighted.items())
    victim, reached = victim_of(model, False), dict[str, None]()
    for name in weighted:
        victim.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: reached.setdefault(name))
    like = next(victim.parameters())
    with torch.no_grad():
        victim(torch.zeros(1, *image_shape).to(like))
    return [(name, weighted[name]) for name in reached]
