"""What the user puts in the place of a protocol's own attack, and into its clients."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gia.harness.plugin.laboratory import Laboratory, Substitution


def substitution(laboratory: Laboratory, option: Any) -> Substitution:
    """The user's attack in the place of a protocol's own, and the user's defenses in its clients.

    Args:
        option: with the attack, its settings and the defenses, of which at least one is given.

    Raises:
        UsageError: for an attack, settings or a defense that the laboratory does not take.
    """
    changes = [] if option.gia_attack is None else [_attacked(laboratory, option)]
    if option.gia_defense:
        try:
            changes.append(laboratory.defended(option.gia_defense))
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"--gia-defense: {error}") from error

    def substitute(level: Any) -> Any:
        for change in changes:
            level = level if isinstance(level, str) else change(level)
        return level

    return substitute


def _attacked(laboratory: Laboratory, option: Any) -> Substitution:
    try:
        settings = json.loads(option.gia_attack_settings or "{}")
    except ValueError as error:
        raise pytest.UsageError(
            f"--gia-attack-settings: expected JSON, got {option.gia_attack_settings}: {error}"
        ) from error
    if not isinstance(settings, dict):
        raise pytest.UsageError(f"--gia-attack-settings: expected an object, got {option.gia_attack_settings}")
    try:
        return laboratory.substitution(option.gia_attack, settings)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"--gia-attack: {error}") from error
