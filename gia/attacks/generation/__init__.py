"""Generation-based attacks (GEN-GIA): what is searched or trained is a network that makes the images."""

from gia.attacks.generation.latent import ggl

__all__ = ["ggl"]
