"""Image priors: penalties on candidates that do not look like natural images, one value per trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gia.attacks.alignment import consensus
from gia.federated import Observation
from gia.federated.layers import BatchStatistics, batch_norm_layers
from gia.federated.victims import victim_of

#: (R, B, C, H, W) -> (R,) penalty per trial; smaller is more natural.
Prior = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TotalVariation:
    """weight * (mean |dx| + mean |dy|) of neighbouring pixels, anisotropic (Geiping et al., 2020, Eq. 4).

    The means run over the H*(W-1) and (H-1)*W differences within each channel; the border adds none.

    >>> import torch
    >>> ramp = torch.arange(4.0).expand(1, 1, 1, 4, 4)  # images (R, B, C, H, W)
    >>> TotalVariation(0.5)(ramp).tolist()
    [0.5]
    """

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        across = images[..., :, 1:] - images[..., :, :-1]
        down = images[..., 1:, :] - images[..., :-1, :]
        return self.weight * (_mean_size(across) + _mean_size(down))

    def with_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty and its gradient in closed form, three times as fast as autograd."""
        values, gradient = images.new_zeros(len(images)), torch.zeros_like(images)
        for axis in (-1, -2):
            pairs = images.shape[axis] - 1
            differences = images.narrow(axis, 1, pairs) - images.narrow(axis, 0, pairs)
            each = self.weight / max(1, differences[0].numel())
            signs = differences.sign()
            gradient.narrow(axis, 1, pairs).add_(signs, alpha=each)
            gradient.narrow(axis, 0, pairs).sub_(signs, alpha=each)
            values += differences.abs_().sum((1, 2, 3, 4)) * each
        return values, gradient


def _mean_size(differences: Tensor) -> Tensor:
    # An image one pixel wide has no differences: the penalty is 0, where a mean would be NaN.
    return differences.abs().sum((1, 2, 3, 4)) / max(1, differences[0].numel())


@dataclass(frozen=True)
class PatchConsistency:
    """weight * sum over the seams between patches of ||difference of the pixels on both sides|| (Hatamizadeh et al.,
    2022, GradViT, patch prior).

    A Vision Transformer sees patches one by one, so that a search matches each by itself and leaves steps between them.

    Args:
        weight: of the penalty.
        size: height and width of a patch in pixels. An image of one patch has no seam, and a penalty of 0.

    >>> import torch
    >>> halves = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 1, 4, 4)  # images (R, B, C, H, W)
    >>> PatchConsistency(0.5, size=2)(halves).tolist()  # one seam of four pixels, and one without a step
    [1.0]
    """

    weight: float
    size: int

    def __call__(self, images: Tensor) -> Tensor:
        seams = [
            images.narrow(axis, place, 1) - images.narrow(axis, place - 1, 1)
            for axis in (-1, -2)
            for place in range(self.size, images.shape[axis], self.size)
        ]
        return self.weight * sum((_length(seam) for seam in seams), start=images.new_zeros(len(images)))


@dataclass(frozen=True)
class L2Norm:
    """weight * ||x||, over all images of a trial together (Yin et al., 2021, fidelity regularization).

    >>> import torch
    >>> L2Norm(2.0)(torch.full((1, 1, 1, 2, 2), 0.5)).tolist()
    [2.0]
    """

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * _length(images)


@dataclass(frozen=True)
class GroupConsistency:
    """weight * ||x - E||, E the aligned mean of the candidates of one observation (Yin et al., 2021, group consistency
    regularization).

    E is a constant in the derivative: each candidate is pulled towards E.

    Args:
        weight: of the penalty.
        seeds: candidates per observation, which are neighbours on the trial axis.
        labels: (R, B) int64, of every candidate.
        radius: largest shift of an image in pixels (`gia.attacks.alignment`).

    >>> import torch
    >>> candidates = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
    >>> GroupConsistency(1.0, seeds=2, labels=torch.tensor([[3], [3]]), radius=0)(candidates).tolist()
    [1.0, 1.0]
    """

    weight: float
    seeds: int
    labels: Tensor
    radius: int

    def __call__(self, images: Tensor) -> Tensor:
        candidates = images.detach().view(-1, self.seeds, *images.shape[1:])
        target = consensus(candidates, self.labels[:: self.seeds], radius=self.radius)
        return self.weight * _length(images - target.flatten(0, 1))


#: Name of a batch normalization layer -> mean (C,) and variance (C,) of its input.
Statistics = Mapping[str, tuple[Tensor, Tensor]]


def known_statistics(model: nn.Module, observation: Observation) -> dict[str, tuple[Tensor, Tensor]]:
    """The statistics of each batch normalization's input that an attacker knows.

    These are the private batch's statistics if they leaked, else the model's running ones, which describe its training
    data. Layers without running statistics are left out, and so are new layers, with mean 0 and variance 1 in every
    channel, which come from no data.

    >>> import torch, gia
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    >>> observation = gia.share_gradient(model, torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), reveal=("batch_norm",))
    >>> {name: mean.shape for name, (mean, variance) in known_statistics(model, observation).items()}
    {'1': torch.Size([4])}
    """
    statistics: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in batch_norm_layers(model).items():
        mean, variance = layer.running_mean, layer.running_var
        if observation.batch_norm is not None and name in observation.batch_norm:
            statistics[name] = observation.batch_norm[name]
        elif mean is not None and variance is not None and (bool(mean.any()) or bool((variance != 1).any())):
            statistics[name] = mean.clone(), variance.clone()
    return statistics


class BatchNormStatistics:
    """weight * sum over layers of ||mean - mean*|| + ||variance - variance*||, for each batch normalization's input
    (Yin et al., 2021, fidelity regularization).

    Mean and biased variance are those of a trial's whole batch, even where the leaked statistics are those of the first
    step of local training. The images are in [0, 1], in whichever space an attack moves.

    Args:
        weight: of the penalty.
        model: as sent. A copy is run.
        statistics: the starred values, for each trial (`known_statistics`).
        training: the client's mode.
        first: factor on the layer that runs first.

    Raises ValueError where trials know different layers.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).eval()
    >>> known = {"1": (torch.zeros(4), torch.ones(4))}
    >>> prior = BatchNormStatistics(0.1, model, [known], training=False)
    >>> prior(torch.rand(1, 2, 3, 4, 4)).shape
    torch.Size([1])
    """

    def __init__(
        self,
        weight: float,
        model: nn.Module,
        statistics: Sequence[Statistics],
        *,
        training: bool,
        first: float = 10.0,
    ) -> None:
        if len({frozenset(each) for each in statistics}) > 1:
            raise ValueError("batch_norm: expected statistics of the same layers in all trials, got different layers")
        self._weight, self._first = weight, first
        self._victim, self._training = victim_of(model, training).requires_grad_(False), training
        like = next(self._victim.parameters())
        self._known = {
            name: [torch.stack([each[name][moment] for each in statistics]).to(like) for moment in (0, 1)]
            for name in statistics[0]
        }

    def __call__(self, images: Tensor, trials: slice = slice(None)) -> Tensor:
        """(R, B, C, H, W) of the chosen trials -> (R,)."""
        known = {name: [moment[trials] for moment in moments] for name, moments in self._known.items()}
        if not self._training:
            return self._penalty(images, known)
        # A victim in training mode normalizes by its whole input, so it gets one trial at a time.
        each = [slice(trial, trial + 1) for trial in range(len(images))]
        return torch.cat(
            [self._penalty(images[one], {name: [m[one] for m in both] for name, both in known.items()}) for one in each]
        )

    def _penalty(self, images: Tensor, known: Mapping[str, Sequence[Tensor]]) -> Tensor:
        with BatchStatistics(self._victim, layers=self._known, trials=len(images), detach=False) as statistics:
            self._victim(images.flatten(0, 1))
        values = images.new_zeros(len(images))
        for place, (name, moments) in enumerate(statistics.seen.items()):
            factor = self._weight * (self._first if place == 0 else 1)
            for here, there in zip(moments, known[name], strict=True):
                values = values + factor * _length(here - there)
        return values


def _length(values: Tensor) -> Tensor:
    # The derivative of this norm at zero is zero; that of the root of a sum of squares would be NaN.
    length: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return length
