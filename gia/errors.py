"""The message of an error about a name that is not known: what is known, what came, and what may have been meant."""

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
