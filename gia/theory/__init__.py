"""The paper's theory in closed form: Theorem 1 and its correction, the linear layer, Propositions 1 and 2."""

from gia.theory.bounds import corrected_bound, theorem1_bound
from gia.theory.linear_layer import conditioning, signals, weighted_average
from gia.theory.proposition1 import as_rows, cosines, neighbours, sample_gradients
from gia.theory.proposition2 import expected_exact_recoveries

__all__ = [
    "as_rows",
    "conditioning",
    "corrected_bound",
    "cosines",
    "expected_exact_recoveries",
    "neighbours",
    "sample_gradients",
    "signals",
    "theorem1_bound",
    "weighted_average",
]
