"""The paper's theory in closed form: Theorem 1 and its correction, the linear layer, Proposition 2."""

from gia.theory.bounds import corrected_bound, theorem1_bound
from gia.theory.linear_layer import conditioning, signals, weighted_average
from gia.theory.proposition2 import expected_exact_recoveries

__all__ = [
    "conditioning",
    "corrected_bound",
    "expected_exact_recoveries",
    "signals",
    "theorem1_bound",
    "weighted_average",
]
