"""Analytics-based attacks (ANA-GIA): inputs in closed form."""

from gia.attacks.analytics.linear_layer import linear_layer

__all__ = ["linear_layer"]
