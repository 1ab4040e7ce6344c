"""Federated learning: clients and what they share, malicious servers, what a client checks, and training of victims."""

from gia.federated import server
from gia.federated.averaging import Averaging, federated_averaging, split_by_label
from gia.federated.client import Client, RefusedModel
from gia.federated.layers import set_mode
from gia.federated.observation import LocalTraining, Observation
from gia.federated.sharing import share_gradient, share_update
from gia.federated.training import Fit, accuracy, fit
from gia.federated.validation import Finding, LastAccepted, ValidationReport, fit_limits, validate_model

__all__ = [
    "Averaging",
    "Client",
    "Finding",
    "Fit",
    "LastAccepted",
    "LocalTraining",
    "Observation",
    "RefusedModel",
    "ValidationReport",
    "accuracy",
    "federated_averaging",
    "fit",
    "fit_limits",
    "server",
    "set_mode",
    "share_gradient",
    "share_update",
    "split_by_label",
    "validate_model",
]
