"""A check of what autograd does not see of a victim: whether a search can trust the gradient of double backward."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gia.federated.losses import Loss
from gia.federated.outputs import output_of

#: Steps of the finite differences. At a kink of ReLU one of them may fail; a wrong derivative fails at all of them.
_STEPS = (1e-5, 1e-6, 1e-7)
#: Derivatives that differ by less than this share agree. Central differences in float64 reach 1e-6.
_SHARE = 1e-4


class UncheckedBackward(UserWarning):
    """Autograd does not see all of a victim's derivative, and finite differences could not check what it sees."""


def check_backward(victim: nn.Module, names: list[str], images: Tensor, labels: Tensor, *, loss: Loss) -> None:
    """Raise ValueError if double backward does not yield the derivative of the victim's simulated gradient.

    Torch differentiates its own operations twice. An operation that defines its own backward pass, such as a fused
    kernel, may yield a constant there, and what is cut off from the graph, by `detach`, `.data` or `no_grad`, depends
    on the images all the same: the search then follows a wrong direction. Only victims with such an
    operation are checked: in float64, the derivative of the squared norm of the simulated gradient along a random
    direction is compared with central finite differences. A cut that does not change the derivative passes, such as
    that of a constant, of running statistics or of the largest logit in a softmax.

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
        unseen = _unseen(victim, images)
        if not unseen:
            return
        what = ", ".join(unseen)
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
                f"the derivative of {what} could not be checked by finite differences: {error}",
                UncheckedBackward,
                stacklevel=2,
            )
            return
    if not agree:
        raise ValueError(
            f"model: expected operations that autograd differentiates twice, got {what}, with which the derivative of "
            "the gradient differs from finite differences; use torch's own operations, and detach nothing that depends "
            "on the images"
        )


def _unseen(victim: nn.Module, images: Tensor) -> list[str]:
    """Operations of which autograd may not see the derivative, and the modules that they stand in.

    These are operations with a backward pass that is not torch's, and cuts of the graph (`_Cuts`).
    """
    made_by: dict[Any, str] = {}
    inside: list[str] = []

    def enter(name: str) -> None:
        inside.append(name)

    def leave(output: object) -> None:
        name = inside.pop()
        if isinstance(output, Tensor) and output.grad_fn is not None:
            made_by.setdefault(output.grad_fn, name)

    tried = copy.deepcopy(victim)  # since batch statistics would move
    handles = []
    for name, module in tried.named_modules():
        if name:
            called = f"{name} ({type(module).__name__})"
            handles.append(module.register_forward_pre_hook(lambda *_, called=called: enter(called)))
            handles.append(module.register_forward_hook(lambda *given: leave(given[2])))
    with torch.enable_grad(), _Cuts(inside) as cuts:
        outputs = output_of(tried(images.detach().requires_grad_()))
    for handle in handles:
        handle.remove()
    found = dict(cuts.found)
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


class _Cuts(TorchFunctionMode):
    """Notes where values leave the autograd graph, or where a hook changes a gradient.

    A value leaves where autograd follows an argument and not the result, though the result consists of numbers that
    the argument may change: floats, and not comparisons or indices, whose derivative is zero.

    Args:
        inside: the modules that are running, the innermost last.

    Attributes:
        found: "operation in module" of each, in order.
    """

    def __init__(self, inside: list[str]) -> None:
        super().__init__()
        self.found: dict[str, None] = {}
        self._inside = inside

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Torch calls this in place of every function of tensors."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # of a property, such as `data`
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        given = tree_leaves(args[:1] if name in _OF_THE_FORM else (args, kwargs))
        followed = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in given)
        result = func(*args, **kwargs)
        if followed:
            made = args[0] if name == "__setitem__" else result
            if name in _HOOKS or (not name.endswith("_like") and any(map(_is_cut, tree_leaves(made)))):
                self.found[f"{name} in {self._inside[-1]}" if self._inside else name] = None
        return result


#: Functions that change a gradient on its way back.
_HOOKS = ("register_hook", "register_post_accumulate_grad_hook")
#: Functions that read only the form of their second argument: shape, dtype or device.
_OF_THE_FORM = ("to", "type_as", "expand_as", "view_as", "reshape_as")


def _is_cut(made: object) -> bool:
    if isinstance(made, Tensor):
        return (made.is_floating_point() or made.is_complex()) and not made.requires_grad
    return isinstance(made, float | np.ndarray)


def _agrees(victim: nn.Module, names: list[str], images: Tensor, labels: Tensor, loss: Loss) -> bool:
    """Whether the derivative along a random direction agrees with finite differences at one of the steps."""
    parameters = dict(victim.named_parameters())
    shared = [parameters[name] for name in names]

    buffers = [(buffer, buffer.clone()) for buffer in victim.buffers()]

    def size(at: Tensor, *, create_graph: bool) -> Tensor:
        with torch.no_grad():
            for buffer, start in buffers:  # such as running statistics, which each pass moves
                buffer.copy_(start)
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
