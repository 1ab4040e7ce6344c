"""Malicious servers: pure functions from the model to the one that is sent in its place."""

from gia.federated.server.fishing import classifier, fish_class, fish_feature
from gia.federated.server.imprint import Empirical, Gaussian, Imprint, Laplace, imprint, probed
from gia.federated.server.traps import trap_weights

__all__ = [
    "Empirical",
    "Gaussian",
    "Imprint",
    "Laplace",
    "classifier",
    "fish_class",
    "fish_feature",
    "imprint",
    "probed",
    "trap_weights",
]
