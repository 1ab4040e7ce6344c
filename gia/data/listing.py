"""`python -m gia data`: each data set and weight file with its state, its licence and the command to get it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from gia.data import assets
from gia.data.full import FULL

_COLUMNS = "{:<20} {:<8} {:<17} {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option `--data ROOT`."""
    parser.add_argument("--data", metavar="ROOT", type=Path, help="folder of your own copies of the full data sets")


def run(options: argparse.Namespace) -> int:
    """Print the listing; return 0 if every asset of an installed package is there and intact, else 1."""
    found = states(options.data)
    print(listing(found, details=True))
    return 0 if all(found[name] == "there" for name in assets.ASSETS) else 1


def states(root: Path | None) -> dict[str, str]:
    """Name -> state of each data set and weight file.

    Args:
        root: folder of the full data sets; None if there is none.

    Returns "there" (all files have the expected digest), "missing" or "changed" for the assets of installed packages;
    "there, unchecked", "missing" or "needs --data" for the full data sets.

    >>> from gia.data.listing import states
    >>> states(None)["celeba"]
    'needs --data'
    """
    return {
        **{name: _state(name) for name in assets.ASSETS},
        **{name: _folder_state(root, spec.folder) for name, spec in FULL.items()},
    }


def listing(found: Mapping[str, str], *, details: bool) -> str:
    """The data sets and weights as text: name, kind, state and title in one line, the rest in lines below it.

    Args:
        found: name -> state, as `states` returns it.
        details: whether to show the licence and the command for every entry. Otherwise the command is shown for those
            that are not there.

    >>> from gia.data.listing import listing, states
    >>> listing(states(None), details=False).splitlines()[0]
    'name                 kind     state             what'
    """
    lines = [_COLUMNS.format("name", "kind", "state", "what")]
    for name, state in found.items():
        spec = assets.ASSETS.get(name) or FULL[name]
        kind = spec.kind if isinstance(spec, assets.Asset) else "images"
        command = spec.command
        if state == "changed":
            command = command.replace(" install ", " install --force-reinstall ")
        lines.append(_COLUMNS.format(name, kind, state, spec.title))
        if details:
            lines.append(f"  licence: {spec.licence}")
        if details or not state.startswith("there"):
            lines.append(f"  to get it: {command}")
    return "\n".join(lines)


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
