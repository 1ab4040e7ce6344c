"""Defenses: what a client does to what it shares, before anybody sees it.

Those in `gia.defenses.perturbation` change a finished answer and are called as defense(observation, generator=...).
Those in `gia.defenses.training` take the place of the client's gradient in each step, since they need the private
images. `Client(defenses=...)` takes both, in the order in which they apply. They are values: frozen, with equality and
a short `repr`. Their names are in lower case because they are used as functions, as `functools.partial` is.
"""

from __future__ import annotations

from gia.defenses.aggregation import secure_aggregation
from gia.defenses.parsing import DEFENSES, parse
from gia.defenses.perturbation import clip, noise, prune, quantize
from gia.defenses.training import dp_sgd, soteria

__all__ = ["DEFENSES", "clip", "dp_sgd", "noise", "parse", "prune", "quantize", "secure_aggregation", "soteria"]
