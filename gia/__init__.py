"""gia measures what a shared gradient gives away: gradient inversion attacks, and a test harness for claims about them.

    private batch -> Client -> Observation -> attack -> Reconstruction -> score -> blocks -> verdict -> report

Sub-packages load when they are first used, so `import gia` is quick and does not load torch. The test harness,
`gia.harness`, needs pytest and Hypothesis, and only an explicit import loads it.

>>> import gia
>>> round(gia.theory.expected_exact_recoveries(64, bins=1000), 1)  # the theory loads here
56.6
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gia import attacks, audit, data, defenses, experiment, federated, metrics, models, numerics, pictures, theory
    from gia.attacks import Reconstruction
    from gia.federated import LocalTraining, Observation, ValidationReport, share_gradient, share_update, validate_model

    __version__: str

__all__ = [
    "LocalTraining",
    "Observation",
    "Reconstruction",
    "ValidationReport",
    "attacks",
    "audit",
    "data",
    "defenses",
    "experiment",
    "federated",
    "metrics",
    "models",
    "numerics",
    "pictures",
    "share_gradient",
    "share_update",
    "theory",
    "validate_model",
]

#: Public name -> the module that it comes from; the other names of `__all__` are modules themselves.
_HOMES = {
    "LocalTraining": "gia.federated",
    "Observation": "gia.federated",
    "Reconstruction": "gia.attacks",
    "ValidationReport": "gia.federated",
    "share_gradient": "gia.federated",
    "share_update": "gia.federated",
    "validate_model": "gia.federated",
}


def _load(name: str) -> Any:
    """The public name `name`, loaded at its first use."""
    value: Any
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"gia.{name}")
    elif name == "__version__":
        value = _version()
    else:
        raise _unknown(name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would accept every misspelt name
    __getattr__ = _load  # PEP 562


def __dir__() -> list[str]:
    """List the public names, also those that are not loaded yet."""
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("gia")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


def _unknown(name: str) -> AttributeError:
    from difflib import get_close_matches

    near = get_close_matches(name, [*__all__, "__version__"], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    # Without `obj`, Python itself would append its own suggestion to the traceback.
    return AttributeError(f"module 'gia' has no attribute {name!r}{hint}", name=name, obj=None)
