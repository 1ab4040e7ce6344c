"""Generative attacks (GEN-GIA): images come out of a decoder, whose latents or weights are searched, or an inverter."""

from gia.attacks.generation.decoder_weights import ci_net
from gia.attacks.generation.gias import gias
from gia.attacks.generation.latent import ggl

__all__ = ["ci_net", "ggl", "gias"]
