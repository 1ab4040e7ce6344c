"""Federated learning: clients and what they share, malicious servers, what a client checks, and training of victims."""

from gia.federated import server
from gia.federated.client import Client, RefusedModel, share_gradient, share_update
from gia.federated.layers import set_mode
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
