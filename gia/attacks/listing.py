"""`python -m gia attacks`: each attack with its type, what it needs and its publication."""

from __future__ import annotations

import argparse

from gia import attacks
from gia.attacks.trials import TYPES

_COLUMNS = "{:<20} {:<32} {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command takes no options."""


def run(options: argparse.Namespace) -> int:
    """Print the listing and return 0."""
    print(listing())
    return 0


def listing() -> str:
    """All attacks as text, two lines each.

    The first line has the name, the attack type in the paper's words with its short id, and what the attack needs
    beyond gradients and weights (`Card.needs`). The second line has the publication. Attacks that installed packages
    register follow gia's own, with their import path. They are not imported.

    >>> from gia.attacks.listing import listing
    >>> print(listing().splitlines()[0])
    attack               type                             needs beyond gradients and weights
    """
    lines = [_COLUMNS.format("attack", "type", "needs beyond gradients and weights")]
    for name, card in attacks.CARDS.items():
        id, type_ = TYPES[card.leaf]
        needs = ", ".join(sorted(card.needs)) or "nothing"
        lines += [_COLUMNS.format(name, f"{type_} ({id})", needs), f"  {card.source}"]
    for name, path in attacks.registered().items():
        lines += [_COLUMNS.format(name, "registered by an installed package", "").rstrip(), f"  {path}"]
    return "\n".join(lines)
