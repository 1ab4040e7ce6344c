"""The federated side: clients, what they share, and the training of victims."""

from gia.federated import server
from gia.federated.client import Client, RefusedModel, set_mode, share_gradient, share_update
from gia.federated.observation import LocalTraining, Observation
from gia.federated.training import Fit, accuracy, fit

__all__ = [
    "Client",
    "Fit",
    "LocalTraining",
    "Observation",
    "RefusedModel",
    "accuracy",
    "fit",
    "server",
    "set_mode",
    "share_gradient",
    "share_update",
]
