"""Low-rank adapters (LoRA) in a network, through the package peft; only they are trained, and so shared."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from gia.errors import expected_one_of

__all__ = ["TARGETS", "lora"]

_QUERIES, _KEYS, _VALUES = ("query", "q", "q_proj"), ("key", "k", "k_proj"), ("value", "v", "v_proj")

#: Name -> the last parts of the names of the linear layers that it stands for. "all" is every one but the classifier.
TARGETS = {
    "q": _QUERIES,
    "qv": (*_QUERIES, *_VALUES),
    "qkv": ("qkv", *_QUERIES, *_KEYS, *_VALUES),
    "all": None,
}


def lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float | None = None,
    targets: str | Sequence[str] = "qkv",
    head: bool = False,
    generator: torch.Generator,
) -> nn.Module:
    """A copy of `model` in which only low-rank adapters are trained (Hu et al., 2022, arXiv 2106.09685, Sec. 4.1).

    An adapted layer computes W x + (alpha / rank) B A x with A (rank, in) and B (out, rank). At first B is zero, so the
    copy computes what `model` does, and the gradient of every A is zero. The copy is a `peft.PeftModel`; parameters
    keep their names behind the prefix "base_model.model.".

    Args:
        model: a network with `nn.Linear` layers; it is not changed. Its classifier is the last one that it lists.
        rank: rows of each A.
        alpha: strength of the adapters; None takes the rank, so that the factor alpha / rank is 1.
        targets: which linear layers are adapted. "qkv" takes those that make queries, keys and values (timm's fused
            layer or Hugging Face's three), "q" and "qv" take some of the three, and "all" takes every one but the
            classifier. A sequence holds the ends of the names of layers, such as ("attn.qkv", "mlp.fc1").
        head: whether the classifier is trained too, as a new task needs it.
        generator: source of each A, by the rule of `nn.Linear` (peft's), on the CPU.

    Returns:
        The adapted copy, in the mode of `model`, on its device and with its dtype.

    Raises:
        ValueError: an unknown name in `targets`, no layer that fits, a layer that is never called (the out_proj of
            `nn.MultiheadAttention`), or a classifier of zeros, through which no gradient reaches an adapter.
        ModuleNotFoundError: peft is missing.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> net = gia.models.build("mlp", num_classes=3, image_size=4, hidden=(8, 8), generator=g)
    >>> adapted = gia.models.lora(net, rank=2, targets="all", generator=g)
    >>> shared = gia.share_gradient(adapted, torch.zeros(1, 3, 4, 4), torch.tensor([1]))
    >>> [name.removeprefix("base_model.model.") for name in shared.gradients][:2]
    ['layers.0.lora_A.default.weight', 'layers.0.lora_B.default.weight']
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "peft: expected to be installed for low-rank adapters; python -m pip install 'peft>=0.15'", name="peft"
        ) from error

    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank: expected a whole number of at least 1, got {rank!r}")
    alpha = float(rank) if alpha is None else float(alpha)
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha: expected a positive finite number, got {alpha}")
    names = _targeted(model, targets)
    classifier = _classifier(model)
    settings = LoraConfig(
        r=rank,
        lora_alpha=cast(int, alpha),
        target_modules="|".join(map(re.escape, names)),
        lora_dropout=0.0,
        bias="none",
    )
    training = model.training
    with torch.random.fork_rng(devices=[]):  # peft draws initial weights, which are drawn again below
        adapted = cast(nn.Module, get_peft_model(copy.deepcopy(model), settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                drawn = torch.empty(parameter.shape, dtype=torch.float32)
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                parameter.copy_(drawn)
    if head:
        adapted.get_submodule(f"base_model.model.{classifier}").requires_grad_(True)
    return adapted.train(training)


def _targeted(model: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Names of the linear layers that are to be adapted."""
    if isinstance(targets, str) and targets not in TARGETS:
        raise ValueError(expected_one_of("targets", targets, list(TARGETS)))
    ends = TARGETS[targets] if isinstance(targets, str) else tuple(targets)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    called = [name for name in linear if not _is_bypassed(model, name)]
    if ends is None:
        chosen = [name for name in called if name != _classifier(model)]
    else:
        chosen = [name for name in linear if any(f".{name}".endswith(f".{end}") for end in ends)]
    if never := [name for name in chosen if name not in called]:
        raise ValueError(
            f"targets: expected layers that the network calls, got {never[0]!r}: MultiheadAttention reads its weight "
            f"without calling it, so an adapter there has no effect and no gradient"
        )
    if not chosen:
        raise ValueError(f"targets: expected linear layers of the model, {linear}, got {targets!r}, which fits none")
    return chosen


def _is_bypassed(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)


def _classifier(model: nn.Module) -> str:
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("model: expected linear layers, got none")
    weight = model.get_submodule(linear[-1]).weight
    if not bool(torch.as_tensor(weight).any()):
        raise ValueError(
            f"model: expected a classifier with initial weights, got zeros in {linear[-1]!r} (torchvision's Vision "
            f"Transformers begin so): no gradient reaches an adapter through it"
        )
    return linear[-1]
