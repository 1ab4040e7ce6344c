"""Image patches in closed form, from the span of the tokens that the first block of a Vision Transformer sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.likelihood import SINGULAR, most_likely, view_of
from gia.attacks.analytics.patches import assembled, cut, embeds_patches, explained, same, smoothed
from gia.attacks.logits import logits_of
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials, one_by_one
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, class_loss
from gia.federated.victims import victim_of
from gia.models import standardization

#: A direction weaker than this many units of the dtype's eps, relative to the strongest, is taken for rounding.
_ROUNDING = 1

_ZEROS = "gradients: expected an entry other than 0 in one of {}, got zeros"


class Tokens(NamedTuple):
    """How the first block sees a standardized image, and which shared layers see it.

    Token n is norm(matrix @ patch n + offsets[n]), patches from left to right and from top to bottom.

    Attributes:
        matrix: (d, C * p * p), the patch embedding; `patch` is p.
        offsets: (n, d), its bias plus the position embeddings.
        normal: whether a layer normalization follows; `scale` and `shift` are its (d,), None where it has none.
        direct: names of shared weights (out, d) whose layer has the tokens as its input.
        projected: name of a shared weight (out, r) whose layer has A times the tokens as its input -> A (r, d).
        constant: (c, d), the tokens before those of the patches, such as a class token, which no image changes.
        spread: largest difference of what these layers see from the tokens, relative to their size.
    """

    matrix: Tensor
    patch: int
    offsets: Tensor
    normal: bool
    scale: Tensor | None
    shift: Tensor | None
    direct: tuple[str, ...]
    projected: Mapping[str, Tensor]
    constant: Tensor
    spread: float


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    smoothness: float,
    loss: Loss | LossName,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "patch_span")
    if not smoothness >= 0:
        raise ValueError(f"smoothness: expected a weight >= 0, got {smoothness}")
    tokens = tokens_of(model, observations[0])
    mean, std = standardization(model)

    def attacked(observation: Observation, _: torch.Generator) -> Reconstruction:
        like = next(iter(observation.gradients.values()))
        pixels = _solved(tokens, observation, mean.double().cpu(), std.double().cpu(), smoothness)
        images = pixels.clamp(0, 1).to(like).repeat(observation.batch_size, 1, 1, 1)
        exact, evaluations = explained(model, observation, images, loss)
        return Reconstruction(images=images, exact=exact, gradient_evaluations=evaluations)

    return one_by_one(attacked, observations, generators)


@attack(
    Card(
        leaf="OP",
        needs=frozenset({"patch_tokens"}),
        iterative=False,
        source="after Lu et al., 2022, APRIL, and Petrov et al., 2024, DAGER, on image patches",
    ),
    many=_many,
)
def patch_span(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    smoothness: float = 0.3,
    loss: Loss | LossName = cross_entropy,
) -> Reconstruction:
    """Patches whose tokens lie in the span of the first block's gradients; for full gradients and for adapters.

    The gradient of a linear layer's weight is a sum of products with its inputs, so its rows lie in the span of the
    tokens (Petrov et al., 2024, DAGER, who test words of a vocabulary). The same holds for the A of a low-rank
    adapter whose B is not zero, and for the B of one whose A is known, there for A times the tokens. A token is the
    layer normalization of an affine function of its patch, whose position embedding is known.

    If the rows span all tokens, each position gives linear equations for its patch alone: the part of its centred token
    outside the span is zero. APRIL (Lu et al., 2022) solves for the tokens in another way, which needs the gradient of
    the position embeddings. For one image the rows say more, also where they are fewer than the tokens or where most
    of them are below rounding: each direction of the rows that is above it lies in the span of the tokens. That is
    width minus number of tokens equations for all patches together, of which there are enough if (directions) * (width
    - tokens) is larger than the number of pixel values. They are not linear. Each counts by its strength over its
    error, which follows from the dtype, and damped Gauss-Newton steps maximize the likelihood times that of a smooth
    image (variable projection, Golub and Pereyra, 1973, as Kaufman, 1975, approximates it), from a gray image with a
    tolerance that falls to the rounding. The solution of the linear equations is taken where it is more likely. So
    more rows help in float32 too. At 32 px, patches of 4, a width of 144 and a rank of 16 this takes about a second.

    For more than one image, and where the tokens of one fill the width, there are the linear equations alone. A smooth
    image fills in what they leave open, and replaces patches that they do not fit.

    Args:
        model: the victim as sent: patches are embedded by a convolution whose stride is its kernel, position embeddings
            are added, and a layer normalization and linear layers follow.
        observation: with the gradient of one of those layers, or of an adapter of it.
        generator: not used, since nothing is drawn.
        smoothness: weight of the squared differences of neighbouring pixels; 0 takes least squares alone, and values
            near gray where they leave any open. Differences of 0.1 are as likely at 1 as a misfit of the equations of
            the size that is seen, or for a single image of the size of the rounding.
        loss: the client's training loss, by which the result is checked.

    Returns images (B, C, H, W) in [0, 1]. For B > 1 all of them are the same: the smoothest combination of the private
    images that the equations allow. Where there are no equations it is gray. `exact` is the attack's own belief: for a
    single private image with a known label, whether the image explains the gradient; else False.

    Raises ValueError where no shared layer sees the tokens, and `NothingFound` where the gradients of those that do are
    zero.

    >>> import torch, gia
    >>> from torch import nn
    >>> class Attention(nn.Module):  # the first block of a Vision Transformer for images of 1x4x4 pixels
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.patches, self.positions = nn.Conv2d(1, 24, 2, 2), nn.Parameter(torch.rand(1, 4, 24))
    ...         self.norm, self.value, self.head = nn.LayerNorm(24), nn.Linear(24, 24), nn.Linear(24, 3)
    ...     def forward(self, images):
    ...         tokens = self.norm(self.patches(images).flatten(2).mT + self.positions)
    ...         return self.head((tokens @ tokens.mT).softmax(-1).matmul(self.value(tokens)).tanh().mean(1))
    >>> seed = torch.manual_seed(0)
    >>> model, image = Attention().double(), torch.rand(1, 1, 4, 4).double()
    >>> observation = gia.share_gradient(model, image, torch.tensor([1]), reveal=("labels",))
    >>> result = gia.attacks.patch_span(model, observation, generator=seed)
    >>> result.exact.tolist(), bool(gia.metrics.psnr(result.images, image) > 80)
    ([True], True)
    """
    return _many(model, [observation], generators=[generator], smoothness=smoothness, loss=loss)[0]


def misfit(model: nn.Module, observation: Observation, images: Tensor) -> float:
    """How far single images are from explaining what `patch_span` reads: zero at the private one.

    The share of the rows that lies outside the span of an image's tokens, as a ratio of sums of squares, on average
    over images and shared layers. A direction that the rows hardly show counts for hardly anything.

    Raises `NothingFound` where all rows are zero.

    >>> import gia
    >>> gia.attacks.patch_span.card.leaf
    'OP'
    """
    tokens = tokens_of(model, observation)
    seen = _rows_of(tokens, observation, *(value.double().cpu() for value in standardization(model)))
    shares = []
    for image in images.detach().double().cpu():
        every = torch.cat([cut(image, tokens.patch) @ seen.matrix.T + seen.offsets, seen.known])
        for rows, projection in seen.shared:
            _, strengths, basis = torch.linalg.svd(every @ projection.T, full_matrices=False)
            basis = basis[strengths > SINGULAR * strengths[0]]
            if bool(rows.any()):
                outside = rows - (rows @ basis.T) @ basis
                shares.append(float(outside.square().sum() / rows.square().sum()))
    if not shares:
        raise NothingFound(_ZEROS.format([*tokens.direct, *tokens.projected]))
    return sum(shares) / len(shares)


def tokens_of(model: nn.Module, observation: Observation) -> Tokens:
    """What the attack knows of the first block, found on two made-up images; the names of layers do not matter.

    Raises ValueError where no shared layer sees the tokens.
    """
    victim = victim_of(model, False)
    like = next(iter(observation.gradients.values()))
    seed = torch.Generator().manual_seed(0)
    drawn = torch.rand((2, *observation.image_shape), generator=seed, dtype=torch.float32).to(like)
    mean, std = (value.to(like).view(-1, 1, 1) for value in standardization(model))
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    for name, module in victim.named_modules():
        if isinstance(module, nn.Conv2d | nn.LayerNorm | nn.Linear):
            module.register_forward_hook(
                lambda one, inputs, output, name=name: seen.append((name, one, inputs[0].detach(), output.detach()))
            )
    with torch.no_grad():
        logits_of(victim, drawn)
    embedded = [
        (module, output) for _, module, inputs, output in seen if embeds_patches(module, inputs, (drawn - mean) / std)
    ]
    shared = observation.gradients
    for convolution, output in embedded:
        patches = output.flatten(2).mT
        for place, (_, module, inputs, after) in enumerate(seen):
            if (
                isinstance(module, nn.Conv2d)
                or inputs.dim() != 3
                or inputs.shape[1] < patches.shape[1]
                or inputs.shape[2] != patches.shape[2]
            ):
                continue
            offsets = inputs[:, inputs.shape[1] - patches.shape[1] :] - patches  # a class token comes first
            if not same(offsets[0], offsets[1]):
                continue
            normal = isinstance(module, nn.LayerNorm)
            tokens = after if normal else inputs
            later = [one for one in seen[place:] if isinstance(one[1], nn.Linear)]
            behind = [each for each in later if same(each[2], tokens)]
            direct = tuple(f"{name}.weight" for name, *_ in behind if f"{name}.weight" in shared)
            projected = {
                f"{name}.weight": _weights(one)["weight"]
                for name, _, own, _ in later
                for _, one, _, out in behind
                if f"{name}.weight" in shared and "bias" not in _weights(one) and same(own, out)
            }
            if direct or projected:
                embedding, normalizing = _weights(convolution), _weights(module) if normal else {}
                weight, bias = embedding["weight"], embedding.get("bias", 0)
                return Tokens(
                    matrix=weight.flatten(1),
                    patch=int(weight.shape[-1]),
                    offsets=offsets[0] + bias,
                    scale=normalizing.get("weight"),
                    shift=normalizing.get("bias"),
                    normal=normal,
                    direct=direct,
                    projected=projected,
                    constant=tokens[0, : inputs.shape[1] - patches.shape[1]],
                    spread=max(float((own - tokens).norm()) for _, _, own, _ in behind) / float(tokens.norm()),
                )
    raise ValueError(
        "model: expected a shared linear layer, or an adapter of one, that sees the embedded patches of the image, got "
        f"none among {list(shared)[:4]}"
    )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters(recurse=False)}


def _equations(tokens: Tokens, observation: Observation) -> Tensor:
    """(equations, d) that map every token of the private images to zero.

    Raises `NothingFound` where all gradients are zero.
    """
    eps = torch.finfo(next(iter(observation.gradients.values())).dtype).eps
    rows = [observation.gradients[name].double().cpu() for name in tokens.direct]
    rows = [each / norm for each in rows if (norm := torch.linalg.matrix_norm(each, 2)) > 0]
    found = [_outside(torch.cat(rows), eps)] if rows else []
    for name, adapter in tokens.projected.items():
        gradient, projection = observation.gradients[name].double().cpu(), adapter.double().cpu()
        if bool(gradient.any()):
            found.append(_outside(gradient, eps) @ projection / torch.linalg.matrix_norm(projection, 2))
    if not found:
        raise NothingFound(_ZEROS.format([*tokens.direct, *tokens.projected]))
    return torch.cat(found)


def _outside(rows: Tensor, eps: float) -> Tensor:
    """Orthogonal directions (k, d) outside the span of the rows (m, d), up to rounding."""
    _, strengths, directions = torch.linalg.svd(rows, full_matrices=True)
    outside: Tensor = directions[int((strengths > _ROUNDING * eps * strengths[0]).sum()) :]
    return outside


def _solved(tokens: Tokens, observation: Observation, mean: Tensor, std: Tensor, smoothness: float) -> Tensor:
    """The image (C, H, W) by the equations alone; for a single image the most likely one, where tokens leave room."""
    shape = observation.image_shape
    image = _fitting(tokens, _equations(tokens, observation), shape, mean, std, smoothness)
    seen = _rows_of(tokens, observation, mean, std)
    roomy = [each for each in seen.shared if len(each[1]) > len(seen.known) + len(seen.offsets)]
    if observation.batch_size != 1 or not roomy:
        return image
    eps = torch.finfo(next(iter(observation.gradients.values())).dtype).eps
    given = seen.matrix, seen.offsets, seen.known
    views = [view_of(*each, *given, eps=eps, spread=tokens.spread) for each in roomy]
    return most_likely([view for view in views if view], shape, tokens.patch, 100 * smoothness, image)


class _Rows(NamedTuple):
    """What is shared of the tokens, in float64 on the CPU.

    Attributes:
        shared: pairs of rows (m, w) that combine what a layer sees, and the map (w, d) from tokens to what it sees.
        matrix, offsets: (d, C * p * p) and (n, d); a token is parallel to matrix @ patch + offset, plus known tokens.
        known: (c, d), tokens and parts of tokens that do not depend on the image.
    """

    shared: list[tuple[Tensor, Tensor]]
    matrix: Tensor
    offsets: Tensor
    known: Tensor


def _rows_of(tokens: Tokens, observation: Observation, mean: Tensor, std: Tensor) -> _Rows:
    none = torch.empty(0, len(tokens.matrix), dtype=torch.float64)
    *_, matrix, offsets = _linear(tokens, none, observation.image_shape[0], mean, std)
    known = tokens.constant.double().cpu()
    if tokens.shift is not None and bool(tokens.shift.any()):
        known = torch.cat([known, tokens.shift.double().cpu()[None]])
    rows = [observation.gradients[name].double().cpu() for name in tokens.direct]
    shared = [(torch.cat(rows), torch.eye(len(tokens.matrix), dtype=torch.float64))] if rows else []
    shared += [(observation.gradients[name].double().cpu(), a.double().cpu()) for name, a in tokens.projected.items()]
    return _Rows(shared, matrix, offsets, known)


def _fitting(
    tokens: Tokens,
    equations: Tensor,
    shape: tuple[int, int, int],
    mean: Tensor,
    std: Tensor,
    smoothness: float,
) -> Tensor:
    """The image (C, H, W) whose tokens fit the equations best, and which is smooth where they leave it open."""
    system, constants, matrix, offsets = _linear(tokens, equations, shape[0], mean, std)
    gray = torch.full((1, matrix.shape[1]), 0.5, dtype=torch.float64, device=matrix.device)
    if not len(system):
        return assembled(gray.expand(len(constants), -1), shape, tokens.patch)
    misfit = constants + gray @ system.T  # from a gray image, so that least squares of least norm stay near it
    solution = gray - misfit @ torch.linalg.pinv(system, rtol=1e-12).T
    image = assembled(solution, shape, tokens.patch)
    if smoothness == 0:
        return image
    left = (constants + solution @ system.T).square().mean(1)
    floor = (1e-6 * (offsets + solution @ matrix.T).square().mean().sqrt()) ** 2
    trust, weight, gram = 1 / (left + floor), 100 * smoothness, system.T @ system
    least = 4 * weight + 1e-12 * trust * gram.trace()  # gram is singular where a patch is left open
    values, basis = torch.linalg.eigh(gram)
    diagonal = trust[:, None] * values.clamp(min=0) + least[:, None]
    return smoothed(
        image,
        tokens.patch,
        weight,
        weighted=lambda change: trust[:, None] * (change @ gram),
        divided=lambda residual: (residual @ basis / diagonal) @ basis.T,
    )


def _linear(
    tokens: Tokens, equations: Tensor, channels: int, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """System (k, C * p * p) and constants (n, k): system @ patch n + constants[n] is zero at the truth, in pixels.

    Also the centred and scaled embedding (d, C * p * p) and offsets (n, d) that they are made of.
    """
    per_pixel = (values.expand(channels).repeat_interleave(tokens.patch**2) for values in (mean, std))
    means, stds = per_pixel
    matrix = tokens.matrix.double().cpu() / stds
    offsets = tokens.offsets.double().cpu() - matrix @ means
    if tokens.normal:
        matrix, offsets = matrix - matrix.mean(0), offsets - offsets.mean(1, keepdim=True)
    if tokens.scale is not None:
        scale = tokens.scale.double().cpu()
        matrix, offsets = matrix * scale[:, None], offsets * scale
    system, constants = equations @ matrix, offsets @ equations.T
    if tokens.shift is not None and bool(tokens.shift.any()):
        # A token times its deviation, which is not known, is in the span: what is parallel to the shift says nothing.
        along = equations @ tokens.shift.double().cpu()
        if float(along.norm()) > 0:
            along = along / along.norm()
            system = system - along[:, None] * (along @ system)
            constants = constants - (constants @ along)[:, None] * along
    return system, constants, matrix, offsets
