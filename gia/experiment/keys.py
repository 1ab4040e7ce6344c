"""The fields of nested dataclasses and mappings at dotted keys: how one is found, and how some are changed at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from gia.errors import expected_one_of


def changed(whole: Any, changes: Mapping[tuple[str, ...], Any], where: str) -> Any:
    """`whole`, a dataclass or a mapping, with the values at the paths put in."""
    new: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in changes):
        below = {path[1:]: value for path, value in changes.items() if path[0] == name}
        value = below.pop((), held(whole, name, where or "changes"))
        key = f"{where}.{name}" if where else name
        if below and value is None:
            raise ValueError(f"changes: expected {key} to be set before its fields, got None for {key}")
        new[name] = changed(value, below, key) if below else value
    return {**whole, **new} if isinstance(whole, Mapping) else replace(whole, **new)


def held(whole: Any, name: str, where: str) -> Any:
    """What a dataclass or a mapping holds under a name; None for what a mapping lacks."""
    if isinstance(whole, Mapping):
        return whole.get(name)
    if not is_dataclass(whole):
        raise ValueError(f"changes: expected {where} to have fields, got {whole!r} in the place of {name!r}")
    if name not in _names(whole):
        raise ValueError(expected_one_of(where, name, _names(whole)))
    return getattr(whole, name)


def _names(part: Any) -> list[str]:
    return [f.name for f in fields(part)]
