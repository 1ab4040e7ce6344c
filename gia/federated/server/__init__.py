"""Malicious servers: functions that take a model and return the one that the server sends in its place."""

from gia.federated.layers import classifier
from gia.federated.server.fishing import fish_class, fish_feature
from gia.federated.server.flattened import flatten_blocks
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
    "flatten_blocks",
    "imprint",
    "probed",
    "trap_weights",
]
