"""What a set-up of federated learning leaks: the user's own model, local training and defenses under attack.

The names load when they are first used, so that the pytest plugin of this package costs nothing until a test asks.

    >>> import gia, torch
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=10, image_size=8, channels=1, generator=seed)
    >>> report = gia.audit.audit(model, data="digits", image_size=8, batch_size=1, against="ana_linear")
    >>> report.leak["ana_linear"] > 20  # the first layer sees the image, so it comes back whole
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gia.audit.auditing import audit
    from gia.audit.kinds import KINDS
    from gia.audit.page import to_html
    from gia.audit.report import AuditReport, Leak, TooMuchLeaks, Validated, WhatIf

__all__ = ["KINDS", "AuditReport", "Leak", "TooMuchLeaks", "Validated", "WhatIf", "audit", "to_html"]


def _load(name: str) -> Any:
    """The public name `name`, loaded at its first use."""
    if name not in __all__:
        raise AttributeError(f"module 'gia.audit' has no attribute {name!r}")
    home = {"audit": "auditing", "KINDS": "kinds", "to_html": "page"}.get(name, "report")
    value = getattr(importlib.import_module(f"gia.audit.{home}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would accept every misspelt name
    __getattr__ = _load  # PEP 562


def __dir__() -> list[str]:
    """List the public names, also those that are not loaded yet."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
