"""Generative attacks (GEN-GIA): images come out of a decoder, whose latents or weights are searched, or an inverter."""

from gia.attacks.generation.latent import ggl

__all__ = ["ggl"]
