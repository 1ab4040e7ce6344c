"""The theory of arXiv 2503.11514 in closed form: Theorem 1 and its correction, Propositions 1 and 2, linear layers."""

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
