"""Initial weights from a generator, by torch's rule, DLG's, and the rules of torchvision's networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import init

__all__ = ["INITIALIZATIONS", "initialize"]

_Rule = Callable[[Tensor, Tensor | None, torch.Generator], None]


def _torch(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    # The rule of reset_parameters in nn.Linear and nn.Conv2d.
    init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    _torch_bias(weight, bias, generator)


def _torch_bias(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    if bias is not None:
        bound = 1 / math.sqrt(weight[0].numel())
        init.uniform_(bias, -bound, bound, generator=generator)


def _kaiming(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
    _zero(bias)


def _small_normal(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    init.normal_(weight, 0.0, 0.01, generator=generator)
    _zero(bias)


def _truncated(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    init.trunc_normal_(weight, 0.0, 0.01, -2.0, 2.0, generator=generator)
    _torch_bias(weight, bias, generator)


def _narrow_normal(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    init.trunc_normal_(weight, 0.0, 0.02, -2.0, 2.0, generator=generator)
    _zero(bias)


def _dlg(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> None:
    for tensor in (weight, bias):
        if tensor is not None:
            init.uniform_(tensor, -0.5, 0.5, generator=generator)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        init.zeros_(bias)


#: name -> (rule of convolutions, rule of linear layers)
INITIALIZATIONS: Mapping[str, tuple[_Rule, _Rule]] = {
    "torch": (_torch, _torch),
    "dlg": (_dlg, _dlg),
    "kaiming": (_kaiming, _torch),  # torchvision's ResNets
    "vgg": (_kaiming, _small_normal),  # torchvision's VGG
    "googlenet": (_truncated, _truncated),  # torchvision's GoogLeNet
    "vit": (_torch, _narrow_normal),  # timm's Vision Transformers
}

#: Parameters of a Vision Transformer that belong to no layer; their standard deviations in timm.
_TOKENS = {"cls_token": 1e-6, "pos_embed": 0.02}


@torch.no_grad()
def initialize(net: nn.Module, name: str, generator: torch.Generator) -> None:
    """Fill every parameter and buffer of `net` in place, in the order of `net.modules()`, weight before bias.

    Batch normalization starts as the identity with mean 0 and variance 1. Only "dlg" draws its weights and biases too,
    as the released code of DLG (Zhu et al., 2019) does. Layer normalization starts as the identity, and class tokens
    and position embeddings are drawn as in timm, whatever the rule.

    Args:
        net: has only convolutions, linear layers, 2D batch normalizations, layer normalizations, timm's Vision
            Transformer, and modules without parameters or buffers.
        name: a key of `INITIALIZATIONS`.
        generator: source of the weights, on the device of `net`.

    Raises:
        TypeError: a module of another kind.

    >>> import torch
    >>> from gia.models.initialization import initialize
    >>> layer = torch.nn.Linear(3, 2)
    >>> initialize(layer, "dlg", torch.Generator().manual_seed(0))
    >>> bool(layer.weight.abs().max() <= 0.5)
    True
    """
    convolution, linear = INITIALIZATIONS[name]
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            convolution(module.weight, module.bias, generator)
        elif isinstance(module, nn.Linear):
            linear(module.weight, module.bias, generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            if name == "dlg":
                _dlg(module.weight, module.bias, generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif tokens := {key: own for key, own in module.named_parameters(recurse=False) if key in _TOKENS}:
            for key, own in tokens.items():
                init.trunc_normal_(own, 0.0, _TOKENS[key], -2.0, 2.0, generator=generator)
        elif any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise TypeError(f"net: expected Conv2d, Linear and BatchNorm2d as layers, got {type(module).__name__}")
