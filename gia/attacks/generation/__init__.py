"""Generative attacks (GEN-GIA): images come out of a decoder, whose latents or weights are searched, or of an inverter."""
