"""opacus: the observation of a differentially private step.

optimizer.step()
seen = observation(module, image_shape=(3, 32, 32), batch_size=16)
optimizer.zero_grad()
"""

from __future__ import annotations

from torch import Tensor, nn

from gia.federated import Observation

__all__ = ["observation"]


def observation(
    module: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    batch_size: int,
    training: bool = False,
    labels: Tensor | None = None,
) -> Observation:
    """What a server sees of a client whose step opacus clipped and noised: the gradient that moved the weights.

    Call it after `DPOptimizer.step()` and before `zero_grad()`. Attack it with the model as it was before the step. A
    client that sends its weights instead shares weights before minus weights after: `Observation.from_tensors`.

    Args:
        module: a `GradSampleModule`, as `PrivacyEngine.make_private` returns it.
        batch_size: number of images in the step. With Poisson sampling opacus divides by the expected number instead.
        image_shape, training, labels: the attributes of these names of `gia.Observation`.

    Returns:
        The observation; its names are those of the model inside `module`.

    Raises:
        TypeError: another module.
        ValueError: no step was taken, or its gradients are already gone, or only a part of a larger batch was seen;
            before the step the gradients have neither clipping nor noise.

    >>> import torch
    >>> from gia.integrations.opacus import observation
    >>> observation(torch.nn.Linear(4, 2), image_shape=(1, 2, 2), batch_size=1)
    Traceback (most recent call last):
    TypeError: module: expected a GradSampleModule of opacus, got Linear
    """
    model = getattr(module, "_module", None)
    if not isinstance(model, nn.Module):
        raise TypeError(f"module: expected a GradSampleModule of opacus, got {type(module).__name__}")
    gradients = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # Opacus marks the clipped sum once it has added noise. Before, `grad` is what an ordinary client shares.
        summed = getattr(parameter, "summed_grad", None)
        if parameter.grad is None or not getattr(summed, "_processed", False):
            raise ValueError(f"module: expected a step of DPOptimizer before zero_grad(), got none for {name!r}")
        gradients[name] = parameter.grad
    return Observation.from_tensors(
        model, gradients, image_shape=image_shape, batch_size=batch_size, training=training, labels=labels
    )
