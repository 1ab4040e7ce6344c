"""What clients put in the place of their gradient, to see what an attack takes from it."""

from __future__ import annotations

from dataclasses import replace

import torch

from gia.federated import Observation


def noise_in_place(observation: Observation, *, generator: torch.Generator) -> Observation:
    """Noise with the norm of the gradient, parameter by parameter, and nothing else of it."""
    noise = {name: torch.randn(g.shape, generator=generator).to(g) for name, g in observation.gradients.items()}
    scaled = {name: n * observation.gradients[name].norm() / n.norm() for name, n in noise.items()}
    return replace(observation, gradients=scaled)
