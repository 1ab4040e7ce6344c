"""What a part of a protocol holds: as plain JSON, which gives its digest, and as the callables in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def plain(value: Any, where: str) -> Any:
    """`value` as plain JSON: a callable becomes "module:name", a dataclass its class and fields, else TypeError."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [plain(inner, where) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **plain(own, where)}
    if callable(value) and "<" not in (name := getattr(value, "__qualname__", "<")):
        return f"{value.__module__}:{name}"
    raise TypeError(f"{where}: expected numbers, strings, lists, mappings or a module-level function, got {value!r}")


def described(part: Any, where: str, parts: tuple[type, ...]) -> dict[str, Any]:
    """Every field of a part that is not as it is by default, as plain JSON.

    Args:
        where: names the part in an error.
        parts: classes whose instances are described by such fields; other dataclasses by their class and all fields.
    """
    found: dict[str, Any] = {}
    for field in fields(part):
        value, place = getattr(part, field.name), f"{where}.{field.name}"
        if not _is_default(part, field):
            found[field.name] = described(value, place, parts) if isinstance(value, parts) else plain(value, place)
    return found


def _is_default(part: Any, field: Any) -> bool:
    value = getattr(part, field.name)
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and type(value) is type(field.default) and bool(value == field.default)


def callables_in(value: Any) -> Iterator[Callable[..., object]]:
    """The callables that a value holds, at any depth, and what a defense of the training does in each step."""
    if callable(value):
        yield value
    elif callable(gradient := getattr(value, "gradient", None)):  # a step defense
        yield gradient
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from callables_in(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from callables_in(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from callables_in(getattr(value, field.name))
