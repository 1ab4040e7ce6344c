"""The federated side: clients, what they share, and the training of victims."""

from gia.federated.client import Client, RefusedModel, set_mode, share_gradient, share_update
from gia.federated.observation import LocalTraining, Observation

__all__ = ["Client", "LocalTraining", "Observation", "RefusedModel", "set_mode", "share_gradient", "share_update"]
