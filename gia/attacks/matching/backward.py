"""A check of a victim's own backward passes: whether a search can trust the gradient that double backward yields."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gia.federated.losses import Loss
from gia.federated.outputs import output_of

#: Steps of the finite differences. At a kink of ReLU one of them may fail; a wrong derivative fails at all of them.
_STEPS = (1e-5, 1e-6, 1e-7)
#: Derivatives that differ by less than this share agree. Central differences in float64 reach 1e-6.
_SHARE = 1e-4


class UncheckedBackward(UserWarning):
    """The backward pass of a victim is not torch's own, and finite differences could not check it."""


def check_backward(victim: nn.Module, names: list[str], images: Tensor, labels: Tensor, *, loss: Loss) -> None:
    """Raise ValueError if the victim has a backward pass that autograd does not differentiate correctly.

    Torch differentiates its own operations twice. An operation that defines its own backward pass, such as a fused
    kernel, may yield a constant there, and the search then follows a wrong direction. Only victims with such an
    operation are checked: in float64, the derivative of the squared norm of the simulated gradient along a random
    direction is compared with central finite differences.

    Args:
        victim: in the client's mode; not changed.
        names: of the shared parameters.
        images: (B, C, H, W), made up.
        labels: (B, ...) of these.
        loss: the client's.

    Warns `UncheckedBackward` where the victim does not run in float64.

    >>> import torch
    >>> from torch import nn
    >>> check_backward(
    ...     nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), ["1.weight"], torch.rand(1, 1, 2, 2), torch.tensor([1]),
    ...     loss=nn.functional.cross_entropy,
    ... )
    """
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative; no search uses it
        own = _own_backward(victim, images)
        if not own:
            return
        what = ", ".join(own)
        try:
            double = copy.deepcopy(victim).double()
            targets = labels.double() if labels.is_floating_point() else labels
            agree = _agrees(double, names, images.double(), targets, loss)
        except RuntimeError as error:
            if "differentiate twice" in str(error) or "does not require grad" in str(error):
                raise ValueError(
                    f"model: expected operations that can be differentiated twice, got {what}: {error}"
                ) from error
            warnings.warn(
                f"the backward pass of {what} could not be checked by finite differences: {error}",
                UncheckedBackward,
                stacklevel=2,
            )
            return
    if not agree:
        raise ValueError(
            f"model: expected operations that autograd differentiates twice, got {what}, with which the derivative of "
            "the gradient differs from finite differences; use torch's own operations in its backward"
        )


def _own_backward(victim: nn.Module, images: Tensor) -> list[str]:
    """Operations with a backward pass that is not torch's, and the modules that return their results."""
    made_by: dict[Any, str] = {}

    def note(name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            made_by.setdefault(output.grad_fn, f"{name} ({type(module).__name__})")

    tried = copy.deepcopy(victim)  # since batch statistics would move
    handles = [
        module.register_forward_hook(lambda one, _, output, name=name: note(name, one, output))
        for name, module in tried.named_modules()
        if name
    ]
    with torch.enable_grad():
        outputs = output_of(tried(images.detach().requires_grad_()))
    for handle in handles:
        handle.remove()
    found: dict[str, None] = {}
    pending, seen = [outputs.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction) or "CppNode" in node.name():
            found[made_by.get(node, node.name())] = None
        pending += [parent for parent, _ in node.next_functions]
    return list(found)


def _agrees(victim: nn.Module, names: list[str], images: Tensor, labels: Tensor, loss: Loss) -> bool:
    """Whether the derivative along a random direction agrees with finite differences at one of the steps."""
    parameters = dict(victim.named_parameters())
    shared = [parameters[name] for name in names]

    def size(at: Tensor, *, create_graph: bool) -> Tensor:
        with torch.enable_grad():
            value = loss(victim(at), labels)
            gradients = torch.autograd.grad(value, shared, create_graph=create_graph, materialize_grads=True)
            return torch.stack([gradient.square().sum() for gradient in gradients]).sum()

    generator = torch.Generator().manual_seed(1)
    way = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images.device)
    leaf = images.detach().requires_grad_()
    middle = size(leaf, create_graph=True)
    (slope,) = torch.autograd.grad(middle, leaf)
    used = float((slope * way).sum())
    for step in _STEPS:
        ahead, behind = (float(size(images + sign * step * way, create_graph=False)) for sign in (1, -1))
        true = (ahead - behind) / (2 * step)
        # Differences of rounded numbers: what is below this is rounding.
        rounding = 1e3 * torch.finfo(torch.float64).eps * float(middle.detach().abs()) / step
        if abs(used - true) <= _SHARE * max(abs(used), abs(true)) + rounding:
            return True
    return False
