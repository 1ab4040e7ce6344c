"""Victims by name, low-rank adapters, standardization as the first layer, trained networks, and decoders."""

from gia.models.adapters import lora
from gia.models.building import NAMES, build
from gia.models.decoders import train_decoder
from gia.models.overparameterized import OverParameterized
from gia.models.pretrained import PRETRAINED, add_classifier, pretrained
from gia.models.standardization import standardization, standardize

__all__ = [
    "NAMES",
    "PRETRAINED",
    "OverParameterized",
    "add_classifier",
    "build",
    "lora",
    "pretrained",
    "standardization",
    "standardize",
    "train_decoder",
]
