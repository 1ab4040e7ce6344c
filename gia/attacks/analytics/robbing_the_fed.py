"""Robbing the Fed: the images of a batch from differences of neighbouring bins of an imprint module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.layers import input_layer, signal_scale
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials, one_by_one
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, class_loss
from gia.federated.outputs import check_logits
from gia.federated.victims import victim_of
from gia.models import standardization

#: Largest number of logits in memory while images are tried under every label.
_AT_ONCE = 2**22


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    layer: str | None,
    loss: Loss | LossName,
    prove: bool,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "robbing_the_fed")
    name = input_layer(model, observations[0], layer)
    mean, std = (value.view(-1, 1, 1) for value in standardization(model))
    weight = model.get_parameter(f"{name}.weight").detach()
    bias = model.get_parameter(f"{name}.bias").detach()
    sparse = _is_sparse(weight)
    eps = torch.finfo(weight.dtype).eps
    limit, agreement = (1e-9, 1e-9) if weight.dtype == torch.float64 else (1e-3, 3e-5)

    def attacked(observation: Observation, _: torch.Generator) -> Reconstruction:
        to_weight, to_bias = observation.gradients[f"{name}.weight"], observation.gradients[f"{name}.bias"]
        signals = to_bias.clone()
        if not sparse:
            signals[:-1] -= to_bias[1:]
        # A row is a sum over images; their sizes add up to at least those of the bins. An update is a difference of
        # weights and is rounded like them.
        rounding = eps * float(to_bias.abs().max() if sparse else signals.abs().sum())
        if observation.local is not None:
            rounding += eps * float(torch.maximum(weight.abs().max(), bias.abs().max()))
        bins = (signals.abs() > rounding).nonzero().flatten()
        if not len(bins):
            raise NothingFound(f"gradients: expected a bin of {name!r} with a signal above rounding, got none")
        rows = to_weight[bins]
        if not sparse:
            has_neighbour = bins < len(to_bias) - 1
            rows[has_neighbour] -= to_weight[bins[has_neighbour] + 1]
        inputs = rows / signals[bins, None]
        images = inputs.view(-1, *observation.image_shape) * std + mean
        if not prove:
            return Reconstruction(images=images)
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
        return Reconstruction(images=images, exact=exact, gradient_evaluations=evaluations)

    return one_by_one(attacked, observations, generators)


@attack(
    Card(
        leaf="ANA-architecture",
        needs=frozenset({"malicious_server"}),
        iterative=False,
        source="Fowl et al., 2022, Robbing the Fed: Directly Obtaining Private Data in Federated Learning with "
        "Modified Models",
    ),
    many=_many,
)
def robbing_the_fed(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    layer: str | None = None,
    loss: Loss | LossName = cross_entropy,
    prove: bool = True,
) -> Reconstruction:
    """x = (gW_i - gW_{i+1}) / (gb_i - gb_{i+1}) for each bin i of an imprint module (Fowl et al., 2022, Sec. 4).

    The module is a linear layer that sees the image itself, made by `gia.federated.server.imprint` or rebuilt under
    other names. The highest bin has no neighbour and uses its own row. In the sparse variant, where the rows are one
    probe vector at several scales, every bin uses its own row. An image alone in its bin is recovered exactly; several
    images in a bin give a weighted average.

    Args:
        model: the victim as sent.
        observation: of a batch of any size.
        generator: not used, since nothing is drawn.
        layer: name of the linear layer; None takes the first that sees the image.
        loss: the client's training loss, an unweighted mean over images.
        prove: whether to say which images are exact. That runs the victim on each image that may be, and takes most of
            the time; without it `exact` is None, and the images are the same.

    Returns unclamped images (N, C, H, W), one per bin whose signal exceeds the rounding error of the sums from which it
    is computed, the lowest bin first. `exact` is the attack's own belief that a bin held one image, recovered to 1e-9
    in float64 and 1e-3 in float32. It is True where rounding allows that accuracy, the image lies in [0, 1], and the
    image alone explains the bin's signal under some label (to 1e-9 and 3e-5 of the largest label's). An average passes
    this test by coincidence only, with a probability of about that tolerance times the number of labels. `exact` is
    False after several local steps, with unknown `local`, and where batch statistics couple the images.

    Raises ValueError where no linear layer with a bias sees the image, and `NothingFound` where no bin has a signal.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, generator=seed)
    >>> sent = gia.federated.server.imprint(model, image_shape=(3, 4, 4), bins=16, generator=seed)
    >>> image = torch.rand(1, 3, 4, 4, generator=seed)
    >>> observation = gia.share_gradient(sent, image, torch.tensor([1]))
    >>> result = gia.attacks.robbing_the_fed(sent, observation, generator=seed)
    >>> result.exact.tolist(), bool(gia.metrics.psnr(result.images, image) > 60)
    ([True], True)
    """
    return _many(model, [observation], generators=[generator], layer=layer, loss=loss, prove=prove)[0]


def _is_sparse(weight: Tensor) -> bool:
    """Whether the rows are one probe vector at several scales."""
    size = torch.linalg.vector_norm(weight, 1, dim=1, keepdim=True)
    if bool(((size - size[0]).abs() <= 1e-4 * size[0]).all()):
        return False
    shape = weight / size
    return bool(((shape - shape[0]).abs() <= 1e-4 * shape[0].abs().max()).all())


def _signals(model: nn.Module, name: str, images: Tensor, bins: Tensor, loss: Loss) -> list[Tensor]:
    """dL/dz of each image's own bin, (labels, images), if each image were shared alone with each label.

    Returned in parts, one for each call of the loss. One pass gives the logits' derivative along z for all labels: the
    map u -> u dlogits/dz is linear, and is differentiated by u.
    """
    victim = victim_of(model, False, read_only=True)
    outputs: list[Tensor] = []
    victim.get_submodule(name).register_forward_hook(lambda _, __, output: outputs.append(output))
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        logits = victim(images)
    check_logits(logits)
    weights = torch.zeros_like(logits, requires_grad=True)
    (to_outputs,) = torch.autograd.grad(logits, outputs, weights, create_graph=True)
    along = to_outputs.gather(1, bins[:, None]).sum()
    slopes = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)[0]
    count, classes = logits.shape
    parts = []
    for some in torch.split(torch.arange(classes, device=logits.device), max(1, _AT_ONCE // logits.numel())):
        every = logits.detach().expand(len(some), count, classes).flatten(0, 1).requires_grad_()
        # The loss is a mean over rows: its gradient times their number is the gradient of each row alone.
        to_logits = torch.autograd.grad(loss(every, some.repeat_interleave(count)), every)[0] * len(every)
        parts.append((to_logits.view(len(some), count, classes) * slopes).sum(2))
    return parts
