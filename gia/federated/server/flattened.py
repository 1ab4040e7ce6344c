"""A Vision Transformer whose blocks all see the embedded patches, so that every adapter's gradient tells of them."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

__all__ = ["flatten_blocks"]


@torch.no_grad()
def flatten_blocks(
    model: nn.Module, *, scale: float = 1e-12, sharpness: float = 4.0, generator: torch.Generator
) -> nn.Module:
    """A copy of an adapted Vision Transformer in which all blocks see the same tokens, those of the patches.

    A server that sends trunk and adapters can make every block see what only the first one sees. The gradients of the A
    matrices of all blocks are then combinations of the same tokens, and `gia.attacks.patch_span` solves for the patches
    although no adapter alone has a rank that is large enough. The threat model is that of PEFTLeak (Sami et al., 2025,
    arXiv 2506.04453), whose server designs trunk and adapters; the construction is ours. What a block adds to
    its tokens is multiplied by `scale`. Queries and keys are multiplied by `sharpness`, so that heads and blocks weight
    the tokens differently. Each B is drawn, so that no A has a gradient of zero.

    Args:
        model: made of timm's blocks, with adapters (`gia.models.lora`); it is not changed.
        scale: factor on the output layers of attention and of the feed-forward part, in (0, 1).
        sharpness: factor on the weights of queries and keys, > 0.
        generator: source of each B, N(0, 0.001), on the CPU.

    Raises:
        ValueError: a setting out of range, or a model without such blocks or without adapters.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> net = gia.models.build("vit_tiny", num_classes=3, image_size=8, patch=4, width=16, depth=2, generator=g)
    >>> sent = gia.federated.server.flatten_blocks(gia.models.lora(net, rank=2, generator=g), generator=g)
    >>> shared = gia.share_gradient(sent, torch.rand(1, 3, 8, 8, generator=g), torch.tensor([1])).gradients
    >>> bool(shared["base_model.model.blocks.1.attn.qkv.lora_A.default.weight"].any())
    True
    """
    if not 0 < scale < 1:
        raise ValueError(f"scale: expected a factor in (0, 1), got {scale}")
    if not sharpness > 0:
        raise ValueError(f"sharpness: expected a factor > 0, got {sharpness}")
    sent = copy.deepcopy(model)
    blocks = [cast(Any, one) for one in sent.modules() if hasattr(one, "attn") and hasattr(one, "mlp")]
    adapters = [own for name, own in sent.named_parameters() if ".lora_B." in name]
    if not blocks or not adapters:
        raise ValueError("model: expected blocks of timm's Vision Transformers with low-rank adapters, got none")
    for own in adapters:
        own.copy_(1e-3 * torch.randn(own.shape, generator=generator, dtype=torch.float32))
    for block in blocks:
        for output in (block.attn.proj, block.mlp.fc2):
            for own in _trunk(output).parameters(recurse=False):
                own.mul_(scale)
        asking = getattr(block.attn.qkv, "base_layer", block.attn.qkv)
        if isinstance(asking, nn.Linear):
            asking.weight[: 2 * asking.in_features].mul_(sharpness)
        else:
            for part in (asking.query, asking.key):
                _trunk(part).weight.mul_(sharpness)
    return sent


def _trunk(layer: Any) -> Any:
    """The linear layer itself where it is adapted."""
    return getattr(layer, "base_layer", layer)
