"""Victims by name, activation and width, standardization as their first layer, trained networks, and decoders."""

from gia.models.building import NAMES, build
from gia.models.decoders import train_decoder
from gia.models.overparameterized import OverParameterized
from gia.models.pretrained import PRETRAINED, pretrained
from gia.models.standardization import standardization, standardize

__all__ = [
    "NAMES",
    "PRETRAINED",
    "OverParameterized",
    "build",
    "pretrained",
    "standardization",
    "standardize",
    "train_decoder",
]
