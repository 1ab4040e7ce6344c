"""`python -m gia.data`: a table of all data sets and weight files, with the command that installs each."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from gia.data import assets
from gia.data.full import FULL


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of data sets and weight files.

    Args:
        arguments: the command line, by default that of the process.

    Returns:
        The exit status: 0 if every asset from PyPI is installed and unchanged, else 1.

    >>> import gia.data.__main__ as command
    >>> status = command.main([])  # doctest: +ELLIPSIS
    name ... kind ... state ... what ... licence ... how to install it
    ...
    >>> status
    0
    """
    parser = argparse.ArgumentParser(prog="python -m gia.data", description=__doc__)
    parser.add_argument("--data", metavar="ROOT", type=Path, help="folder that holds your copies of the full data sets")
    root = parser.parse_args(arguments).data
    states = {name: _state(name) for name in assets.ASSETS}
    rows = [(a.name, a.kind, states[a.name], a.title, a.licence, a.command) for a in assets.ASSETS.values()]
    for name, spec in FULL.items():
        rows.append((name, "images", _folder_state(root, spec.folder), spec.title, spec.licence, spec.command))
    print(_table([("name", "kind", "state", "what", "licence", "how to install it"), *rows]))
    return 0 if set(states.values()) == {"there"} else 1


def _state(name: str) -> str:
    try:
        assets.files(name)
    except FileNotFoundError:
        return "missing"
    except assets.AssetError:
        return "changed"
    return "there"


def _folder_state(root: Path | None, folder: str) -> str:
    if root is None:
        return "needs --data"
    return "there, unchecked" if (root.expanduser() / folder).is_dir() else "missing"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
