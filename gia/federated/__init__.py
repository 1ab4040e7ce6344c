"""The federated side: clients, what they share, and the training of victims."""

from gia.federated import server
from gia.federated.client import Client, RefusedModel, set_mode, share_gradient, share_update
from gia.federated.observation import LocalTraining, Observation
from gia.federated.training import Fit, accuracy, fit
from gia.federated.validation import Finding, LastAccepted, ValidationReport, fit_limits, validate_model

__all__ = [
    "Client",
    "Finding",
    "Fit",
    "LastAccepted",
    "LocalTraining",
    "Observation",
    "RefusedModel",
    "ValidationReport",
    "accuracy",
    "fit",
    "fit_limits",
    "server",
    "set_mode",
    "share_gradient",
    "share_update",
    "validate_model",
]
