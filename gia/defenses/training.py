"""Defenses inside local training: they take the place of the gradient of each step, since they need private images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.defenses.perturbation import checked_generator
from gia.errors import not_installed
from gia.federated.layers import classifier
from gia.federated.losses import Loss

__all__ = ["dp_sgd", "soteria"]


@dataclass(frozen=True)
class dp_sgd:
    """Differentially private SGD: clipped gradients of single images, and noise (Abadi et al., CCS 2016, Alg. 1).

    The gradient of a step is (sum_i g_i min(1, clip / ||g_i||) + clip * noise * N(0, 1)) / B.

    Args:
        clip: the largest 2-norm of one image's gradient over all tensors; above 0.
        noise: the noise multiplier: standard deviation of the noise on the sum, divided by `clip`; 0 or more.

    Raises ValueError for a value out of range; when called, for batch normalization in train mode, which mixes the
    images of a batch, and without a generator where there is noise.

    >>> import torch, gia
    >>> model, step = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), gia.defenses.dp_sgd(1.0, 0.0)
    >>> gradient = step.gradient(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
    >>> bool(sum(g.square().sum() for g in gradient.values()).sqrt() <= 1)
    True
    """

    clip: float
    noise: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip: expected a number above 0, got {self.clip!r}")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise: expected a number from 0 on, got {self.noise!r}")

    def gradient(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        loss: Loss = cross_entropy,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Name of each parameter with `requires_grad` -> its gradient, for images (N, C, H, W) and labels (N,)."""
        mixing = [name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if mixing and any(model.get_submodule(name).training for name in mixing):
            raise ValueError(f"model: expected batch normalization in eval mode, got {mixing[0]!r} in train mode")
        each = per_example_gradients(model, images, labels, loss=loss)
        squares = sum(
            (g.double().flatten(1).square().sum(1) for g in each.values()),
            start=torch.zeros((), dtype=torch.float64, device=images.device),
        )
        factors = (self.clip / squares.to(images.device).sqrt()).clamp(max=1.0)
        found = {}
        for name, gradients in each.items():
            total = torch.einsum("n,n...->...", factors.to(gradients), gradients)
            if self.noise:
                drawn = torch.randn(total.shape, generator=checked_generator(generator), dtype=torch.float64)
                total = total + self.clip * self.noise * drawn.to(total)
            found[name] = total / len(images)
        return found

    def epsilon(self, *, steps: int, sampling_rate: float, delta: float) -> float:
        """The privacy loss epsilon after `steps` steps, by the Renyi accountant of the package opacus.

        Args:
            steps: steps of training, in all rounds.
            sampling_rate: the share of the client's images in each step, in (0, 1].
            delta: the probability with which epsilon may be exceeded, such as 1e-5.

        Raises ModuleNotFoundError without opacus. Without noise the loss is infinite.
        """
        if self.noise == 0:
            return math.inf
        try:
            from opacus.accountants import RDPAccountant
        except ImportError as error:
            raise not_installed("opacus", "the privacy accountant of dp_sgd", "opacus>=1.5") from error
        accountant = RDPAccountant()
        accountant.history = [(self.noise, sampling_rate, steps)]
        return float(accountant.get_epsilon(delta=delta))


@dataclass(frozen=True)
class soteria:
    """A defended representation: features that give most of the image away are left out (Sun et al., CVPR 2021).

    Features of the classifier's input r(x) are ranked by |r_i| / ||dr_i/dx||, averaged over the batch: large where a
    small change of the feature would move the image most (Sec. 4.2). The classifier's gradient is zero in the columns
    of the first ones, as if these features had been zero. All other gradients are shared as they are.

    Args:
        share: of the features that are left out, above 0 and below 1; the paper's experiments use .4 to .8.

    Raises ValueError for a share out of range; when called, for a model without a linear classifier.

    >>> import torch, gia
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 10), torch.nn.Tanh(), torch.nn.Linear(10, 2))
    >>> gradient = gia.defenses.soteria(share=0.4).gradient(model, torch.rand(1, 1, 2, 2), torch.tensor([0]))
    >>> int((gradient["3.weight"] == 0).all(0).sum())
    4
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected a number above 0 and below 1, got {self.share!r}")

    @torch.enable_grad()
    def gradient(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        loss: Loss = cross_entropy,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Name of each parameter with `requires_grad` -> its gradient, for images (N, C, H, W) and labels (N,)."""
        name, seen = classifier(model, images, bias=False), []
        layer = model.get_submodule(name)
        images = images.detach().requires_grad_()
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = model(images)
        finally:
            hook.remove()
        shared = {key: p for key, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(
            loss(logits, labels), list(shared.values()), allow_unused=True, materialize_grads=True, retain_graph=True
        )
        found = dict(zip(shared, gradients, strict=True))
        if f"{name}.weight" in found:
            left_out = self._ranked(seen[-1], images)[: round(self.share * seen[-1].shape[1])]
            found[f"{name}.weight"] = found[f"{name}.weight"].index_fill(1, left_out, 0.0)
        return found

    @staticmethod
    def _ranked(features: Tensor, images: Tensor) -> Tensor:
        """Indices of the features (N, d), the most revealing first."""
        slopes = [
            torch.autograd.grad(feature.sum(), images, retain_graph=True)[0].flatten(1).norm(dim=1)
            for feature in features.unbind(1)
        ]
        # A feature at zero is left out without effect, whatever its slope.
        scores = torch.where(features == 0, 0.0, features.abs() / torch.stack(slopes, 1)).detach()
        return scores.mean(0).argsort(descending=True, stable=True)


def per_example_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss = cross_entropy
) -> dict[str, Tensor]:
    """The gradient of every image alone, (N, ...) for each parameter with `requires_grad`.

    By `torch.func`, which needs no hooks on layers, so that residual sums in place are right too.

    >>> import torch
    >>> from gia.defenses.training import per_example_gradients
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> per_example_gradients(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))["1.weight"].shape
    torch.Size([3, 2, 4])
    """
    shared = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed: Mapping[str, Tensor] = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = dict(model.named_buffers())

    def alone(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, {**weights, **fixed, **buffers}, (image[None],))
        return loss(logits, label[None])

    found: dict[str, Tensor] = torch.func.vmap(torch.func.grad(alone), in_dims=(None, 0, 0))(shared, images, labels)
    return found
