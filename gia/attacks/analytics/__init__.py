"""Analytics-based attacks (ANA-GIA): inputs in closed form, or an image that a malicious server isolates."""

from gia.attacks.analytics.fishing import fish, fishing
from gia.attacks.analytics.linear_layer import linear_layer
from gia.attacks.analytics.patch_embedding import patch_embedding
from gia.attacks.analytics.robbing_the_fed import robbing_the_fed
from gia.attacks.analytics.tokens import patch_span
from gia.attacks.analytics.trap_weights import trap_weights

__all__ = ["fish", "fishing", "linear_layer", "patch_embedding", "patch_span", "robbing_the_fed", "trap_weights"]
