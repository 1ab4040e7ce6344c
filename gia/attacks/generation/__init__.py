"""Generative attacks (GEN-GIA): images come out of an inverter or a decoder, whose latents or weights are searched."""

from gia.attacks.generation.decoder_weights import ci_net
from gia.attacks.generation.gias import gias
from gia.attacks.generation.inverter import Inverter
from gia.attacks.generation.latent import ggl
from gia.attacks.generation.learned_inverter import learning_to_invert, train_inverter

__all__ = ["Inverter", "ci_net", "ggl", "gias", "learning_to_invert", "train_inverter"]
