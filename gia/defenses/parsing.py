"""Defenses as text, for command lines: `clip=1.0`, `noise=0.01,kind=laplace` or `package.module:name`."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gia.defenses.perturbation import clip, noise, prune, quantize
from gia.defenses.training import dp_sgd, soteria
from gia.errors import expected_one_of

__all__ = ["DEFENSES", "parse"]

#: Name -> the defense; what a command line calls `name=value` is its first setting.
DEFENSES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {each.__name__: each for each in (clip, dp_sgd, noise, prune, quantize, soteria)}
)

#: Each of them with the settings that it needs.
EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "clip": "clip=1.0",
        "dp_sgd": "dp_sgd=1.0,noise=0.5",
        "noise": "noise=0.01",
        "prune": "prune=0.1",
        "quantize": "quantize=8",
        "soteria": "soteria=0.4",
    }
)


def parse(spec: str) -> Any:
    """The defense that a text describes.

    Args:
        spec: `NAME=VALUE`, where NAME is in `DEFENSES` and VALUE its first setting. Further settings follow by name, as
            in `dp_sgd=1.0,noise=0.5`. An import path `package.module:name` is a defense of your own; a class there is
            called without arguments, and with settings behind it any callable is called with them.

    Returns:
        What `gia.federated.Client(defenses=...)` takes: a callable on an observation, or an object with a method
        `gradient`.

    Raises ValueError for an unknown name, for a module or name that cannot be imported, and for settings that the
    defense does not take; TypeError where the path leads to no defense.

    >>> import gia
    >>> gia.defenses.parse("clip=1.0")
    clip(norm=1.0)
    >>> gia.defenses.parse("noise=0.01, kind=laplace")
    noise(std=0.01, kind='laplace')
    >>> gia.defenses.parse("gia.defenses:prune=0.2")
    prune(keep=0.2)
    >>> gia.defenses.parse("clop=1.0")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: defense: expected one of ['clip', ...], got 'clop'; did you mean 'clip'?
    """
    head, *further = spec.split(",")
    name, given, first = (part.strip() for part in head.partition("="))
    found = _named(name)
    values = [_value(first)] if given else []
    settings: dict[str, Any] = {}
    for each in further:
        key, given, value = (part.strip() for part in each.partition("="))
        if not given or not key.isidentifier():
            raise ValueError(f"defense: expected NAME=VALUE,SETTING=VALUE, got {spec!r}")
        settings[key] = _value(value)
    if values or settings or isinstance(found, type):
        try:
            found = found(*values, **settings)
        except TypeError as error:  # a setting is missing, unknown or no number
            takes = f"{name} takes, as in {EXAMPLES[name]}" if name in EXAMPLES else f"{name} takes ({error})"
            raise ValueError(f"defense: expected settings that {takes}, got {spec!r}") from error
    if not callable(found) and not callable(getattr(found, "gradient", None)):
        raise TypeError(
            f"defense: expected {name} to be callable on an observation or to have a method gradient, "
            f"got {type(found).__name__}"
        )
    return found


def _named(name: str) -> Any:
    if ":" not in name:
        if name not in DEFENSES:
            raise ValueError(expected_one_of("defense", name, list(DEFENSES)))
        return DEFENSES[name]
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"defense: expected package.module:name that can be imported, got {name!r} ({error})") from (
            error
        )


def _value(text: str) -> Any:
    """A number, a bool or another literal of Python; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
