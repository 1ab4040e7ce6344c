"""The messages of errors that several modules raise: an unknown name, and an optional package that is missing."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def expected_one_of(argument: str, got: object, known: Collection[str]) -> str:
    """`argument: expected one of [...], got 'x'; did you mean 'y'?`, the form of every message about an unknown name.

    Args:
        argument: the name of the argument.
        got: the value that came.
        known: the names that would have been right, listed in their order.

    >>> expected_one_of("attack", "dgl", ["dlg", "idlg"])
    "attack: expected one of ['dlg', 'idlg'], got 'dgl'; did you mean 'dlg'?"
    """
    near = difflib.get_close_matches(str(got), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{argument}: expected one of {list(known)}, got {got!r}{hint}"


def not_installed(package: str, purpose: str, requirement: str) -> ModuleNotFoundError:
    """The error about an optional package that is missing, with the command that installs it.

    Args:
        package: the name under which Python imports it.
        purpose: what it is needed for.
        requirement: what pip installs, with its version, as the extras in pyproject.toml have it.

    >>> print(not_installed("cma", "the CMA-ES search of ggl", "cma>=4.0"))
    cma: expected to be installed for the CMA-ES search of ggl; python -m pip install "cma>=4.0"
    """
    # Not the extra of gia: by that name the registry has another project.
    command = f'python -m pip install "{requirement}"'
    return ModuleNotFoundError(f"{package}: expected to be installed for {purpose}; {command}", name=package)
