"""Robbing the Fed: the images of a batch from the differences of an imprint block's neighbouring bins."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.layers import input_layer, signal_scale
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation, set_mode
from gia.federated.client import Loss
from gia.models import standardization

#: Logits that are held at once when images are tried under every label.
_AT_ONCE = 2**22


@attack(
    Card(
        leaf="ANA-architecture",
        needs=frozenset({"malicious_server"}),
        iterative=False,
        source="Fowl et al., 2022, Robbing the Fed: Directly Obtaining Private Data in Federated Learning with "
        "Modified Models",
    )
)
def robbing_the_fed(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    layer: str | None = None,
    loss: Loss = cross_entropy,
) -> list[Reconstruction]:
    """x = (gW_i - gW_{i+1}) / (gb_i - gb_{i+1}) for each bin i of an imprint block (Fowl et al., 2022).

    The block is the linear layer that sees the image itself, made by `gia.federated.server.imprint` or rebuilt under
    other names. The highest bin has no neighbour and uses its own row; where the rows are one probe at several scales,
    the sparse variant, each does. An image alone in its bin is recovered exactly; of several, a weighted average is.

    Args:
        model: the victim as sent.
        observations, generators: one each per trial; nothing is drawn.
        layer: name of the linear layer; None takes the first that fits.
        loss: the client's training loss, an unweighted mean over images.

    Returns a reconstruction per observation: raw, unclamped images (N, C, H, W), one per bin whose signal is above the
    rounding of the sums that it is a difference of, the lowest bin first. `exact` is the attack's own belief that a
    bin held one image, recovered to 1e-9 in float64 and 1e-3 in float32: that rounding allows it, the image lies in
    [0, 1], and under some label it explains the bin's signal all by itself (to 1e-9 and 3e-5 of the
    largest label's). Averages explain it by coincidence alone, and so with a probability of about that tolerance times
    the number of labels. It is cautious: after several local steps, with unknown `local`, or where batch statistics tie
    the images together, `exact` is False. Raises ValueError where no linear layer with a bias sees the image, or no
    bin has a signal.
    """
    check_trials(model, observations, generators)
    name = input_layer(model, observations[0], layer)
    mean, std = (value.view(-1, 1, 1) for value in standardization(model))
    weight = model.get_parameter(f"{name}.weight").detach()
    bias = model.get_parameter(f"{name}.bias").detach()
    sparse = _is_sparse(weight)
    eps = torch.finfo(weight.dtype).eps
    limit, agreement = (1e-9, 1e-9) if weight.dtype == torch.float64 else (1e-3, 3e-5)
    found = []
    for observation in observations:
        to_weight, to_bias = observation.gradients[f"{name}.weight"], observation.gradients[f"{name}.bias"]
        signals = to_bias.clone()
        if not sparse:
            signals[:-1] -= to_bias[1:]
        # Rows are sums over images, of sizes that add up to at least those of the bins; an update is rounded like the
        # weights that it is a difference of.
        rounding = eps * float(to_bias.abs().max() if sparse else signals.abs().sum())
        if observation.local is not None:
            rounding += eps * float(torch.maximum(weight.abs().max(), bias.abs().max()))
        bins = (signals.abs() > rounding).nonzero().flatten()
        if not len(bins):
            raise ValueError(f"gradients: no bin of {name!r} has a signal above rounding")
        rows = to_weight[bins]
        if not sparse:
            has_neighbour = bins < len(to_bias) - 1
            rows[has_neighbour] -= to_weight[bins[has_neighbour] + 1]
        inputs = rows / signals[bins, None]
        images = inputs.view(-1, *observation.image_shape) * std + mean
        errors = rounding / signals[bins].abs()
        exact = (errors <= limit) & ((images >= -limit) & (images <= 1 + limit)).flatten(1).all(1)
        evaluations = 0
        if (scale := signal_scale(observation.local, observation.batch_size)) and bool(exact.any()):
            few = exact.nonzero().flatten()
            parts = _signals(model, name, images[few], bins[few], loss)
            alone, evaluations = torch.cat(parts) * scale, len(parts)
            apart = (alone - signals[bins[few]]).abs().amin(0)
            exact[few] &= apart <= agreement * alone.abs().amax(0)
        else:
            exact[:] = False
        found.append(Reconstruction(images=images, exact=exact, gradient_evaluations=evaluations))
    return found


def _is_sparse(weight: Tensor) -> bool:
    """Whether the rows are one probe at several scales."""
    size = weight.abs().sum(1, keepdim=True)
    shape = weight / size
    return bool(((shape - shape[0]).abs() <= 1e-4 * shape[0].abs().max()).all()) and not bool(
        ((size - size[0]).abs() <= 1e-4 * size[0]).all()
    )


def _signals(model: nn.Module, name: str, images: Tensor, bins: Tensor, loss: Loss) -> list[Tensor]:
    """dL/dz of each image's own bin, (labels, images), had each image been shared alone with each label.

    In parts, one for each call of the loss. The logits' derivative along z is one pass for all labels: u -> u
    dlogits/dz is linear, and differentiated by u.
    """
    victim = set_mode(copy.deepcopy(model), False)
    outputs: list[Tensor] = []
    victim.get_submodule(name).register_forward_hook(lambda _, __, output: outputs.append(output))
    logits = victim(images)
    weights = torch.zeros_like(logits, requires_grad=True)
    (to_outputs,) = torch.autograd.grad(logits, outputs, weights, create_graph=True)
    along = to_outputs.gather(1, bins[:, None]).sum()
    slopes = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)[0]
    count, classes = logits.shape
    found = []
    for some in torch.split(torch.arange(classes, device=logits.device), max(1, _AT_ONCE // logits.numel())):
        every = logits.detach().expand(len(some), count, classes).flatten(0, 1).requires_grad_()
        # The loss is a mean over rows, so its gradient times their number is each one's own.
        to_logits = torch.autograd.grad(loss(every, some.repeat_interleave(count)), every)[0] * len(every)
        found.append((to_logits.view(len(some), count, classes) * slopes).sum(2))
    return found
