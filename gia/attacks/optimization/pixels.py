"""The space in which a pixel attack moves: its start, its box, its priors, and its reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gia.attacks.matching import Found, Matching
from gia.attacks.priors import Prior, TotalVariation
from gia.attacks.reconstruction import Reconstruction
from gia.errors import expected_one_of
from gia.models import standardization

Space = Literal["pixels", "standardized"]
Start = Literal["normal", "uniform"]


class Pixels:
    """Images as (x - mean) / std of the victim's first layer ("standardized"), or unchanged ("pixels").

    Step size, start, box and priors act in the chosen space.

    Args:
        space: "pixels" or "standardized".
        model: the victim.
        reference: a tensor with the dtype and device of the search.

    Raises ValueError for another name, or for "standardized" where the model has no standardizing first layer.
    """

    def __init__(self, space: str, model: nn.Module, reference: Tensor) -> None:
        mean, std = (value.to(reference).view(-1, 1, 1) for value in standardization(model))
        if space == "pixels":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        elif space != "standardized":
            raise ValueError(expected_one_of("space", space, get_args(Space)))
        elif bool((mean == 0).all()) and bool((std == 1).all()):
            raise ValueError("space: expected 'pixels' for a model without gia.models.standardize, got 'standardized'")
        self._mean, self._std = mean, std

    def start(self, init: str, shape: Sequence[int], generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
        """(R, *shape) from one generator per trial: N(0, 1) in this space, or uniform over the box."""
        if init not in get_args(Start):
            raise ValueError(expected_one_of("init", init, get_args(Start)))
        # Drawn in float32 on the generator's device, then moved: the same start for every device and dtype.
        draw = torch.randn if init == "normal" else torch.rand
        drawn = torch.stack(
            [draw(tuple(shape), generator=g, device=g.device, dtype=torch.float32) for g in generators]
        ).to(like)
        return drawn if init == "normal" else (drawn - self._mean) / self._std

    def images(self, variable: Tensor) -> Tensor:
        """From this space to pixels."""
        return variable * self._std + self._mean

    def gradient(self, to_images: Tensor) -> Tensor:
        """From a gradient with respect to pixels to one with respect to the variable."""
        return to_images * self._std

    def clamp(self, variables: Sequence[Tensor]) -> None:
        """Put the first variable back, in place, into the box of images in [0, 1]."""
        low, high = -self._mean / self._std, (1 - self._mean) / self._std
        variables[0].copy_(torch.maximum(torch.minimum(variables[0], high), low))

    def best(self, found: Found, problem: Matching, restarts: int, labels: Tensor) -> list[Reconstruction]:
        """The trial with the least objective among each `restarts` neighbours, one reconstruction per observation.

        `labels` (R, B) are those of the trials, known or restored.
        """
        images = self.images(found.variables[0]).clamp(0, 1)
        first = torch.arange(len(images) // restarts, device=images.device) * restarts
        chosen = first + found.values.view(-1, restarts).argmin(1)
        return [
            result_of(images, labels, found, problem, best, range(r * restarts, (r + 1) * restarts))
            for r, best in enumerate(chosen.tolist())
        ]


def result_of(
    images: Tensor, labels: Tensor | None, found: Found, problem: Matching, best: int, starts: range
) -> Reconstruction:
    """The reconstruction of one observation: its best trial, or no image if all of its starts were lost.

    Args:
        images, labels: of all trials, (R, B, C, H, W) and (R, B).
        best: the trial with the least objective among `starts`, the trials of this observation.
    """
    evaluations = sum(problem.evaluations[trial] for trial in starts)
    lost = 0 if found.lost is None else sum(found.lost[trial] for trial in starts)
    if lost == len(starts):
        return Reconstruction(images=images[best][:0], gradient_evaluations=evaluations, lost=lost)
    return Reconstruction(
        images=images[best],
        labels=None if labels is None else labels[best],
        objective=float(found.values[best]),
        gradient_evaluations=evaluations,
        converged=None if found.converged is None else found.converged[best],
        lost=lost,
    )


def penalty(priors: Sequence[Prior], variable: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the priors (R,) and its gradient."""
    pairs = [
        prior.with_gradient(variable) if isinstance(prior, TotalVariation) else _with_gradient(prior, variable)
        for prior in priors
    ]
    values, gradients = zip(*pairs, strict=True)
    return torch.stack(values).sum(0), gradients[0] if len(pairs) == 1 else torch.stack(gradients).sum(0)


def _with_gradient(prior: Prior, variable: Tensor) -> tuple[Tensor, Tensor]:
    leaf = variable.detach().requires_grad_()
    value = prior(leaf)  # trials are independent, so one backward pass serves all
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]
