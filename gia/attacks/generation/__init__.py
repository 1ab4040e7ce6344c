"""Generative attacks (GEN-GIA): images come out of a decoder or an inverter, not out of a search over pixels."""

from gia.attacks.generation.decoder_weights import ci_net
from gia.attacks.generation.gias import gias

__all__ = ["ci_net", "gias"]
