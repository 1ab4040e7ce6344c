"""Image patches in closed form, from the gradients of a patch embedding and of the position embeddings added to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.patches import assembled, cut, embeds_patches, explained, smoothed
from gia.attacks.logits import logits_of
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials, one_by_one
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, class_loss
from gia.federated.victims import victim_of
from gia.models import standardization

#: Largest part of a made-up image's gradient that products of positions and patches may leave unexplained.
_UNEXPLAINED = 1e-3


class Embedding(NamedTuple):
    """Where a Vision Transformer embeds its patches.

    Attributes:
        weight: name of the convolution's weight (d, C, p, p).
        positions: name of the parameter (..., n, d) whose last n rows are added to the n patches; rows before them
            belong to a class token.
        patch: p, in pixels.
    """

    weight: str
    positions: str
    patch: int


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    smoothness: float,
    loss: Loss | LossName,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "patch_embedding")
    if not smoothness >= 0:
        raise ValueError(f"smoothness: expected a weight >= 0, got {smoothness}")
    embedding = embedding_of(model, observations[0])

    def attacked(observation: Observation, _: torch.Generator) -> Reconstruction:
        image, determined = _solved(model, observation, embedding, smoothness)
        like = observation.gradients[embedding.weight]
        images = image.clamp(0, 1).to(like).repeat(observation.batch_size, 1, 1, 1)
        exact, evaluations = explained(model, observation, images, loss)
        return Reconstruction(images=images, exact=exact & determined, gradient_evaluations=evaluations)

    return one_by_one(attacked, observations, generators)


@attack(
    Card(
        leaf="ANA-architecture",
        needs=frozenset({"patch_embedding"}),
        iterative=False,
        source="after Lu et al., 2022, APRIL, by the patch embedding in place of the attention",
    ),
    many=_many,
)
def patch_embedding(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    smoothness: float = 0.3,
    loss: Loss | LossName = cross_entropy,
) -> Reconstruction:
    """The image of a batch of one from a Vision Transformer whose patch and position embeddings are trained.

    A position embedding is added to the embedded patch, so its gradient, a row of D (n, d), is that of the loss with
    respect to the embedded patch. The gradient of the patch embedding's weight is the sum over positions of the
    products of that row with the patch: W = D^T X, for patches X (n, C * p * p). Where the width d is at least the
    number of patches n, this gives all pixels, in float32 too; depth, attention, normalization and loss do not matter.
    With a smaller width, and for directions of D below rounding, a smooth image fills in the rest. APRIL (Lu et al.,
    2022) reads D in the same way, and solves for the tokens by the attention's gradients, which needs a first block
    without a normalization.

    Several local steps of SGD on the same single image give a sum of such products, so an update is solved as well.

    Args:
        model: the victim as sent: patches are embedded by a convolution whose stride is its kernel, and position
            embeddings are added.
        observation: with the gradients of both.
        generator: not used, since nothing is drawn.
        smoothness: weight of the squared differences of neighbouring pixels; 0 takes least squares alone. Differences
            of 0.1 are as likely at 1 as a misfit of the equations of the size that is seen.
        loss: the client's training loss, by which the result is checked.

    Returns images (B, C, H, W) in [0, 1]. For B > 1 all of them are the same combination of the private images. `exact`
    is the attack's own belief: for a single private image with a known label, whether the equations determine all
    pixels and the image explains the gradient; else False.

    Raises ValueError where the two gradients are not shared, and `NothingFound` where one of them is zero.

    >>> import torch, gia
    >>> from torch import nn
    >>> class Transformer(nn.Module):  # for images of 1x4x4 pixels
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.patches, self.positions = nn.Conv2d(1, 8, 2, 2), nn.Parameter(torch.rand(1, 4, 8))
    ...         self.block, self.head = nn.TransformerEncoderLayer(8, 2, 16, 0.0), nn.Linear(8, 3)
    ...     def forward(self, images):
    ...         tokens = self.patches(images).flatten(2).mT + self.positions
    ...         return self.head(self.block(tokens.transpose(0, 1)).mean(0))
    >>> seed = torch.manual_seed(0)
    >>> model, image = Transformer(), torch.rand(1, 1, 4, 4)
    >>> observation = gia.share_gradient(model, image, torch.tensor([1]), reveal=("labels",))
    >>> result = gia.attacks.patch_embedding(model, observation, generator=seed)
    >>> result.exact.tolist(), bool(gia.metrics.psnr(result.images, image) > 60)
    ([True], True)
    """
    return _many(model, [observation], generators=[generator], smoothness=smoothness, loss=loss)[0]


def embedding_of(model: nn.Module, observation: Observation) -> Embedding:
    """Where the model embeds its patches, found by the gradients of two made-up images; names do not matter.

    Raises ValueError where a convolution of patches or their position embeddings are not shared, or do not fit.
    """
    victim = victim_of(model, False).requires_grad_(True)
    like = next(iter(observation.gradients.values()))
    seed = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in victim.parameters():
            if not bool(parameter.any()):  # a classifier of zeros lets no gradient through; the products hold for any
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=seed, dtype=torch.float32))
    drawn = torch.rand((2, *observation.image_shape), generator=seed, dtype=torch.float32).to(like)
    mean, std = (value.to(like).view(-1, 1, 1) for value in standardization(model))
    standardized = (drawn - mean) / std
    seen: list[str] = []
    hooks = [
        module.register_forward_hook(
            lambda one, inputs, _, name=name: (
                seen.append(f"{name}.weight") if embeds_patches(one, inputs[0].detach(), standardized) else None
            )
        )
        for name, module in victim.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    logits_of(victim, drawn)
    for hook in hooks:
        hook.remove()
    shared = {name: value for name, value in victim.named_parameters() if name in observation.gradients}
    for weight in (name for name in seen if name in shared):
        width, _, patch, _ = shared[weight].shape
        count = standardized[0, 0].numel() // patch**2
        names = [weight, *(name for name, value in shared.items() if _positions(value.shape, count, width))]
        totals = torch.zeros_like(shared[weight]).flatten(1)
        products = dict.fromkeys(names[1:], totals)
        for image, inputs in zip(drawn, standardized, strict=True):
            scores = victim(image[None])
            weights = torch.linspace(1, 2, scores.shape[1], dtype=scores.dtype, device=scores.device)
            found = torch.autograd.grad(
                scores[0] @ weights,
                [shared[name] for name in names],
                materialize_grads=True,
            )
            totals = totals + found[0].flatten(1)
            for name, gradient in zip(names[1:], found[1:], strict=True):
                products[name] = products[name] + _rows(gradient, count).T @ cut(inputs, patch)
        for name, product in products.items():
            if float((product - totals).norm()) <= _UNEXPLAINED * float(totals.norm()) > 0:
                return Embedding(weight, name, patch)
    raise ValueError(
        "model: expected the gradients of a convolution that embeds the patches of the image and of the position "
        f"embeddings that are added to them, got {list(observation.gradients)[:4]}"
    )


def _positions(shape: torch.Size, count: int, width: int) -> bool:
    """Whether a parameter of this shape can hold an embedding (width,) for each of that many patches."""
    return len(shape) >= 2 and shape[-1] == width and shape.numel() // width >= count


def _rows(gradient: Tensor, count: int) -> Tensor:
    return gradient.reshape(-1, gradient.shape[-1])[-count:]


def _solved(model: nn.Module, observation: Observation, embedding: Embedding, smoothness: float) -> tuple[Tensor, bool]:
    """The image (C, H, W) whose patches fit the products best, smooth where they leave it open; whether they do not."""
    weights = observation.gradients[embedding.weight]
    shape, patch = observation.image_shape, embedding.patch
    count = shape[1] * shape[2] // patch**2
    rows = _rows(observation.gradients[embedding.positions].double().cpu(), count)
    totals = weights.double().cpu().flatten(1)
    for name, each in ((embedding.positions, rows), (embedding.weight, totals)):
        if not bool(each.any()):
            raise NothingFound(f"gradients: expected an entry other than 0 in {name!r}, got zeros")
    mean, std = (value.double().cpu().expand(shape[0]).repeat_interleave(patch**2) for value in standardization(model))
    totals = totals * std + rows.sum(0)[:, None] * mean  # rows.T @ patches, in pixels
    eps = torch.finfo(weights.dtype).eps
    gray = torch.full_like(totals[:1], 0.5).expand(count, -1)
    solution = gray + torch.linalg.pinv(rows.T, rtol=eps) @ (totals - rows.T @ gray)
    image = assembled(solution, shape, patch)
    determined = int(torch.linalg.matrix_rank(rows, rtol=eps)) == count
    if smoothness == 0:
        return image, determined
    free = max(totals.shape[0] - count, 0)  # equations beyond the unknowns, by which the misfit is seen
    left = (rows.T @ solution - totals).square().sum() / (free * totals.shape[1]) if free else totals.new_zeros(())
    trust = 1 / torch.maximum(left, (eps**2) * totals.square().mean())
    gram, weight = trust * rows @ rows.T, 100 * smoothness
    least = 4 * weight + 1e-12 * gram.trace()  # gram is singular where a direction is left open
    factor = torch.linalg.cholesky(gram + least * torch.eye(count, dtype=gram.dtype, device=gram.device))
    filled = smoothed(
        image,
        patch,
        weight,
        weighted=lambda change: gram @ change,
        divided=lambda residual: torch.cholesky_solve(residual, factor),
    )
    return filled, determined
