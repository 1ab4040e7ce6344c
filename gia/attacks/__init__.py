"""Gradient inversion attacks: one function per published algorithm.

Each attack is a function (model, observation, *, generator, **settings) -> Reconstruction. `ATTACKS` holds them by
name, `CARDS` says what each of them needs, `run_many` runs one on several observations, and `data_term` gives what a
search would minimize, without priors, at given images. Under `checkpointing` a search that was killed goes on from its
last stored state.
"""

from gia.attacks import labels
from gia.attacks.analytics import (
    fish,
    fishing,
    linear_layer,
    patch_embedding,
    patch_span,
    robbing_the_fed,
    trap_weights,
)
from gia.attacks.catalog import ATTACKS, CARDS, card_of, data_term, data_terms, find, registered, run_many
from gia.attacks.generation import Inverter, ci_net, ggl, gias, learning_to_invert, train_inverter
from gia.attacks.optimization import dlg, gradinversion, idlg, inverting_gradients
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Attack, Card
from gia.numerics import checkpointing

__all__ = [
    "ATTACKS",
    "CARDS",
    "Attack",
    "Card",
    "Inverter",
    "NothingFound",
    "Reconstruction",
    "card_of",
    "checkpointing",
    "ci_net",
    "data_term",
    "data_terms",
    "dlg",
    "find",
    "fish",
    "fishing",
    "ggl",
    "gias",
    "gradinversion",
    "idlg",
    "inverting_gradients",
    "labels",
    "learning_to_invert",
    "linear_layer",
    "patch_embedding",
    "patch_span",
    "registered",
    "robbing_the_fed",
    "run_many",
    "train_inverter",
    "trap_weights",
]
