"""Gradient inversion attacks: one function per published algorithm, by name in `ATTACKS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gia.attacks import labels
from gia.attacks.analytics import fish, fishing, linear_layer, robbing_the_fed, trap_weights
from gia.attacks.generation import Inverter, ci_net, ggl, gias, learning_to_invert, train_inverter
from gia.attacks.optimization import dlg, gradinversion, idlg, inverting_gradients
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Attack, Card
from gia.federated import Observation

#: Name -> attack: (model, observation, *, generator, **settings) -> Reconstruction.
ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        ci_net,
        learning_to_invert,
        dlg,
        gias,
        gradinversion,
        idlg,
        inverting_gradients,
        ggl,
        linear_layer,
        robbing_the_fed,
        trap_weights,
        fishing,
    )
}

#: Name -> what the attack is and what it needs.
CARDS: dict[str, Card] = {name: attack.card for name, attack in ATTACKS.items()}


def run_many(
    attack: str | Attack,
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    **settings: Any,
) -> list[Reconstruction]:
    """Run an attack on several observations of one victim at once, as trials of one search.

    Args:
        attack: a name of `ATTACKS` or one of its functions.
        model: the victim as sent to all the clients.
        observations: one per trial, alike in form.
        generators: one per trial.
        settings: the attack's own.

    Returns one reconstruction per observation. Raises ValueError for an unknown name.
    """
    if isinstance(attack, str):
        if attack not in ATTACKS:
            raise ValueError(f"attack: expected one of {sorted(ATTACKS)}, got {attack!r}")
        attack = ATTACKS[attack]
    return attack.many(model, observations, generators=generators, **settings)


__all__ = [
    "ATTACKS",
    "CARDS",
    "Attack",
    "Card",
    "Inverter",
    "Reconstruction",
    "fish",
    "labels",
    "run_many",
    "train_inverter",
]
