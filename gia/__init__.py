"""gia measures what a gradient gives away: gradient inversion in federated learning, and a harness for claims about it.

    private batch -> Client -> Observation -> attack -> Reconstruction -> score -> blocks -> verdict -> report

`gia.harness`, which needs pytest and hypothesis, is imported only on demand.
"""

from gia import attacks, data, federated, metrics, models, numerics, theory
from gia.attacks import Reconstruction
from gia.federated import LocalTraining, Observation, ValidationReport, share_gradient, share_update, validate_model

__all__ = [
    "LocalTraining",
    "Observation",
    "Reconstruction",
    "ValidationReport",
    "attacks",
    "data",
    "federated",
    "metrics",
    "models",
    "numerics",
    "share_gradient",
    "share_update",
    "theory",
    "validate_model",
]
