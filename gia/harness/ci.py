"""Whether this run belongs to continuous integration."""

from __future__ import annotations

import os

_NO = {"", "0", "false", "no", "off"}


def under_ci() -> bool:
    """Whether the environment variable CI is set to something that does not mean no.

    >>> import os
    >>> before = os.environ.pop("CI", None)
    >>> os.environ["CI"] = "false"
    >>> under_ci()
    False
    >>> del os.environ["CI"]
    >>> if before is not None:
    ...     os.environ["CI"] = before
    """
    return os.environ.get("CI", "").strip().lower() not in _NO
