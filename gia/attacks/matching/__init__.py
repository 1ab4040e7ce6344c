"""Gradient matching: the problem, its engines, update rules and the search loop.

Every attack that compares gradients uses this package. A new attack chooses variables, an objective, priors, an update
rule, a schedule and a constraint; `minimize` runs the search for all trials at once.
"""

from gia.attacks.matching.evolution import CMA
from gia.attacks.matching.loop import LEAST, Found, Interrupted, Progress, minimize
from gia.attacks.matching.problem import Evaluation, Matching, Mirror
from gia.attacks.matching.term import matching_terms
from gia.attacks.matching.updates import LBFGS, Adam, Evaluate, Langevin, Point, Resumable, UpdateRule

__all__ = [
    "CMA",
    "LBFGS",
    "LEAST",
    "Adam",
    "Evaluate",
    "Evaluation",
    "Found",
    "Interrupted",
    "Langevin",
    "Matching",
    "Mirror",
    "Point",
    "Progress",
    "Resumable",
    "UpdateRule",
    "matching_terms",
    "minimize",
]
